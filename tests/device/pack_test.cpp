// The packed layout against its picture (layout.h), and the dealing of tiles: both need no GPU.
#include "kernels/cuda/pack.h"

#include <fmt/core.h>

#include <cstring>

#include "device_testing.h"
#include "kernels/cuda/nf4.h"
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
  const bool eight = v.format == cuda::Format::kAffine8;
  const int r = row % 16, k = col % 64, step = k / 16, c = k % 16;
  const int lane = r % 8 * 4 + c % 8 / 2;
  const int64_t block = int64_t{row} / 16 * v.blocks + col / 64;
  const std::byte* codes = p.codes.data();
  int code = 0;
  if (eight) {
    const int in_step = c / 8 * 4 + r / 8 * 2 + c % 2;  // bytes of a lane
    code = static_cast<int>(codes[block * 1024 + step / 2 * 512 + lane * 16 + step % 2 * 8 + in_step]);
  } else {
    const int bit = v.format == cuda::Format::kNf4 ? c / 8 * 16 + r / 8 * 8 + c % 2 * 4 : c % 2 * 16 + c / 8 * 8 + r / 8 * 4;
    uint32_t word;
    std::memcpy(&word, codes + block * 512 + lane * 16 + step * 4, 4);
    code = static_cast<int>(word >> bit & 15);
  }
  const int group = v.groups_per_block == 2 ? col / 32 : col / 64 / v.group_blocks;
  const int group_bytes = eight ? 384 : v.format == cuda::Format::kNf4 ? 256 : 320;
  const std::byte* scales = p.scales.data() + (int64_t{row} / 128 * v.groups + group) * group_bytes;
  const int pair = row % 128 / 16 * 8 + r % 8;
  fp16_t scale;
  std::memcpy(&scale, scales + pair * 4 + r / 8 * 2, 2);
  const int zero = eight                                    ? static_cast<int>(scales[256 + pair * 2 + r / 8])
                   : v.format == cuda::Format::kNf4         ? 0
                                                            : static_cast<int>(scales[256 + pair]) >> (r / 8 * 4) & 15;
  return {code, zero, double{fp16_to_f32(scale)} * v.out_scale};
}

void expect_as_pictured(const QuantWeight& w, cuda::Format format) {
  const cuda::PackedHost p = cuda::pack_host(w);
  ASSERT_EQ(p.view.format, format);
  EXPECT_EQ(p.view.strips() % 8, 0);
  EXPECT_EQ(p.view.blocks % 2, 0);
  for (int row = 0; row < p.view.strips() * 16; ++row)
    for (int col = 0; col < p.view.blocks * 64; ++col) {
      const Element e = element(p, row, col);
      if (row >= w.rows || col >= w.cols) {
        // Beyond W nothing may add to a sum: x is zero beyond its columns, rows are not stored.
        if (row < w.rows) {
          ASSERT_TRUE(e.code == 0 && std::isfinite(e.scale));
        }
        continue;
      }
      const int64_t g = col / w.scheme.group_size(w.cols);
      ASSERT_EQ(e.code, w.codes[row * w.cols + col]) << row << " " << col;
      if (format != cuda::Format::kNf4) {
        ASSERT_EQ(e.zero, w.zero_at(row, g));
      }
      ASSERT_EQ(e.scale, w.scales[row * w.groups() + g]);
    }
}

TEST(CudaPack, EveryElementLiesWhereThePictureSays) {
  struct {
    int64_t rows, cols;
    int group;
  } cases[] = {{16, 64, 64},    {37, 96, 32},  {128, 128, 128}, {130, 576, 64},
               {200, 384, 192}, {64, 320, -1}, {129, 1024, 256}, {24, 328, -1}};
  for (const auto& c : cases)
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      for (const int bits : {3, 4, 5, 8})
        for (const bool zeros : {true, false}) {
          SCOPED_TRACE(
              fmt::format("[{}, {}] w{}g{} zeros {} {}", c.rows, c.cols, bits, c.group, zeros, dtype_name(dtype)));
          expect_as_pictured(random_quant(c.rows, c.cols, bits, c.group, zeros, dtype, 7),
                             bits <= 4 ? cuda::Format::kAffine4 : cuda::Format::kAffine8);
        }
      SCOPED_TRACE(fmt::format("[{}, {}] nf4g{} {}", c.rows, c.cols, c.group, dtype_name(dtype)));
      expect_as_pictured(random_nf4(c.rows, c.cols, c.group, dtype, 8), cuda::Format::kNf4);
    }
}

