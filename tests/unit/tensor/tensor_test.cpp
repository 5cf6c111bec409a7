#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>

namespace awq {
namespace {

TEST(Tensor, OwnsViewsAndSlices) {
  Tensor t = Tensor::from({1, 2, 3, 4, 5, 6}, {3, 2});
  const Tensor row = t.rows(1, 3);
  EXPECT_EQ(row.shape(), (Shape{2, 2}));
  EXPECT_EQ(std::as_const(row).f32()[0], 3);
  t.f32()[2] = 30;
  EXPECT_EQ(row.data<float>()[0], 30) << "a view sees its owner";
  const Tensor copy = t.clone();
  t.f32()[2] = 3;
  EXPECT_EQ(copy.data<float>()[2], 30);
  EXPECT_EQ(t.reshaped({6}).dim(0), 6);
  EXPECT_THROW(t.reshaped({5}), Error);
  EXPECT_THROW(t.rows(2, 4), Error);
  EXPECT_THROW(t.data<double>(), Error);
}

TEST(Tensor, ReadOnlyViewsRefuseWriting) {
  static const float values[4] = {1, 2, 3, 4};
  Tensor t(DType::kF32, {4}, reinterpret_cast<const std::byte*>(values), nullptr);
  EXPECT_EQ(std::as_const(t).f32()[3], 4);
  EXPECT_THROW(t.f32(), Error);
}

TEST(Tensor, ConvertsAmongFloatTypes) {
  const Tensor t = Tensor::from({1.0f, -0.1f, 65504.0f, 1e-7f}, {4});
  const Tensor h = t.to(DType::kF16), b = t.to(DType::kBF16);
  EXPECT_EQ(h.nbytes(), 8);
  EXPECT_EQ(h.to_f32().data<float>()[2], 65504.0f);
  EXPECT_NEAR(b.to_f32().data<float>()[1], -0.1f, 4e-4f);
  const Tensor f8(DType::kF8E4M3, {4}, reinterpret_cast<const std::byte*>("\x38\xb8\x7e\x01"), nullptr);
  const Tensor wide = f8.to_f32();
  EXPECT_EQ(wide.data<float>()[0], 1.0f);
  EXPECT_EQ(wide.data<float>()[1], -1.0f);
  EXPECT_EQ(wide.data<float>()[2], 448.0f);
  EXPECT_EQ(wide.data<float>()[3], 0x1p-9f);
  const Tensor e5(DType::kF8E5M2, {3}, reinterpret_cast<const std::byte*>("\x3c\x7c\x7d"), nullptr);
  EXPECT_EQ(e5.to_f32().data<float>()[0], 1.0f);
  EXPECT_TRUE(std::isinf(e5.to_f32().data<float>()[1]));
  EXPECT_TRUE(std::isnan(e5.to_f32().data<float>()[2]));
}

TEST(Tensor, ShapesAreChecked) {
  EXPECT_EQ(numel({}), 1);
  EXPECT_EQ(numel({3, 0}), 0);
  EXPECT_THROW(numel({int64_t{1} << 40, int64_t{1} << 40}), Error);
  EXPECT_THROW(numel({-1}), Error);
  EXPECT_EQ(shape_text({576, 1536}), "[576, 1536]");
}

}  // namespace
}  // namespace awq
