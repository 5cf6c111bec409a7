#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>

#include "base/half.h"
#include "base/thread_pool.h"
#include "weights/quant_weight.h"

namespace awq {
namespace {

// The worked example of docs/formats.md, section a: q[n,k] = (n + 3k) mod 16, z[n] = (5 + n) mod 16,
// s[n] = 2^-(4 + n mod 3).
constexpr int64_t kN = 16, kK = 8;
const std::vector<uint32_t> kQweight = {
    0x75316420, 0xFDB9ECA8, 0xA8649753, 0x20EC1FDB, 0xDB97CA86, 0x531F420E, 0x0ECAFDB9, 0x86427531,
    0x31FD20EC, 0xB975A864, 0x6420531F, 0xECA8DB97, 0x97538642, 0x1FDB0ECA, 0xCA86B975, 0x420E31FD};
const std::vector<uint32_t> kQzeros = {0xCA86B975, 0x420E31FD};
const std::vector<uint16_t> kScales = {0x2C00, 0x2800, 0x2400, 0x2C00, 0x2800, 0x2400, 0x2C00, 0x2800,
                                       0x2400, 0x2C00, 0x2800, 0x2400, 0x2C00, 0x2800, 0x2400, 0x2C00};

QuantWeight worked_example() {
  QuantWeight w;
  w.scheme = {.bits = 4, .group = 8};
  w.rows = kN;
  w.cols = kK;
  for (int n = 0; n < kN; ++n) {
    for (int k = 0; k < kK; ++k) w.codes.push_back((n + 3 * k) % 16);
    w.zeros.push_back((5 + n) % 16);
    w.scales.push_back(std::ldexp(1.0f, -(4 + n % 3)));
  }
  return w;
}

template <class T>
Tensor tensor_of(DType dtype, Shape shape, const std::vector<T>& values) {
  Tensor t(dtype, std::move(shape));
  std::memcpy(t.mutable_bytes(), values.data(), values.size() * sizeof(T));
  return t;
}

template <class T>
std::vector<T> values_of(const Tensor& t) {
  std::vector<T> values(static_cast<size_t>(t.nbytes()) / sizeof(T));
  std::memcpy(values.data(), t.bytes(), static_cast<size_t>(t.nbytes()));
  return values;
}

QuantWeight random_weight(std::mt19937& rng, int64_t rows, int64_t cols, int group, ZeroKind zero,
                          DType scale_dtype) {
  QuantWeight w;
  w.scheme = {.bits = 4, .group = group, .zero = zero};
  w.rows = rows;
  w.cols = cols;
  w.scale_dtype = scale_dtype;
  w.codes.resize(rows * cols);
  for (auto& c : w.codes) c = rng() % 16;
  w.scales.resize(rows * w.groups());
  for (auto& s : w.scales) {
    const float raw = 1e-3f + static_cast<float>(rng() % 4096) / 4096.0f;
    s = scale_dtype == DType::kBF16 ? round_to_bf16(raw) : round_to_fp16(raw);
  }
  if (zero == ZeroKind::kInteger) {
    w.zeros.resize(w.scales.size());
    for (auto& z : w.zeros) z = rng() % 16;
  }
  return w;
}

TEST(AwqGemm, EncodesTheWorkedExampleBitExactly) {
  const AwqGemmTensors t = encode_awq_gemm(worked_example());
  EXPECT_EQ(t.qweight.shape(), (Shape{8, 2}));
  EXPECT_EQ(t.qzeros.shape(), (Shape{1, 2}));
  EXPECT_EQ(t.scales.shape(), (Shape{1, 16}));
  EXPECT_EQ(t.qweight.dtype(), DType::kI32);
  EXPECT_EQ(t.qzeros.dtype(), DType::kI32);
  EXPECT_EQ(t.scales.dtype(), DType::kF16);
  EXPECT_EQ(values_of<uint32_t>(t.qweight), kQweight);
  EXPECT_EQ(values_of<uint32_t>(t.qzeros), kQzeros);
  EXPECT_EQ(values_of<uint16_t>(t.scales), kScales);
}

TEST(AwqGemm, DecodesTheWorkedExample) {
  // Several of the words are negative as int32: the sign must not spread into the upper nibbles.
  const QuantWeight w =
      decode_awq_gemm(tensor_of(DType::kI32, {8, 2}, kQweight), tensor_of(DType::kI32, {1, 2}, kQzeros),
                      tensor_of(DType::kF16, {1, 16}, kScales), 8, "x");
  const QuantWeight expected = worked_example();
  EXPECT_EQ(w.scheme, expected.scheme);
  EXPECT_EQ(w.rows, kN);
  EXPECT_EQ(w.cols, kK);
  EXPECT_EQ(w.codes, expected.codes);
  EXPECT_EQ(w.zeros, expected.zeros);
  EXPECT_EQ(w.scales, expected.scales);
  std::vector<float> dense(kN * kK);
  dequantize(w, dense.data());
  EXPECT_EQ(dense[3 * kK + 2], 0.0625f);  // q = 9, z = 8, s = 1/16
}

TEST(AwqGemm, ReadsScalesOfEveryDtypeAndUnalignedBytes) {
  std::vector<float> as_float;
  std::vector<uint16_t> as_bf16;
  for (uint16_t s : kScales) {
    as_float.push_back(fp16_to_f32(s));
    as_bf16.push_back(f32_to_bf16(fp16_to_f32(s)));
  }
  // One byte in front: a mapped file gives no alignment.
  auto shifted = std::make_shared<std::vector<std::byte>>(1 + 4 * kQweight.size());
  std::memcpy(shifted->data() + 1, kQweight.data(), 4 * kQweight.size());
  const Tensor qweight(DType::kI32, {8, 2}, shifted->data() + 1, shifted);
  const Tensor qzeros = tensor_of(DType::kI32, {1, 2}, kQzeros);
  for (const Tensor& scales :
       {tensor_of(DType::kF32, {1, 16}, as_float), tensor_of(DType::kBF16, {1, 16}, as_bf16),
        tensor_of(DType::kF16, {1, 16}, kScales)}) {
    const QuantWeight w = decode_awq_gemm(qweight, qzeros, scales, -1, "x");
    EXPECT_EQ(w.scale_dtype, scales.dtype());
    EXPECT_EQ(w.scheme.group, -1);
    EXPECT_EQ(w.scales, worked_example().scales);
    EXPECT_EQ(w.codes, worked_example().codes);
  }
}

TEST(AwqGemm, RoundTripsRandomShapes) {
  std::mt19937 rng(7);
  for (int trial = 0; trial < 60; ++trial) {
    const int group = std::array{8, 16, 32, 64, 128, -1}[trial % 6];
    const int64_t rows = 8 * (1 + rng() % 40);
    const int64_t cols = (group < 0 ? 1 : group) * static_cast<int64_t>(1 + rng() % 5);
    const DType scale_dtype = trial % 4 == 0 ? DType::kBF16 : DType::kF16;
    const QuantWeight w = random_weight(rng, rows, cols, group, ZeroKind::kInteger, scale_dtype);
    const AwqGemmTensors t = encode_awq_gemm(w);
    EXPECT_EQ(t.scales.dtype(), scale_dtype);
    const QuantWeight back = decode_awq_gemm(t.qweight, t.qzeros, t.scales, group, "x");
    EXPECT_EQ(back.scheme, w.scheme) << rows << " x " << cols;
    EXPECT_EQ(back.codes, w.codes) << rows << " x " << cols;
    EXPECT_EQ(back.zeros, w.zeros);
    EXPECT_EQ(back.scales, w.scales);
  }
}

TEST(AwqGemm, WritesZeroPointEightForSymmetricWeights) {
  std::mt19937 rng(3);
  const QuantWeight w = random_weight(rng, 24, 64, 32, ZeroKind::kNone, DType::kF16);
  const AwqGemmTensors t = encode_awq_gemm(w);
  EXPECT_EQ(values_of<uint32_t>(t.qzeros), std::vector<uint32_t>(2 * 3, 0x88888888u));
  std::vector<float> before(24 * 64), after(before.size());
  dequantize(w, before.data());
  dequantize(decode_awq_gemm(t.qweight, t.qzeros, t.scales, 32, "x"), after.data());
  EXPECT_EQ(before, after);
}

TEST(AwqGemm, GivesTheSameBytesForAnyNumberOfThreads) {
  std::mt19937 rng(5);
  const QuantWeight w = random_weight(rng, 640, 256, 64, ZeroKind::kInteger, DType::kF16);
  const int before = threads();
  set_threads(1);
  const auto one = values_of<uint32_t>(encode_awq_gemm(w).qweight);
  set_threads(3);
  const auto three = values_of<uint32_t>(encode_awq_gemm(w).qweight);
  set_threads(before);
  EXPECT_EQ(one, three);
}

void expect_error(Code code, const std::string& text, const std::function<void()>& call) {
  try {
    call();
    ADD_FAILURE() << "no error, expected: " << text;
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    EXPECT_EQ(std::string(e.what()), text);
  }
}

TEST(AwqGemm, RefusesWhatTheLayoutCannotHold) {
  std::mt19937 rng(1);
  QuantWeight w = random_weight(rng, 12, 32, 32, ZeroKind::kInteger, DType::kF16);
  expect_error(Code::kBadArgument,
               "awq gemm layout: expected a multiple of 8 outputs, got 12; leave the layer out with --skip",
               [&] { encode_awq_gemm(w); });
  w = random_weight(rng, 16, 32, 32, ZeroKind::kInteger, DType::kF16);
  w.scheme.bits = 3;
  expect_error(Code::kBadArgument,
               "awq gemm layout: expected 4 bits, got 3; write other widths with --format dense",
               [&] { encode_awq_gemm(w); });
  w.scheme.bits = 4;
  w.scale_dtype = DType::kF32;
  expect_error(Code::kBadArgument, "awq gemm layout: expected F16 or BF16 scales, got F32",
               [&] { encode_awq_gemm(w); });
}

TEST(AwqGemm, DecodeErrorsNameTheModuleAndBothShapes) {
  const std::string m = "model.layers.0.mlp.up_proj";
  const Tensor qweight = Tensor::zeros(DType::kI32, {64, 4}), qzeros = Tensor::zeros(DType::kI32, {2, 4});
  const Tensor scales = Tensor::zeros(DType::kF16, {2, 32});
  const auto decode = [&](const Tensor& w, const Tensor& z, const Tensor& s, int group) {
    return [=] { decode_awq_gemm(w, z, s, group, m); };
  };
  ASSERT_NO_THROW(decode(qweight, qzeros, scales, 32)());

  expect_error(Code::kBadFile, m + ".qweight: expected I32 [inputs, outputs/8], got F16 [64, 4]",
               decode(Tensor::zeros(DType::kF16, {64, 4}), qzeros, scales, 32));
  expect_error(Code::kBadFile, m + ".qweight: expected I32 [inputs, outputs/8], got I32 [256]",
               decode(Tensor::zeros(DType::kI32, {256}), qzeros, scales, 32));
  expect_error(Code::kBadFile, m + ".qzeros: expected I32 [2, 4], got I32 [2, 5]",
               decode(qweight, Tensor::zeros(DType::kI32, {2, 5}), scales, 32));
  expect_error(Code::kBadFile, m + ".qzeros: expected I32 [2, 4], got I32 [8]",
               decode(qweight, Tensor::zeros(DType::kI32, {8}), scales, 32));
  expect_error(Code::kBadFile, m + ".qzeros: 3 groups do not divide 64 input columns",
               decode(qweight, Tensor::zeros(DType::kI32, {3, 4}), scales, 32));
  expect_error(Code::kBadFile, m + ".qzeros: expected shape [1, 4] for group size 64, got [2, 4]",
               decode(qweight, qzeros, scales, 64));
  expect_error(Code::kBadFile, m + ".qzeros: expected shape [1, 4] for group size -1, got [2, 4]",
               decode(qweight, qzeros, scales, -1));
  expect_error(Code::kBadFile, m + ".scales: expected F16 [2, 32], got F16 [2, 31]",
               decode(qweight, qzeros, Tensor::zeros(DType::kF16, {2, 31}), 32));
  expect_error(Code::kBadFile, m + ".scales: expected F16 [2, 32], got I32 [2, 32]",
               decode(qweight, qzeros, Tensor::zeros(DType::kI32, {2, 32}), 32));
  Tensor poisoned = Tensor::zeros(DType::kF32, {2, 32});
  poisoned.f32()[37] = std::numeric_limits<float>::quiet_NaN();
  expect_error(Code::kBadFile, m + ".scales: expected finite values, got nan at element 37",
               decode(qweight, qzeros, poisoned, 32));
}

}  // namespace
}  // namespace awq
