// GPTQ's layout (docs/formats.md, section d):
//
//   qweight [cols * bits/32, rows]  one column of words per output: its codes along the inputs, lowest bits
//   first qzeros  [groups, rows * bits/32]  a row of words per group: its zero points along the outputs
//   scales  [groups, rows] F16      g_idx [cols] I32: the group of each input
//
// "gptq" stores the zero point less one, modulo 2^bits; "gptq_v2" as it is. Groups are static: g_idx[k] = k /
// group, so that codes chosen in order of activation need no reordering. Files whose g_idx says otherwise are
// refused.
#include <algorithm>

#include "base/thread_pool.h"
#include "weights/packing/parts.h"

namespace awq::packing {
namespace {

constexpr int64_t kColumnsPerTask = 16;  // outputs whose words share a cache line

bool known_bits(int bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 8; }

std::string refusal(const Scheme& s, int64_t rows, int64_t cols) {
  if (s.code != CodeKind::kAffine || s.zero == ZeroKind::kReal || s.activations != Activations::kFloat)
    return fmt::format("{}, expected evenly spaced codes with integer zero points", s.text());
  if (!known_bits(s.bits)) return fmt::format("{} bits, expected 2, 3, 4 or 8", s.bits);
  if (cols * s.bits % 32 != 0)
    return fmt::format("{} inputs of {} bits do not fill 32-bit words", cols, s.bits);
  if (rows * s.bits % 32 != 0)
    return fmt::format("{} outputs of {} bits do not fill 32-bit words", rows, s.bits);
  return "";
}

std::vector<StoredPart> parts(const Scheme& s, int64_t rows, int64_t cols, DType) {
  const int64_t groups = s.groups(cols);
  return {{".qweight", DType::kI32, {cols * s.bits / 32, rows}},
          {".qzeros", DType::kI32, {groups, rows * s.bits / 32}},
          {".scales", DType::kF16, {groups, rows}},
          {".g_idx", DType::kI32, {cols}}};
}

std::vector<EncodedPart> encode(const QuantWeight& w, int less) {
  const int bits = w.scheme.bits;
  const int64_t groups = w.groups(), group = w.scheme.group_size(w.cols), rows = w.rows;
  const auto mask = static_cast<uint8_t>(w.scheme.max_code());
  Tensor qweight(DType::kI32, {w.cols * bits / 32, rows}), qzeros(DType::kI32, {groups, rows * bits / 32}),
      g_idx(DType::kI32, {w.cols});
  std::byte* words = qweight.mutable_bytes();
  parallel_for((rows + kColumnsPerTask - 1) / kColumnsPerTask, [&](int64_t task) {
    for (int64_t n = task * kColumnsPerTask; n < std::min(rows, (task + 1) * kColumnsPerTask); ++n)
      pack_stream(w.codes.data() + n * w.cols, w.cols, 1, bits, words + 4 * n, rows);
  });
  std::vector<uint8_t> zeros(static_cast<size_t>(rows));
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t n = 0; n < rows; ++n) zeros[n] = static_cast<uint8_t>(w.zero_at(n, g) - less) & mask;
    pack_stream(zeros.data(), rows, 1, bits, qzeros.mutable_bytes() + 4 * g * qzeros.dim(1), 1);
  }
  for (int64_t k = 0; k < w.cols; ++k) g_idx.mutable_data<int32_t>()[k] = static_cast<int32_t>(k / group);
  return {{".qweight", std::move(qweight)},
          {".qzeros", std::move(qzeros)},
          {".scales", floats_as(transposed(w.scales, rows, groups), {groups, rows}, DType::kF16)},
          {".g_idx", std::move(g_idx)}};
}

