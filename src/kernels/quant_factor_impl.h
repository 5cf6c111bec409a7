// The inner product of the blocked factorization; included once per instruction set, inside its own
// namespace.

using DVec = double __attribute__((vector_size(64)));
constexpr int kWidth = 8;
#ifdef __AVX512F__
constexpr int kTileRows = 8, kTileVecs = 2;  // 16 of 32 registers
#else
constexpr int kTileRows = 4, kTileVecs = 1;  // 8 of 16, where a DVec is two registers
#endif

void subtract_product(const double* a, const double* b, int64_t depth, double* c, int64_t ldc) {
  for (int v0 = 0; v0 < kCols / kWidth; v0 += kTileVecs)
    for (int r0 = 0; r0 < kRows; r0 += kTileRows) {
      DVec sum[kTileRows][kTileVecs] = {};
      for (int64_t p = 0; p < depth; ++p) {
        const auto* row = reinterpret_cast<const DVec*>(b + p * kCols) + v0;
        for (int r = 0; r < kTileRows; ++r)
          for (int v = 0; v < kTileVecs; ++v) sum[r][v] += a[p * kRows + r0 + r] * row[v];
      }
      for (int r = 0; r < kTileRows; ++r)
        for (int v = 0; v < kTileVecs; ++v) {
          DVec x;
          double* at = c + (r0 + r) * ldc + (v0 + v) * kWidth;
          __builtin_memcpy(&x, at, sizeof x);
          x -= sum[r][v];
          __builtin_memcpy(at, &x, sizeof x);
        }
    }
}
