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
  const std::optional<Format> format = packed_format(w);
  if (!format)
    fail(Code::kUnsupported,
         "CUDA linear: weights {} [{}, {}]: expected NF4 or affine codes with integer zero points or none and 16-bit inputs, groups of 32 "
         "or of a multiple of 64 columns, and at most {} rows and columns",
         s.text(), w.rows, w.cols, kLargest);
  const int64_t group = s.group_size(w.cols);
  PackedView view;
  view.format = *format;
  view.out = static_cast<int>(w.rows), view.in = static_cast<int>(w.cols);
  view.blocks = static_cast<int>((w.cols + 127) / 128 * 2);
  if (group == 32) {
    view.groups_per_block = 2, view.groups = view.blocks * 2;
  } else {
    // One group for a row holds the columns beyond it too.
    view.group_blocks = group == w.cols ? view.blocks : static_cast<int>(group / kBlockCols);
    view.groups = (view.blocks + view.group_blocks - 1) / view.group_blocks;
  }
  return view;
}

// The power of two that brings the largest scale into [128, 256).
int scale_exponent(const std::vector<float>& scales) {
  float top = 0;
  for (const float s : scales) top = std::max(top, std::abs(s));
  return top > 0 ? 7 - std::ilogb(top) : 0;
}

// The codes of a strip and block; those beyond W are 0.
using Tile = uint8_t[kStripRows][kBlockCols];

void fill_tile(const QuantWeight& w, int64_t row0, int64_t col0, Tile& tile) {
  const auto cols = static_cast<size_t>(std::clamp<int64_t>(w.cols - col0, 0, kBlockCols));
  for (int64_t r = 0; r < kStripRows; ++r) {
    const size_t given = row0 + r < w.rows ? cols : 0;
    if (given > 0) std::memcpy(tile[r], w.codes.data() + (row0 + r) * w.cols + col0, given);
    std::memset(tile[r] + given, 0, kBlockCols - given);
  }
}

// Word `word` of a lane, as layout.h has it.
template <Format F>
uint32_t fragment_word(const Tile& tile, int lane, int word) {
  constexpr int kBits = F == Format::kAffine8 ? 8 : 4, kCodes = 32 / kBits, kWords = kBits / 4;  // in a word, in a step
  uint32_t result = 0;
  for (int i = 0; i < kCodes; ++i) {
    const int at = word % kWords * kCodes + i;                 // among the 8 codes of a step
    const int reg = F == Format::kAffine4 ? at % 4 : at / 2;   // of operand A
    const int half = F == Format::kAffine4 ? at / 4 : at % 2;  // of the register
    const int row = lane / 4 + reg % 2 * 8, col = word / kWords * 16 + lane % 4 * 2 + reg / 2 * 8 + half;
    result |= static_cast<uint32_t>(tile[row][col]) << (kBits * i);
  }
  return result;
}

template <Format F>
void pack_codes(const QuantWeight& w, const PackedView& view, int64_t strip, std::byte* to) {
  Tile tile;
  for (int64_t block = 0; block < view.blocks; ++block) {
    fill_tile(w, strip * kStripRows, block * kBlockCols, tile);
    for (int part = 0; part < fragment_bytes(F) / kFragmentBytes; ++part)
      for (int lane = 0; lane < kLanes; ++lane)
        for (int i = 0; i < 4; ++i, to += 4) {
          const uint32_t word = fragment_word<F>(tile, lane, part * 4 + i);
          std::memcpy(to, &word, 4);
        }
  }
}

void pack_codes(const QuantWeight& w, const PackedView& view, int64_t strip, std::byte* to) {
  switch (view.format) {
    case Format::kAffine8: return pack_codes<Format::kAffine8>(w, view, strip, to);
    case Format::kNf4: return pack_codes<Format::kNf4>(w, view, strip, to);
    case Format::kAffine4: return pack_codes<Format::kAffine4>(w, view, strip, to);
  }
}

void pack_scales(const QuantWeight& w, const PackedView& view, int exponent, int64_t panel, std::byte* to) {
  const int64_t groups = w.groups();
  for (int64_t g = 0; g < std::min<int64_t>(view.groups, groups); ++g) {
    std::byte* block = to + g * scale_bytes(view.format);
    for (int r = 0; r < kPanelRows; ++r) {
      const int64_t row = panel * kPanelRows + r;
      if (row >= w.rows) break;
      const int pair = r / kStripRows * 8 + r % 8, upper = r / 8 % 2;
      const fp16_t scale = f32_to_fp16(std::ldexp(w.scales[row * groups + g], exponent));
      std::memcpy(block + pair * 4 + upper * 2, &scale, 2);
      if (view.format == Format::kAffine4)
        block[kZeroOffset + pair] |= static_cast<std::byte>(w.zero_at(row, g) << (4 * upper));
      else if (view.format == Format::kAffine8)
        block[kZeroOffset + pair * 2 + upper] = static_cast<std::byte>(w.zero_at(row, g));
    }
  }
}

}  // namespace

std::optional<Format> packed_format(const QuantWeight& w) {
  const Scheme& s = w.scheme;
  const int64_t group = s.group_size(w.cols);
  if ((group != 32 && group % kBlockCols != 0 && group != w.cols) || w.rows > kLargest || w.cols > kLargest) return {};
  if (s.code == CodeKind::kNf4) return Format::kNf4;
  if (s.zero == ZeroKind::kReal) return {};
  if (s.bits > 4) return Format::kAffine8;
  return s.activations == Activations::kFloat ? std::optional(Format::kAffine4) : std::nullopt;
}

PackedHost pack_host(const QuantWeight& w) {
  check_consistent(w);
  PackedHost packed;
  packed.view = view_of(w);
  const PackedView& view = packed.view;
  const int exponent = scale_exponent(w.scales);
  packed.view.out_scale = std::ldexp(1.0f, -exponent);
  const int64_t strip_bytes = view.codes_bytes() / view.strips(), panel_bytes = view.scales_bytes() / view.panels();
  packed.codes.resize(static_cast<size_t>(view.codes_bytes()));
  packed.scales.resize(static_cast<size_t>(view.scales_bytes()));
  parallel_for(view.strips(),
               [&](int64_t s) { pack_codes(w, view, s, packed.codes.data() + s * strip_bytes); });
  parallel_for(view.panels(),
               [&](int64_t p) { pack_scales(w, view, exponent, p, packed.scales.data() + p * panel_bytes); });
  return packed;
}

}  // namespace awq::cuda
