// How an 8-bit cache lies in a device's pages: host code, tested without one.
#include "kernels/cuda/cache_int8.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/ops.h"

namespace awq::cuda {
namespace {

constexpr int kHeadDims[] = {64, 96, 128};

TEST(Int8Cache, EveryElementHasAByteOfItsOwn) {
  for (const int dim : kHeadDims)
    for (const auto at : {int8_key_at, int8_value_at}) {
      std::vector<int> uses(static_cast<size_t>(int8_codes_bytes(dim)));
      for (int token = 0; token < kCachePage; ++token)
        for (int element = 0; element < dim; ++element) ++uses.at(static_cast<size_t>(at(token, element)));
      EXPECT_EQ(uses, std::vector<int>(uses.size(), 1)) << dim;
    }
}

// Column n of the first product of scores is a key, row 2 c of its operand an element: attention.cuh, take_page.
TEST(Int8Cache, LanesReadTheirOperandsInARow) {
  for (int i = 0; i < 4; ++i)
    for (int lane = 0; lane < 32; ++lane) {
      const int n = lane / 4, c = lane % 4, at = i * 512 + lane * 16;
      for (int j = 0; j < 2; ++j)
        for (int e = 0; e < 8; ++e) EXPECT_EQ(int8_key_at(4 * (n / 2) + 2 * j + n % 2, 32 * i + 8 * c + e), at + 8 * j + e);
      for (int e = 0; e < 4; ++e)
        for (int k = 0; k < 4; ++k) EXPECT_EQ(int8_value_at(4 * c + k, 32 * i + 8 * e + n), at + 4 * e + k);
    }
}

TEST(Int8Cache, TakesWhatThePlanCounts) {
  for (const int dim : kHeadDims)
    for (const int heads : {1, 3, 8}) {
      const KvLayerView planned{nullptr, DType::kI8, heads, dim};
      EXPECT_EQ(planned.page_bytes(), int64_t{heads} * int8_head_bytes(dim));
      EXPECT_EQ(int8_head_bytes(dim) % 128, 0) << "whole lines of the cache of the device";
    }
}

}  // namespace
}  // namespace awq::cuda
