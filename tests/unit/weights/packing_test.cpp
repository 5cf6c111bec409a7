// Every stored form: there and back, the words of the worked example (docs/formats.md), sizes known
// beforehand, and broken parts named.
#include "weights/packing.h"

#include <gmock/gmock.h>

#include <cmath>
#include <map>
#include <random>

namespace awq {
namespace {

using ::testing::HasSubstr;

constexpr StoredForm kAll[] = {StoredForm::kAwqGemm,       StoredForm::kGptq,         StoredForm::kGptqV2,
                               StoredForm::kPackQuantized, StoredForm::kIntQuantized, StoredForm::kBnbNf4,
                               StoredForm::kBnbInt8};

QuantWeight random_weight(const Scheme& scheme, int64_t rows, int64_t cols, DType scale_dtype) {
  QuantWeight w;
  w.scheme = scheme;
  w.rows = rows;
  w.cols = cols;
  w.scale_dtype = scale_dtype;
  std::mt19937 rng(7);
  const auto code = [&] {
    return static_cast<uint8_t>(rng() % static_cast<uint32_t>(scheme.max_code() + 1));
  };
  for (int64_t i = 0; i < rows * cols; ++i) w.codes.push_back(code());
  for (int64_t i = 0; i < rows * w.groups(); ++i) {
    w.scales.push_back(std::ldexp(static_cast<float>(1 + rng() % 127), -12));
    if (scheme.zero == ZeroKind::kInteger) w.zeros.push_back(code());
  }
  return w;
}

using Parts = std::map<std::string, Tensor, std::less<>>;

Parts encoded(StoredForm form, const QuantWeight& w, DType dense = DType::kF16) {
  Parts parts;
  for (auto& p : encode_weight(form, w, dense)) parts.emplace(p.suffix, p.tensor);
  return parts;
}

PartSource source_of(const Parts& parts) {
  return {[&parts](std::string_view s) { return parts.find(s) != parts.end(); },
          [&parts](std::string_view s) -> Tensor {
            const auto it = parts.find(s);
            if (it == parts.end()) fail(Code::kNotFound, "m{}: missing", s);
            return it->second;
          }};
}

QuantWeight decoded(StoredForm form, const Parts& parts, const FormHints& hints) {
  return decode_weight(form, source_of(parts), hints, "m");
}

Scheme affine(int bits, int group, ZeroKind zero) { return {CodeKind::kAffine, bits, group, zero}; }

TEST(Packing, EveryFormComesBackBitForBit) {
  const Scheme int8{CodeKind::kAffine, 8, -1, ZeroKind::kNone, Activations::kInt8Token};
  const Scheme outliers{CodeKind::kAffine, 8, -1, ZeroKind::kNone, Activations::kInt8Outliers, 6.0f};
  const struct {
    StoredForm form;
    Scheme scheme;
    int64_t rows, cols;
  } cases[] = {{StoredForm::kAwqGemm, affine(4, 32, ZeroKind::kInteger), 16, 64},
               {StoredForm::kGptq, affine(4, 32, ZeroKind::kInteger), 16, 64},
               {StoredForm::kGptq, affine(2, 16, ZeroKind::kInteger), 32, 48},
               {StoredForm::kGptqV2, affine(3, 32, ZeroKind::kInteger), 64, 96},
               {StoredForm::kGptqV2, affine(8, -1, ZeroKind::kInteger), 12, 20},
               {StoredForm::kPackQuantized, affine(3, 64, ZeroKind::kInteger), 21, 192},
               {StoredForm::kPackQuantized, affine(4, -1, ZeroKind::kNone), 5, 40},
               {StoredForm::kPackQuantized, affine(5, 10, ZeroKind::kInteger), 7, 50},
               {StoredForm::kPackQuantized, affine(8, 32, ZeroKind::kNone), 3, 64},
               {StoredForm::kPackQuantized, affine(2, 8, ZeroKind::kInteger), 9, 8},
               {StoredForm::kIntQuantized, int8, 6, 33},
               {StoredForm::kBnbInt8, outliers, 6, 33}};
  for (const auto& c : cases)
    for (const DType dense : {DType::kF16, DType::kBF16}) {
      SCOPED_TRACE(fmt::format("{} {} [{}, {}]", form_name(c.form), c.scheme.text(), c.rows, c.cols));
      const DType scales = c.form == StoredForm::kBnbInt8 ? DType::kF32 : dense;
      const QuantWeight w = random_weight(c.scheme, c.rows, c.cols, scales);
      const Parts parts = encoded(c.form, w, dense);
      const auto planned = stored_parts(c.form, c.scheme, c.rows, c.cols, dense);
      ASSERT_EQ(planned.size(), parts.size());
      for (const StoredPart& p : planned) {
        ASSERT_TRUE(parts.contains(p.suffix)) << p.suffix;
        EXPECT_EQ(parts.at(p.suffix).dtype(), p.dtype) << p.suffix;
        EXPECT_EQ(parts.at(p.suffix).shape(), p.shape) << p.suffix;
        EXPECT_EQ(parts.at(p.suffix).nbytes(), p.bytes()) << p.suffix;
      }
      const QuantWeight back = decoded(c.form, parts, {c.scheme.bits, c.scheme.group, 6.0f});
      EXPECT_EQ(back.codes, w.codes);
      EXPECT_EQ(back.scales.size(), w.scales.size());
      std::vector<float> before(w.codes.size()), after(w.codes.size());
      dequantize(w, before.data());
      dequantize(back, after.data());
      // bitsandbytes stores 127 times the scale: its last bit may differ.
      for (size_t i = 0; i < before.size(); ++i)
        ASSERT_NEAR(after[i], before[i], c.form == StoredForm::kBnbInt8 ? 1e-7 * std::fabs(before[i]) : 0);
      EXPECT_EQ(back.scheme.activations, c.scheme.activations);
    }
}

template <class T>
std::vector<T> values(const Tensor& t) {
  return {t.data<T>(), t.data<T>() + t.numel()};
}

// q[n][k] = (n + 3k) mod 16, z[n] = (5 + n) mod 16, s[n] = 2^-(4 + n mod 3): 16 outputs, 8 inputs, one group.
QuantWeight worked_example() {
  QuantWeight w = random_weight(affine(4, 8, ZeroKind::kInteger), 16, 8, DType::kF16);
  for (int n = 0; n < 16; ++n) {
    w.zeros[n] = static_cast<uint8_t>((5 + n) % 16);
    w.scales[n] = std::ldexp(1.0f, -(4 + n % 3));
    for (int k = 0; k < 8; ++k) w.codes[n * 8 + k] = static_cast<uint8_t>((n + 3 * k) % 16);
  }
  return w;
}

TEST(Packing, WorkedExampleInGptqAndCompressedTensors) {
  const std::vector<uint32_t> words = {0x52FC9630, 0x630DA741, 0x741EB852, 0x852FC963, 0x9630DA74, 0xA741EB85,
                                       0xB852FC96, 0xC9630DA7, 0xDA741EB8, 0xEB852FC9, 0xFC9630DA, 0x0DA741EB,
                                       0x1EB852FC, 0x2FC9630D, 0x30DA741E, 0x41EB852F};
  const QuantWeight w = worked_example();
  const Parts v1 = encoded(StoredForm::kGptq, w), v2 = encoded(StoredForm::kGptqV2, w),
              ct = encoded(StoredForm::kPackQuantized, w);
  EXPECT_EQ(values<uint32_t>(v1.at(".qweight")), words);
  EXPECT_EQ(values<uint32_t>(ct.at(".weight_packed")), words);
  EXPECT_EQ(values<uint32_t>(v1.at(".qzeros")),
            (std::vector<uint32_t>{0xBA987654, 0x3210FEDC}));  // z = 0 wraps to 15
  EXPECT_EQ(values<uint32_t>(v2.at(".qzeros")), (std::vector<uint32_t>{0xCBA98765, 0x43210FED}));
  EXPECT_EQ(values<uint32_t>(ct.at(".weight_zero_point")), (std::vector<uint32_t>{0xCBA98765, 0x43210FED}));
  EXPECT_EQ(values<int32_t>(v1.at(".g_idx")), std::vector<int32_t>(8, 0));
  EXPECT_EQ(values<int64_t>(ct.at(".weight_shape")), (std::vector<int64_t>{16, 8}));
}

TEST(Packing, SymmetricZeroPointsAreTheMiddleCode) {
  QuantWeight w = random_weight(affine(4, 8, ZeroKind::kNone), 8, 8, DType::kF16);
  EXPECT_EQ(values<uint32_t>(encoded(StoredForm::kGptq, w).at(".qzeros"))[0], 0x77777777u);
  EXPECT_EQ(values<uint32_t>(encoded(StoredForm::kGptqV2, w).at(".qzeros"))[0], 0x88888888u);
  EXPECT_FALSE(encoded(StoredForm::kPackQuantized, w).contains(".weight_zero_point"));
}

TEST(Packing, Nf4KeepsCodesAndRoundsScalesOnce) {
  QuantWeight w = random_weight({CodeKind::kNf4, 4, 64, ZeroKind::kNone}, 24, 1536, DType::kF32);
  const Parts parts = encoded(StoredForm::kBnbNf4, w);
  for (const StoredPart& p : stored_parts(StoredForm::kBnbNf4, w.scheme, w.rows, w.cols, DType::kF16)) {
    EXPECT_EQ(parts.at(p.suffix).shape(), p.shape) << p.suffix;
    EXPECT_EQ(parts.at(p.suffix).dtype(), p.dtype) << p.suffix;
  }
  const QuantWeight back = decoded(StoredForm::kBnbNf4, parts, {});
  check_consistent(back);
  EXPECT_EQ(back.codes, w.codes);
  EXPECT_EQ(parts.at(".weight").data<uint8_t>()[0], w.codes[0] << 4 | w.codes[1]);
  float range = 0;
  for (const float s : w.scales) range = std::max(range, std::fabs(s - w.scales[0]));
  for (size_t i = 0; i < w.scales.size(); ++i) ASSERT_NEAR(back.scales[i], w.scales[i], 0.02 * range);
  // Equal scales have no differences to round: exact.
  std::fill(w.scales.begin(), w.scales.end(), 0.25f);
  EXPECT_EQ(decoded(StoredForm::kBnbNf4, encoded(StoredForm::kBnbNf4, w), {}).scales, w.scales);
}

TEST(Packing, RefusesWhatAFormCannotSay) {
  const struct {
    StoredForm form;
    Scheme scheme;
    int64_t rows, cols;
    const char* reason;
  } cases[] = {
      {StoredForm::kAwqGemm, affine(3, 32, ZeroKind::kInteger), 8, 32, "3 bits, expected 4"},
      {StoredForm::kAwqGemm, affine(4, 32, ZeroKind::kInteger), 12, 32, "12 outputs"},
      {StoredForm::kGptq, affine(5, 32, ZeroKind::kInteger), 32, 32, "5 bits"},
      {StoredForm::kGptq, affine(3, -1, ZeroKind::kNone), 32, 48, "48 inputs of 3 bits"},
      {StoredForm::kGptqV2, affine(3, 32, ZeroKind::kNone), 40, 32, "40 outputs of 3 bits"},
      {StoredForm::kPackQuantized,
       {CodeKind::kNf4, 4, 64, ZeroKind::kNone},
       8,
       64,
       "nf4g64, expected evenly"},
      {StoredForm::kIntQuantized, affine(8, -1, ZeroKind::kInteger), 8, 64, "expected symmetric 8-bit"},
      {StoredForm::kBnbNf4, {CodeKind::kNf4, 4, 32, ZeroKind::kNone}, 8, 64, "nf4g32, expected nf4g64"},
      {StoredForm::kBnbNf4, {CodeKind::kNf4, 4, 64, ZeroKind::kNone}, 8, 96, "96 inputs"},
      {StoredForm::kBnbInt8, affine(8, 32, ZeroKind::kNone), 8, 64, "one scale per output"}};
  for (const auto& c : cases)
    EXPECT_THAT(form_refusal(c.form, c.scheme, c.rows, c.cols), HasSubstr(c.reason)) << form_name(c.form);
}

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return std::string(code_name(e.code())) + ": " + e.what();
  }
  return "accepted";
}

