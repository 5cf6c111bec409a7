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
      {"got 7, 4, 4", [](QuantWeight& w) { w.codes.pop_back(); }},
      {"got 8, 3, 4", [](QuantWeight& w) { w.scales.pop_back(); }},
      {"expected 8 codes, 4 scales, 0 zeros", [](QuantWeight& w) { w.scheme.zero = ZeroKind::kNone; }},
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
