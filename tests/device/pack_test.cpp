// The packed layout against its picture (layout.h), and the dealing of tiles: both need no GPU.
#include "kernels/cuda/pack.h"

#include <fmt/core.h>

#include <cstring>

#include "device_testing.h"
#include "kernels/cuda/pick.h"

namespace awq {
namespace {

using namespace testing;

struct Element {
  int code = 0, zero = 0;
  double scale = 0;
};

// Read back as the picture says, by an index of its own for each element.
Element element(const cuda::PackedHost& p, int row, int col) {
  const cuda::PackedView& v = p.view;
  const int r = row % 16, k = col % 64, step = k / 16, c = k % 16;
  const int lane = r % 8 * 4 + c % 8 / 2;
  const int bit = c % 2 * 16 + c / 8 * 8 + r / 8 * 4;
  uint32_t word;
  std::memcpy(&word, p.codes.data() + ((int64_t{row} / 16 * v.blocks + col / 64) * 32 + lane) * 16 + step * 4,
              4);
  const int group = v.groups_per_block == 2 ? col / 32 : col / 64 / v.group_blocks;
  const std::byte* scales = p.scales.data() + (int64_t{row} / 128 * v.groups + group) * 320;
  const int pair = row % 128 / 16 * 8 + r % 8;
  fp16_t scale;
  std::memcpy(&scale, scales + pair * 4 + r / 8 * 2, 2);
  return {static_cast<int>(word >> bit & 15), static_cast<int>(scales[256 + pair]) >> (r / 8 * 4) & 15,
          double{fp16_to_f32(scale)} * v.out_scale};
}

TEST(CudaPack, EveryElementLiesWhereThePictureSays) {
  struct {
    int64_t rows, cols;
    int group;
  } cases[] = {{16, 64, 64},    {37, 96, 32},  {128, 128, 128}, {130, 576, 64},
               {200, 384, 192}, {64, 320, -1}, {129, 1024, 256}};
  for (const auto& c : cases)
    for (const int bits : {3, 4})
      for (const bool zeros : {true, false})
        for (const DType dtype : {DType::kF16, DType::kBF16}) {
          SCOPED_TRACE(
              fmt::format("[{}, {}] w{}g{} zeros {} {}", c.rows, c.cols, bits, c.group, zeros, dtype_name(dtype)));
          const QuantWeight w = random_quant(c.rows, c.cols, bits, c.group, zeros, dtype, 7);
          const cuda::PackedHost p = cuda::pack_host(w);
          EXPECT_EQ(p.view.strips() % 8, 0);
          EXPECT_EQ(p.view.blocks % 2, 0);
          for (int row = 0; row < p.view.strips() * 16; ++row)
            for (int col = 0; col < p.view.blocks * 64; ++col) {
              const Element e = element(p, row, col);
              if (row >= c.rows || col >= c.cols) {
                // Beyond W nothing may add to a sum: x is zero beyond its columns, rows are not stored.
                if (row < c.rows) {
                  ASSERT_TRUE(e.code == 0 && std::isfinite(e.scale));
                }
                continue;
              }
              const int64_t g = col / w.scheme.group_size(c.cols);
              ASSERT_EQ(e.code, w.codes[row * c.cols + col]) << row << " " << col;
              ASSERT_EQ(e.zero, w.zero_at(row, g));
              ASSERT_EQ(e.scale, w.scales[row * w.groups() + g]);
            }
        }
}

TEST(CudaPack, TinyAndLargeScalesStayExact) {
  for (const float factor : {0x1p-18f, 1.0f, 0x1p12f}) {
    QuantWeight w = random_quant(32, 128, 4, 64, true, DType::kBF16, 3);
    for (float& s : w.scales) s *= factor;
    const cuda::PackedHost p = cuda::pack_host(w);
    for (int row = 0; row < 32; ++row)
      for (int g = 0; g < 2; ++g) ASSERT_EQ(element(p, row, g * 64).scale, w.scales[row * 2 + g]);
  }
}

TEST(CudaPack, RefusesWhatTheKernelsDoNotRead) {
  const auto refused = [](const QuantWeight& w) {
    try {
      cuda::pack_host(w);
    } catch (const Error& e) {
      return e.code() == Code::kUnsupported;
    }
    return false;
  };
  EXPECT_TRUE(refused(random_quant(16, 64, 5, 64, true, DType::kF16, 1)));
  EXPECT_TRUE(refused(random_quant(16, 48, 4, 16, true, DType::kF16, 1)));
  EXPECT_TRUE(refused(random_quant(16, 96, 4, -1, true, DType::kF16, 1)));
  QuantWeight real = random_quant(16, 64, 4, 64, false, DType::kF16, 1);
  real.scheme.zero = ZeroKind::kReal;
  real.offsets.assign(16, 0.5f);
  EXPECT_TRUE(refused(real));
}

// Every stage of every tile is somebody's, once; a tile's parts follow each other through the workers, as
// take() expects.
TEST(CudaPlan, DealsOutEveryStageOnce) {
  const cuda::DeviceTraits device{132, 232448, true};
  for (const int out : {64, 576, 4096, 6144, 28672})
    for (const int in : {64, 576, 4096, 14336})
      for (const int64_t tokens : {17, 64, 100, 256, 1000, 4096})
        for (const cuda::GemmConfig& config : cuda::kGemmConfigs) {
          cuda::PackedView w;
          w.out = out, w.in = in, w.blocks = (in + 127) / 128 * 2;
          const cuda::GemmPlan plan = cuda::plan_gemm(device, w, tokens, config);
          SCOPED_TRACE(fmt::format("[{}, {}] x {} in tiles of {}: {} workers", out, in, tokens, config.tokens,
                                   plan.workers));
          ASSERT_TRUE(plan.workers >= 1 && plan.workers <= device.multiprocessors);
          std::vector<int> next(static_cast<size_t>(plan.tiles()), plan.units);
          for (int worker = plan.workers - 1; worker >= 0; --worker) {
            cuda::GemmWalk walk(plan, worker);
            for (int part = 0; walk.next(plan, worker); ++part) {
              ASSERT_LT(walk.begin, walk.end);
              if (walk.begin > 0) {
                ASSERT_EQ(part, plan.whole) << "a partial tile is given before others are waited for";
              }
              ASSERT_EQ(next[walk.tile], walk.end);
              next[walk.tile] = walk.begin;
              int m = -1, n = -1;
              plan.position(walk.tile, &m, &n);
              ASSERT_TRUE(m >= 0 && m < plan.tiles_m && n >= 0 && n < plan.tiles_n);
            }
          }
          for (const int left : next) ASSERT_EQ(left, 0);
        }
}

}  // namespace
}  // namespace awq