// Every part missing, of another dtype, or of another shape is named and never read past its end.
TEST(Packing, BrokenPartsAreNamed) {
  const Scheme nf4{CodeKind::kNf4, 4, 64, ZeroKind::kNone};
  for (const StoredForm form : kAll) {
    const bool int8 = form == StoredForm::kIntQuantized || form == StoredForm::kBnbInt8;
    const Scheme scheme = form == StoredForm::kBnbNf4 ? nf4
                          : int8                      ? affine(8, -1, ZeroKind::kNone)
                                                      : affine(4, 64, ZeroKind::kInteger);
    const DType scales =
        form == StoredForm::kBnbNf4 || form == StoredForm::kBnbInt8 ? DType::kF32 : DType::kF16;
    const Parts whole = encoded(form, random_weight(scheme, 16, 128, scales));
    const FormHints hints{scheme.bits, scheme.group, 6.0f};
    EXPECT_EQ(error_of([&] { decoded(form, whole, hints); }), "accepted");
    for (const auto& [suffix, tensor] : whole) {
      const bool optional =
          suffix == ".g_idx" || suffix == ".weight_zero_point" || suffix == ".weight_format";
      Parts parts = whole;
      parts.erase(suffix);
      const std::string missing = error_of([&] { decoded(form, parts, hints); });
      EXPECT_THAT(missing, HasSubstr(optional ? "accepted" : "not_found")) << form_name(form) << suffix;
      parts[suffix] =
          Tensor::zeros(tensor.dtype() == DType::kBool ? DType::kI32 : DType::kBool, tensor.shape());
      EXPECT_THAT(error_of([&] { decoded(form, parts, hints); }),
                  testing::AnyOf(HasSubstr("bad_file: m"), HasSubstr("unsupported: m")))
          << form_name(form) << suffix;
      for (const int64_t n : {0, 1, 3}) {
        Shape shape = tensor.shape();
        if (shape.empty()) continue;
        shape.back() = n;
        parts[suffix] = Tensor::zeros(tensor.dtype(), shape);
        // Where the size is free (the inputs of an int8 matrix) what is read must be whole.
        const std::string error = error_of([&] { check_consistent(decoded(form, parts, hints)); });
        const bool free = shape == tensor.shape() || (int8 && suffix == ".weight" && n > 0) ||
                          (int8 && suffix == ".weight_scale" && n == 1);
        EXPECT_THAT(error, free ? testing::Matcher<std::string>(testing::Eq("accepted"))
                                : testing::AnyOf(HasSubstr("bad_file: m"), HasSubstr("unsupported: m")))
            << form_name(form) << suffix << " with " << n;
      }
    }
  }
}