TEST(CudaPack, Nf4TableIsTheOneOfWeights) {
  for (int i = 0; i < kNf4Codes; ++i) {
    EXPECT_EQ(cuda::kNf4Table[i], kNf4Values[i]);
    EXPECT_EQ(cuda::nf4_f16(i), f32_to_fp16(kNf4Values[i])) << i;
    EXPECT_EQ(cuda::nf4_bf16(i), f32_to_bf16(kNf4Values[i])) << i;
  }
}

// What int8 inputs are meant for is packed in 8 bits alone: there the integer kernels do not take all.
TEST(CudaPack, Int8InputsAreTakenAsTheyAre) {
  QuantWeight w = random_quant(16, 72, 8, -1, false, DType::kF32, 1);
  w.scheme.activations = Activations::kInt8Outliers, w.scheme.outlier_threshold = 6;
  EXPECT_EQ(cuda::packed_format(w), cuda::Format::kAffine8);
  w = random_quant(16, 64, 4, 64, false, DType::kF16, 1);
  w.scheme.activations = Activations::kInt8Token;
  EXPECT_FALSE(cuda::packed_format(w).has_value());
}

// A device's bytes, and which kernels run.
TEST(CudaPack, BytesAndWaysOfFormats) {
  const cuda::DeviceTraits hopper{132, 232448, true}, ampere{108, 166912, false}, small{84, 101376, false};
  for (const bool nf4 : {false, true}) {
    const QuantWeight w = nf4 ? random_nf4(4096, 256, 64, DType::kF16, 1) : random_quant(4096, 256, 8, 128, true, DType::kF16, 1);
    const cuda::PackedView view = cuda::pack_host(w).view;
    EXPECT_EQ(view.codes_bytes(), nf4 ? 4096 * 128 : 4096 * 256);
    EXPECT_EQ(view.scales_bytes(), nf4 ? 32 * 4 * 256 : 32 * 2 * 384);
    for (const cuda::DeviceTraits& device : {hopper, ampere, small})
      for (const int64_t tokens : {1, 2, 3, 4, 5, 8, 9, 16, 17, 64, 65, 1000}) {
        for (const bool invariant : {false, true}) {
          SCOPED_TRACE(fmt::format("{} tokens, {} bytes of shared memory, invariant {}", tokens, device.shared_bytes, invariant));
          const cuda::Choice c = invariant ? cuda::pick_invariant(device, view, tokens) : cuda::pick(device, view, tokens);
          if (device.hopper ? invariant || tokens > 16 : !invariant && tokens > 16) {
            EXPECT_EQ(c.way, device.hopper ? cuda::Way::kGemm : cuda::Way::kDense);
            continue;
          }
          ASSERT_EQ(c.way, cuda::Way::kGemv);
          const cuda::GemvConfig& config = cuda::gemv_configs(view.format)[c.config];
          EXPECT_LE(cuda::gemv_shared_bytes(c.config, view), device.shared_bytes);
          EXPECT_TRUE(c.tokens >= 1 && c.tokens <= config.tokens && c.tokens <= tokens);
          EXPECT_TRUE(device.shared_bytes == small.shared_bytes || c.tokens == std::min<int64_t>(tokens, 16));
          EXPECT_TRUE(config.split == 1 || (device.hopper && !invariant));
          EXPECT_EQ(view.strips() % config.strips, 0);
        }
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
  for (const int bits : {4, 8}) {
    EXPECT_TRUE(refused(random_quant(16, 48, bits, 16, true, DType::kF16, 1)));
    EXPECT_TRUE(refused(random_quant(16, 192, bits, 96, true, DType::kF16, 1)));
  }
  QuantWeight real = random_quant(16, 64, 4, 64, false, DType::kF16, 1);
  real.scheme.zero = ZeroKind::kReal;
  real.offsets.assign(16, 0.5f);
  EXPECT_TRUE(refused(real));
}

// Every stage of every tile is somebody's, once; a tile's parts follow each other through the workers, as
// take() expects.
TEST(CudaPlan, DealsOutEveryStageOnce) {
  const cuda::DeviceTraits device{132, 232448, true};
  std::vector<cuda::GemmConfig> configs(std::begin(cuda::kGemmConfigs), std::end(cuda::kGemmConfigs));
  configs.insert(configs.end(), std::begin(cuda::kGemm8Configs), std::end(cuda::kGemm8Configs));
  for (const int out : {64, 576, 4096, 6144, 28672})
    for (const int in : {64, 576, 4096, 14336})
      for (const int64_t tokens : {17, 64, 100, 256, 1000, 4096})
        for (const cuda::GemmConfig& config : configs) {
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
