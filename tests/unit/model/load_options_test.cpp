#include <gtest/gtest.h>

#include "base/error.h"
#include "model/model.h"

namespace awq {
namespace {

TEST(LoadOptions, InvariantIsRefusedWhereSumsGoByTheNumberOfTokens) {
  LoadOptions options;
  options.invariant = true;
  for (const Precision precision : {Precision::kExact, Precision::kFast}) {
    options.precision = precision;
    EXPECT_NO_THROW(check_invariant(options));
  }
  options.precision = Precision::kBf16;
  EXPECT_THROW(check_invariant(options), Error);
  options.device = Device::kCuda;  // which has no use for it
  EXPECT_NO_THROW(check_invariant(options));
  options = {};
  options.invariant = true, options.product = Product::kAuto;
  EXPECT_THROW(check_invariant(options), Error);
  options.invariant = false;
  EXPECT_NO_THROW(check_invariant(options));
}

}  // namespace
}  // namespace awq
