#include "weights/quant_weight.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

namespace awq {
namespace {

// [2, 4], two groups of two columns.
QuantWeight small() {
  QuantWeight w;
  w.scheme = {.bits = 4, .group = 2};
  w.rows = 2;
  w.cols = 4;
  w.codes = {0, 1, 2, 3, 15, 14, 13, 12};
  w.scales = {0.5f, 0.25f, 1.0f, 2.0f};
  w.zeros = {1, 2, 15, 0};
  return w;
}

TEST(Scheme, PrintsBitsGroupAndZeroPoint) {
  EXPECT_EQ((Scheme{.bits = 4, .group = 128, .zero = ZeroKind::kInteger}.text()), "w4g128z");
  EXPECT_EQ((Scheme{.bits = 4, .group = 128, .zero = ZeroKind::kNone}.text()), "w4g128");
  EXPECT_EQ((Scheme{.bits = 8, .group = -1, .zero = ZeroKind::kInteger}.text()), "w8gcz");
  EXPECT_EQ((Scheme{.bits = 3, .group = 32, .zero = ZeroKind::kNone}.text()), "w3g32");
}

TEST(Scheme, PrintsCodesAndActivations) {
  EXPECT_EQ((Scheme{CodeKind::kNf4, 4, 64, ZeroKind::kNone}.text()), "nf4g64");
  EXPECT_EQ((Scheme{CodeKind::kAffine, 4, 32, ZeroKind::kReal}.text()), "w4g32r");
  EXPECT_EQ((Scheme{CodeKind::kAffine, 8, -1, ZeroKind::kNone, Activations::kInt8Token}.text()), "w8gc-a8");
  EXPECT_EQ((Scheme{CodeKind::kAffine, 8, -1, ZeroKind::kNone, Activations::kInt8Outliers, 6.0f}.text()),
            "w8gc-a8o6");
}

TEST(QuantWeight, DequantizesNf4AndRealZeros) {
  QuantWeight w = small();
  w.scheme = {CodeKind::kNf4, 4, 2, ZeroKind::kNone};
  w.zeros.clear();
  check_consistent(w);
  std::vector<float> out(8);
  dequantize(w, out.data());
  EXPECT_EQ(out, (std::vector<float>{-0.5f, -0.6961928009986877f / 2, -0.5250730514526367f / 4,
                                     -0.39491748809814453f / 4, 1.0f, 0.7229568362236023f,
                                     2 * 0.5626170039176941f, 2 * 0.44070982933044434f}));

  w = small();
  w.scheme.zero = ZeroKind::kReal;
  w.zeros.clear();
  w.offsets = {-1.0f, 0.5f, 0.0f, 4.0f};
  check_consistent(w);
  dequantize(w, out.data());
  EXPECT_EQ(out, (std::vector<float>{-1.0f, -0.5f, 1.0f, 1.25f, 15.0f, 14.0f, 30.0f, 28.0f}));
  std::vector<float> part(2);
  dequantize_row(w, 1, 1, 2, part.data());
  EXPECT_EQ(part, (std::vector<float>{14.0f, 30.0f}));
}

TEST(QuantWeight, DequantizesPerGroupWithIntegerZeros) {
  std::vector<float> out(8);
  dequantize(small(), out.data());
  EXPECT_EQ(out, (std::vector<float>{-0.5f, 0.0f, 0.0f, 0.25f, 0.0f, -1.0f, 26.0f, 24.0f}));
}

TEST(QuantWeight, DequantizesSymmetricAroundTheMiddleCode) {
  QuantWeight w = small();
  w.scheme = {.bits = 5, .group = -1, .zero = ZeroKind::kNone};
  w.codes = {0, 15, 16, 31, 17, 16, 16, 16};
  w.scales = {0.5f, 2.0f};
  w.zeros.clear();
  check_consistent(w);
  std::vector<float> out(8);
  dequantize(w, out.data());
  EXPECT_EQ(out, (std::vector<float>{-8.0f, -0.5f, 0.0f, 7.5f, 2.0f, 0.0f, 0.0f, 0.0f}));
}

TEST(QuantWeight, ConsistencyAcceptsTheSmallWeight) { EXPECT_NO_THROW(check_consistent(small())); }

TEST(QuantWeight, ConsistencyNamesEachDefect) {
  const struct {
    const char* text;
    std::function<void(QuantWeight&)> damage;
  } cases[] = {
      {"9 bits", [](QuantWeight& w) { w.scheme.bits = 9; }},
      {"1 bits", [](QuantWeight& w) { w.scheme.bits = 1; }},
      {"is empty", [](QuantWeight& w) { w.rows = 0; }},
      {"group size 3 does not divide 4", [](QuantWeight& w) { w.scheme.group = 3; }},
      {"group size 0 does not divide 4", [](QuantWeight& w) { w.scheme.group = 0; }},
      {"group size 8 does not divide 4", [](QuantWeight& w) { w.scheme.group = 8; }},
      {"got 7, 4, 4, 0", [](QuantWeight& w) { w.codes.pop_back(); }},
      {"got 8, 3, 4, 0", [](QuantWeight& w) { w.scales.pop_back(); }},
      {"expected 8 codes, 4 scales, 0 zeros, 0 offsets",
       [](QuantWeight& w) { w.scheme.zero = ZeroKind::kNone; }},
      {"expected 8 codes, 4 scales, 0 zeros, 4 offsets",
       [](QuantWeight& w) { w.scheme.zero = ZeroKind::kReal; }},
      {"nf4 has 4 bits", [](QuantWeight& w) { w.scheme.code = CodeKind::kNf4; }},
      {"outlier threshold of 0", [](QuantWeight& w) { w.scheme.activations = Activations::kInt8Outliers; }},
      {"outlier threshold of 6", [](QuantWeight& w) { w.scheme.outlier_threshold = 6; }},
      {"code 5 is 16", [](QuantWeight& w) { w.codes[5] = 16; }},
      {"zero point 3 is 16", [](QuantWeight& w) { w.zeros[3] = 16; }},
      {"scale 1 is 0.1, which F16", [](QuantWeight& w) { w.scales[1] = 0.1f; }},
      {"scale 2 is inf", [](QuantWeight& w) { w.scales[2] = std::numeric_limits<float>::infinity(); }},
      {"which I32 cannot hold", [](QuantWeight& w) { w.scale_dtype = DType::kI32; }},
  };
  for (const auto& c : cases) {
    QuantWeight w = small();
    c.damage(w);
    try {
      check_consistent(w);
      ADD_FAILURE() << "accepted: " << c.text;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Code::kInternal);
      EXPECT_NE(std::string(e.what()).find(c.text), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace awq