TEST(Packing, ForeignVariantsAreRefusedByName) {
  Parts gptq =
      encoded(StoredForm::kGptq, random_weight(affine(4, 32, ZeroKind::kInteger), 8, 64, DType::kF16));
  std::swap(gptq.at(".g_idx").mutable_data<int32_t>()[0], gptq.at(".g_idx").mutable_data<int32_t>()[40]);
  EXPECT_THAT(error_of([&] {
                decoded(StoredForm::kGptq, gptq, {4, 32});
              }),
              HasSubstr("unsupported: m.g_idx: input 0 is in group 1"));

  const Scheme nf4{CodeKind::kNf4, 4, 64, ZeroKind::kNone};
  Parts bnb = encoded(StoredForm::kBnbNf4, random_weight(nf4, 8, 64, DType::kF32));
  bnb.at(".weight.quant_map").f32()[3] = -0.5f;
  EXPECT_THAT(error_of([&] { decoded(StoredForm::kBnbNf4, bnb, {}); }),
              HasSubstr("unsupported: m.weight.quant_map"));
  const auto state = [&](std::string text) {
    Tensor t(DType::kU8, {static_cast<int64_t>(text.size())});
    std::memcpy(t.mutable_bytes(), text.data(), text.size());
    bnb[".weight.quant_state.bitsandbytes__nf4"] = t;
    return error_of([&] { decoded(StoredForm::kBnbNf4, bnb, {}); });
  };
  EXPECT_THAT(state("{"), HasSubstr("bad_file"));
  EXPECT_THAT(state(R"({"quant_type":"fp4","blocksize":64,"shape":[8,64]})"), HasSubstr("quant_type nf4"));
  EXPECT_THAT(state(R"({"quant_type":"nf4","blocksize":64,"shape":[1099511627776,1099511627776]})"),
              HasSubstr("bad_file"));
  EXPECT_THAT(state(R"({"quant_type":"nf4","blocksize":48,"shape":[8,64]})"), HasSubstr("straddle"));
  EXPECT_THAT(state(R"({"quant_type":"nf4","blocksize":0,"shape":[8,64]})"), HasSubstr("positive"));

  Parts ct =
      encoded(StoredForm::kPackQuantized, random_weight(affine(4, 32, ZeroKind::kNone), 8, 64, DType::kF16));
  ct.at(".weight_shape").mutable_data<int64_t>()[1] = int64_t{1} << 62;
  EXPECT_THAT(error_of([&] {
                decoded(StoredForm::kPackQuantized, ct, {4, 32});
              }),
              HasSubstr("bad_file: m.weight_shape"));
}

}  // namespace
}  // namespace awq