void check_order(const Tensor& g_idx, int64_t cols, int64_t group, const std::string& name) {
  expect_part(g_idx, DType::kI32, {cols}, name, ".g_idx");
  for (int64_t k = 0; k < cols; ++k) {
    int32_t g;
    std::memcpy(&g, g_idx.bytes() + 4 * k, 4);
    if (g != k / group)
      fail(
          Code::kUnsupported,
          "{}.g_idx: input {} is in group {}, expected {}: columns out of order (desc_act) are not supported",
          name, k, g, k / group);
  }
}

QuantWeight decode(const PartSource& source, const FormHints& hints, const std::string& name, int less) {
  const Tensor qweight = source.load(".qweight"), qzeros = source.load(".qzeros"),
               scales = source.load(".scales");
  if (qweight.rank() != 2 || qweight.dtype() != DType::kI32 || qweight.numel() == 0)
    fail(Code::kBadFile, "{}.qweight: expected I32 [inputs * bits/32, outputs], got {} {}", name,
         dtype_name(qweight.dtype()), shape_text(qweight.shape()));
  QuantWeight w;
  w.rows = qweight.dim(1);
  // g_idx knows the number of inputs, and so the bits where they differ between linears.
  w.cols = source.has(".g_idx") ? source.load(".g_idx").numel() : qweight.dim(0) * 32 / hints.bits;
  const int64_t stored_bits = qweight.dim(0) * 32;
  if (w.cols < 1 || stored_bits % w.cols != 0 ||
      !known_bits(static_cast<int>(std::min<int64_t>(stored_bits / w.cols, 9))))
    fail(Code::kBadFile, "{}.qweight: {} words for {} inputs are not 2, 3, 4 or 8 bits each", name,
         qweight.dim(0), w.cols);
  const int bits = static_cast<int>(stored_bits / w.cols);
  const int64_t groups = scales.rank() == 2 ? scales.dim(0) : 0;
  expect_part(qzeros, DType::kI32, {groups, stream_words(w.rows, bits)}, name, ".qzeros");
  w.scheme = {.bits = bits,
              .group = group_of(w.cols, groups, hints.group, name, ".scales"),
              .zero = ZeroKind::kInteger};
  w.scales = transposed(read_floats(scales, {groups, w.rows}, name, ".scales"), groups, w.rows);
  w.scale_dtype = scales.dtype();
  if (source.has(".g_idx")) check_order(source.load(".g_idx"), w.cols, w.scheme.group_size(w.cols), name);

  w.codes.resize(static_cast<size_t>(w.rows * w.cols));
  parallel_for((w.rows + kColumnsPerTask - 1) / kColumnsPerTask, [&](int64_t task) {
    for (int64_t n = task * kColumnsPerTask; n < std::min(w.rows, (task + 1) * kColumnsPerTask); ++n)
      unpack_stream(qweight.bytes() + 4 * n, w.rows, w.cols, bits, w.codes.data() + n * w.cols, 1);
  });
  w.zeros.resize(w.scales.size());
  std::vector<uint8_t> zeros(static_cast<size_t>(w.rows));
  for (int64_t g = 0; g < groups; ++g) {
    unpack_stream(qzeros.bytes() + 4 * g * qzeros.dim(1), 1, w.rows, bits, zeros.data(), 1);
    for (int64_t n = 0; n < w.rows; ++n)
      w.zeros[n * groups + g] =
          static_cast<uint8_t>(zeros[n] + less) & static_cast<uint8_t>(w.scheme.max_code());
  }
  return w;
}

}  // namespace

const Form kGptqForm = {
    StoredForm::kGptq,
    "gptq",
    ".qweight",
    refusal,
    parts,
    [](const QuantWeight& w, DType) { return encode(w, 1); },
    [](const PartSource& p, const FormHints& h, const std::string& name) { return decode(p, h, name, 1); }};
const Form kGptqV2Form = {
    StoredForm::kGptqV2,
    "gptq-v2",
    ".qweight",
    refusal,
    parts,
    [](const QuantWeight& w, DType) { return encode(w, 0); },
    [](const PartSource& p, const FormHints& h, const std::string& name) { return decode(p, h, name, 0); }};

}  // namespace awq::packing
