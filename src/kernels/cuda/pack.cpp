#include "kernels/cuda/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "base/thread_pool.h"

namespace awq::cuda {
namespace {

constexpr int64_t kLargest = int64_t{1} << 24;
constexpr int kLanes = 32;

PackedView view_of(const QuantWeight& w) {
  const Scheme& s = w.scheme;
  const int64_t group = s.group_size(w.cols);
  if (s.code != CodeKind::kAffine || s.bits > 4 || s.zero == ZeroKind::kReal ||
      s.activations != Activations::kFloat)
    fail(Code::kUnsupported, "CUDA linear: weights {}: expected at most 4 bits with integer zero points or none",
         s.text());
  if (group != 32 && group % 64 != 0)
    fail(Code::kUnsupported, "CUDA linear: groups of {} columns: expected 32 or a multiple of 64", group);
  if (w.rows > kLargest || w.cols > kLargest)
    fail(Code::kUnsupported, "CUDA linear: shape [{}, {}]: expected at most {} rows and columns", w.rows,
         w.cols, kLargest);
  PackedView view;
  view.out = static_cast<int>(w.rows), view.in = static_cast<int>(w.cols);
  view.blocks = static_cast<int>((w.cols + 127) / 128 * 2);
  view.groups_per_block = group == 32 ? 2 : 1;
  view.group_blocks = group == 32 ? 1 : static_cast<int>(group / kBlockCols);
  view.groups = group == 32 ? view.blocks * 2 : (view.blocks + view.group_blocks - 1) / view.group_blocks;
  return view;
}

// The power of two that brings the largest scale into [128, 256).
int scale_exponent(const std::vector<float>& scales) {
  float top = 0;
  for (const float s : scales) top = std::max(top, std::abs(s));
  return top > 0 ? 7 - std::ilogb(top) : 0;
}

// Word i of lane l of the strip's block that starts at column k0; columns beyond W are 0.
uint32_t fragment_word(const QuantWeight& w, int64_t row0, int64_t k0, int lane, int i) {
  uint32_t word = 0;
  for (int nibble = 0; nibble < 8; ++nibble) {  // bits 4 * nibble; layout.h
    const int64_t row = row0 + lane / 4 + nibble % 2 * 8;
    const int64_t col = k0 + 16 * i + lane % 4 * 2 + nibble / 2 % 2 * 8 + nibble / 4;
    if (row < w.rows && col < w.cols)
      word |= static_cast<uint32_t>(w.codes[row * w.cols + col]) << (4 * nibble);
  }
  return word;
}

void pack_codes(const QuantWeight& w, const PackedView& view, int64_t strip, std::byte* to) {
  for (int64_t block = 0; block < view.blocks; ++block)
    for (int lane = 0; lane < kLanes; ++lane)
      for (int i = 0; i < 4; ++i, to += 4) {
        const uint32_t word = fragment_word(w, strip * kStripRows, block * kBlockCols, lane, i);
        std::memcpy(to, &word, 4);
      }
}

void pack_scales(const QuantWeight& w, const PackedView& view, int exponent, int64_t panel, std::byte* to) {
  const int64_t groups = w.groups();
  for (int64_t g = 0; g < std::min<int64_t>(view.groups, groups); ++g) {
    std::byte* block = to + g * kScaleBytes;
    for (int r = 0; r < kPanelRows; ++r) {
      const int64_t row = panel * kPanelRows + r;
      if (row >= w.rows) break;
      const int pair = r / kStripRows * 8 + r % 8, upper = r / 8 % 2;
      const fp16_t scale = f32_to_fp16(std::ldexp(w.scales[row * groups + g], exponent));
      std::memcpy(block + pair * 4 + upper * 2, &scale, 2);
      block[kZeroOffset + pair] |= static_cast<std::byte>(w.zero_at(row, g) << (4 * upper));
    }
  }
}

}  // namespace

PackedHost pack_host(const QuantWeight& w) {
  check_consistent(w);
  PackedHost packed;
  packed.view = view_of(w);
  const PackedView& view = packed.view;
  const int exponent = scale_exponent(w.scales);
  packed.view.out_scale = std::ldexp(1.0f, -exponent);
  const int64_t strip_bytes = int64_t{view.blocks} * kFragmentBytes,
                panel_bytes = int64_t{view.groups} * kScaleBytes;
  packed.codes.resize(static_cast<size_t>(view.strips() * strip_bytes));
  packed.scales.resize(static_cast<size_t>(view.panels() * panel_bytes));
  parallel_for(view.strips(),
               [&](int64_t s) { pack_codes(w, view, s, packed.codes.data() + s * strip_bytes); });
  parallel_for(view.panels(),
               [&](int64_t p) { pack_scales(w, view, exponent, p, packed.scales.data() + p * panel_bytes); });
  return packed;
}

}  // namespace awq::cuda
