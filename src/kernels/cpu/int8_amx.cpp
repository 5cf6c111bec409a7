// The int8 matrix product on the tile registers (AMX-INT8); compiled with those flags. Up to eight tokens,
// and the quantization of activations, stay with AVX-512 VNNI.
#include <immintrin.h>

#include "kernels/cpu/int8_table.h"

namespace awq::simd {
namespace {

// Tile t of the matrix unit: up to 16 rows of up to 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

constexpr int kTokens = 16;  // of a tile; a step takes two of them against two row blocks

// Columns a step multiplies: a tile row of activations. The codes of 4 * step / 4 columns are a tile of their
// own.
int64_t step_columns(int64_t block) {
  return block % 64 == 0 ? 64 : block % 32 == 0 ? 32 : block % 16 == 0 ? 16 : 8;
}

// Registers 0..3 are sums [token tile][row block], 4 and 5 activations, 6 and 7 codes.
void configure(int64_t columns, int64_t tokens) {
  TileConfig c;
  const auto low = static_cast<uint8_t>(tokens < kTokens ? tokens : kTokens);
  const auto high = static_cast<uint8_t>(tokens > kTokens ? tokens - kTokens : 1);
  for (int i = 0; i < 4; ++i) {
    c.rows[i] = i < 2 ? low : high;
    c.row_bytes[i] = 64;
  }
  for (int i = 4; i < 6; ++i) {
    c.rows[i] = i == 4 ? low : high;
    c.row_bytes[i] = static_cast<uint16_t>(columns);
  }
  for (int i = 6; i < 8; ++i) {
    c.rows[i] = static_cast<uint8_t>(columns / 4);
    c.row_bytes[i] = 64;
  }
  __asm__ volatile("" : : "r"(&c) : "memory");  // g++ 12 believes that only the first 8 bytes are read
  _tile_loadconfig(&c);
}

// Codes of up to four bits become code - zero, which fits a signed byte, so that the sums need no correction.
bool centred(const Int8Weights& w) { return w.bits <= 4 || w.common_zero == 128; }

void unpack_centred(const Int8Weights& w, int64_t b0, int count, int64_t g0, int64_t g1, uint8_t* panel) {
  int8_avx512vnni().unpack(w, b0, count, g0, g1, panel);
  if (!centred(w)) return;
  const int64_t fours = w.block / 4, meta_bytes = w.meta_bytes();
  for (int j = 0; j < count; ++j)
    for (int64_t g = g0; g < g1; ++g) {
      const unsigned char* zeros = w.meta + ((b0 + j) * w.blocks + g) * meta_bytes + w.scale_bytes();
      __m512i zero = _mm512_set1_epi8(static_cast<char>(w.common_zero));
      if (w.common_zero < 0)  // each row's byte four times
        zero =
            _mm512_mullo_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros))),
                               _mm512_set1_epi32(0x01010101));
      uint8_t* at = panel + ((g - g0) * fours * kInt8PanelBlocks + j) * 64;
      for (int64_t i = 0; i < fours; ++i, at += kInt8PanelBlocks * 64)
        _mm512_storeu_si512(at, _mm512_sub_epi8(_mm512_loadu_si512(at), zero));
    }
}

struct Sums {
  alignas(64) int32_t v[4][kTokens][16];
};

template <bool kCentred, bool kBothTokens>
void multiply_block(const uint8_t* panel, int64_t steps, int64_t columns, const int8_t* q, int64_t stride,
                    Sums& sums) {
  constexpr int64_t kPanelRow = kInt8PanelBlocks * 64;
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kBothTokens) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t s = 0; s < steps; ++s) {
    const uint8_t* codes = panel + s * columns / 4 * kPanelRow;
    _tile_loadd(6, codes, kPanelRow);
    _tile_loadd(7, codes + 64, kPanelRow);
    _tile_loadd(4, q + s * columns, stride);
    if constexpr (kBothTokens) _tile_loadd(5, q + kTokens * stride + s * columns, stride);
    if constexpr (kCentred) {
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 4, 7);
      if constexpr (kBothTokens) {
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
      }
    } else {
      _tile_dpbsud(0, 4, 6);
      _tile_dpbsud(1, 4, 7);
      if constexpr (kBothTokens) {
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
      }
    }
  }
  _tile_stored(0, sums.v[0], 64);
  _tile_stored(1, sums.v[1], 64);
  if constexpr (kBothTokens) {
    _tile_stored(2, sums.v[2], 64);
    _tile_stored(3, sums.v[3], 64);
  }
}

