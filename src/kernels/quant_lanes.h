// Vectors of rows, included once per instruction set inside its own namespace, where kLanes is known: rows of a matrix lie
// across the lanes, so that every row is searched on its own while all steps are vector operations. The compiler's vector types
// keep one text for all instruction sets; products may be fused, so results differ between sets in the last bits.

using Vec = float __attribute__((vector_size(64)));
using Mask = int32_t __attribute__((vector_size(64)));
constexpr int kWidth = 16, kVecs = kLanes / kWidth;

struct Lanes {
  Vec v[kVecs];
};

inline Vec splat(float x) { return Vec{} + x; }
inline Vec vmin(Vec a, Vec b) { return a < b ? a : b; }
inline Vec vmax(Vec a, Vec b) { return a > b ? a : b; }
// Nearest even for |x| < 2^22: adding 1.5 * 2^23 leaves no fraction bits.
inline Vec vround(Vec x) { return (x + 12582912.0f) - 12582912.0f; }