// totals [token][32] of up to 32 tokens += the block's integer sums, scaled.
template <bool kCentred>
void add_sums(const Int8Weights& w, int64_t b0, int count, int64_t g, const Int8Activations& x,
              int64_t tokens, const Sums& sums, float* totals) {
  const int64_t meta_bytes = w.meta_bytes();
  for (int j = 0; j < count; ++j) {
    const unsigned char* meta = w.meta + ((b0 + j) * w.blocks + g) * meta_bytes;
    const __m512 scale = w.half_scales
                             ? _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(meta)))
                             : _mm512_loadu_ps(meta);
    __m512i zero = _mm512_set1_epi32(w.common_zero);
    if (!kCentred && w.common_zero < 0)
      zero = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(meta + w.scale_bytes())));
    for (int64_t t = 0; t < tokens; ++t) {
      __m512i d = _mm512_load_si512(sums.v[t / kTokens * 2 + j][t % kTokens]);
      if constexpr (!kCentred)
        d = _mm512_dpwssd_epi32(d, zero, _mm512_set1_epi32(x.negsum[t * x.blocks + g]));
      float* total = totals + t * 32 + j * 16;
      _mm512_store_ps(total, _mm512_fmadd_ps(_mm512_cvtepi32_ps(d),
                                             _mm512_mul_ps(scale, _mm512_set1_ps(x.scale[t * x.blocks + g])),
                                             _mm512_load_ps(total)));
    }
  }
}

__mmask16 row_mask(int64_t left) {
  return left >= 16 ? static_cast<__mmask16>(0xffff)
         : left > 0 ? static_cast<__mmask16>((1u << left) - 1)
                    : __mmask16{0};
}

template <bool kCentred>
void multiply(const Int8Weights& w, const uint8_t* panel, int64_t b0, int count, int64_t g0, int64_t g1,
              const Int8Activations& x, int64_t tokens, int64_t limit, float* y, int64_t ldy) {
  alignas(64) float totals[2 * kTokens * 32];
  Sums sums;
  const int64_t columns = step_columns(w.block), steps = w.block / columns;
  for (int64_t t0 = 0; t0 < tokens; t0 += 2 * kTokens) {
    const int64_t n = tokens - t0 < 2 * kTokens ? tokens - t0 : 2 * kTokens;
    if (t0 == 0 || n < 2 * kTokens) configure(columns, n);
    const Int8Activations part{x.q + t0 * x.stride, x.stride, x.scale + t0 * x.blocks,
                               x.negsum + t0 * x.blocks, x.blocks};
    float* out = y + t0 * ldy;
    for (int64_t t = 0; t < n; ++t)
      for (int j = 0; j < 2; ++j)
        _mm512_store_ps(
            totals + t * 32 + j * 16,
            _mm512_maskz_loadu_ps(g0 == 0 ? __mmask16{0} : row_mask(limit - j * 16), out + t * ldy + j * 16));
    for (int64_t g = g0; g < g1; ++g) {
      const uint8_t* codes = panel + (g - g0) * w.block * kInt8PanelBlocks * 16;
      const int8_t* q = part.q + g * w.block;
      n > kTokens ? multiply_block<kCentred, true>(codes, steps, columns, q, x.stride, sums)
                  : multiply_block<kCentred, false>(codes, steps, columns, q, x.stride, sums);
      add_sums<kCentred>(w, b0, count, g, part, n, sums, totals);
    }
    for (int64_t t = 0; t < n; ++t)
      for (int j = 0; j < 2; ++j)
        _mm512_mask_storeu_ps(out + t * ldy + j * 16, row_mask(limit - j * 16),
                              _mm512_load_ps(totals + t * 32 + j * 16));
  }
  _tile_release();
}

void gemm_amx(const Int8Weights& w, const uint8_t* panel, int64_t b0, int count, int64_t g0, int64_t g1,
              const Int8Activations& x, int64_t tokens, int64_t limit, float* y, int64_t ldy) {
  centred(w) ? multiply<true>(w, panel, b0, count, g0, g1, x, tokens, limit, y, ldy)
             : multiply<false>(w, panel, b0, count, g0, g1, x, tokens, limit, y, ldy);
}

}  // namespace

const Int8Table& int8_amx() {
  static const Int8Table table = [] {
    Int8Table t = int8_avx512vnni();
    t.name = "amx";
    t.gemm_tokens = 2 * kTokens;
    t.tiles = true;
    t.unpack = unpack_centred;
    t.gemm = gemm_amx;
    return t;
  }();
  return table;
}

}  // namespace awq::simd
