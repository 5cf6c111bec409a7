// Device code shared by the kernels of packed weights: codes to operand fragments, tensor-core products, asynchronous
// copies.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/layout.h"
#include "kernels/cuda/nf4.h"

namespace awq::cuda {

// ---- codes to numbers
// ------------------------------------------------------------------------------------------- fp16: 0x6400 |
// q is 1024 + q and 0x6400 | q << 4 is 1024 + 16 q, both exact; subtracting 1024 + zero, or the fused (1024 +
// 16 q) / 16 - (64 + zero), leaves q - zero exactly. bf16 has 7 mantissa bits, so 0x4300 | q is 128 + q and
// the pairs are shifted down first. (Kim et al. 2022, "Who Says Elephants Can't Run", section 3.) 8-bit codes
// get their upper byte from a byte permutation: 0x6400 | q holds all of them, 0x4300 | q their low seven bits.

__device__ __forceinline__ uint32_t and_or(uint32_t a, uint32_t mask, uint32_t bits) {
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(a), "r"(mask), "r"(bits));
  return r;
}
// Bytes of a (0 to 3) and b (4 to 7), chosen by the low four nibbles of `selector`, each below 8.
__device__ __forceinline__ uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(selector));
  return r;
}
__device__ __forceinline__ uint32_t as_bits(__half2 v) { return *reinterpret_cast<uint32_t*>(&v); }
__device__ __forceinline__ uint32_t as_bits(__nv_bfloat162 v) { return *reinterpret_cast<uint32_t*>(&v); }
__device__ __forceinline__ __half2 as_half2(uint32_t v) { return *reinterpret_cast<__half2*>(&v); }
__device__ __forceinline__ __nv_bfloat162 as_bf162(uint32_t v) {
  return *reinterpret_cast<__nv_bfloat162*>(&v);
}

// Zero points of a lane's two rows r and r + 8 in the form its activation type needs. unscaled() makes the four registers of operand A
// from a step's codes: code - zero, or values of NF4's table.
template <class T, Format F>
struct GroupParams;

template <>
struct GroupParams<__half, Format::kAffine4> {
  uint32_t zero_lo, zero_hi;  // 1024 + zero of row r; -(64 + zero of row r+8)

  __device__ __forceinline__ void set(uint32_t zeros) {  // a nibble each
    zero_lo = 0x64006400u | (zeros & 15u) * 0x10001u;
    zero_hi = 0xd400d400u | (zeros & 0xf0u) * 0x10001u;
  }
  __device__ __forceinline__ void unscaled(uint32_t w, uint32_t a[4]) const {
    const __half2 sixteenth = as_half2(0x2c002c00u);
#pragma unroll
    for (int i = 0; i < 2; ++i, w >>= 8) {
      a[2 * i] = as_bits(__hsub2(as_half2(and_or(w, 0x000f000fu, 0x64006400u)), as_half2(zero_lo)));
      a[2 * i + 1] =
          as_bits(__hfma2(as_half2(and_or(w, 0x00f000f0u, 0x64006400u)), sixteenth, as_half2(zero_hi)));
    }
  }
};

template <>
struct GroupParams<__nv_bfloat16, Format::kAffine4> {
  uint32_t zero_lo, zero_hi;  // 128 + zero of row r, of row r+8

  __device__ __forceinline__ void set(uint32_t zeros) {
    zero_lo = 0x43004300u | (zeros & 15u) * 0x10001u;
    zero_hi = 0x43004300u | (zeros >> 4 & 15u) * 0x10001u;
  }
  __device__ __forceinline__ void unscaled(uint32_t w, uint32_t a[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      a[i] = as_bits(__hsub2(as_bf162(and_or(w >> 4 * i, 0x000f000fu, 0x43004300u)),
                             as_bf162(i % 2 ? zero_hi : zero_lo)));
  }
};

template <>
struct GroupParams<__half, Format::kAffine8> {
  uint32_t zero_lo, zero_hi;  // 1024 + zero of row r, of row r+8

  __device__ __forceinline__ void set(uint32_t zeros) {  // a byte each
    zero_lo = 0x64006400u | (zeros & 255u) * 0x10001u;
    zero_hi = 0x64006400u | (zeros >> 8) * 0x10001u;
  }
  __device__ __forceinline__ void unscaled(uint32_t left, uint32_t right, uint32_t a[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t q = permute_bytes(i < 2 ? left : right, 0x64646464u, i % 2 ? 0x4342 : 0x4140);
      a[i] = as_bits(__hsub2(as_half2(q), as_half2(i % 2 ? zero_hi : zero_lo)));
    }
  }
};

template <>
struct GroupParams<__nv_bfloat16, Format::kAffine8> {
  __nv_bfloat162 zero_lo, zero_hi;  // zero - 128 of row r, of row r+8

  __device__ __forceinline__ void set(uint32_t zeros) {
    zero_lo = __float2bfloat162_rn(static_cast<float>(static_cast<int>(zeros & 255u) - 128));
    zero_hi = __float2bfloat162_rn(static_cast<float>(static_cast<int>(zeros >> 8) - 128));
  }
  // 128 + the low seven bits, less 128 where the highest is set and 256 where not, is code - 128: exact, as is the difference to
  // zero - 128, an integer below 256.
  __device__ __forceinline__ void unscaled(uint32_t left, uint32_t right, uint32_t a[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t q = permute_bytes(i < 2 ? left : right, 0x43434343u, i % 2 ? 0x4342 : 0x4140);
      const __nv_bfloat162 low = as_bf162(q & 0xff7fff7fu), top = as_bf162((q & 0x00800080u) ^ 0x43804380u);
      a[i] = as_bits(__hsub2(__hsub2(low, top), i % 2 ? zero_hi : zero_lo));
    }
  }
};

// Byte Byte of the 16-bit entries First .. First+3 of NF4's table.
template <class T>
constexpr uint32_t nf4_bytes(int first, int byte) {
  uint32_t bytes = 0;
  for (int i = 0; i < 4; ++i)
    bytes |= (uint32_t{std::is_same_v<T, __half> ? nf4_f16(first + i) : nf4_bf16(first + i)} >> 8 * byte & 255u) << 8 * i;
  return bytes;
}
template <class T, int First, int Byte>
inline constexpr uint32_t kNf4Bytes = nf4_bytes<T>(First, Byte);

// Four codes at a time: the low three bits of each choose a byte among entries 0 to 7 and one among 8 to 15, the highest bit one
// of the two; so for the low and for the high bytes of the numbers, which then meet.
template <class T>
struct GroupParams<T, Format::kNf4> {
  __device__ __forceinline__ void set(uint32_t) {}

  template <int Byte>
  static __device__ __forceinline__ uint32_t bytes(uint32_t index, uint32_t upper) {
    const uint32_t below = permute_bytes(kNf4Bytes<T, 0, Byte>, kNf4Bytes<T, 4, Byte>, index);
    const uint32_t above = permute_bytes(kNf4Bytes<T, 8, Byte>, kNf4Bytes<T, 12, Byte>, index);
    return permute_bytes(below, above, upper);
  }
  __device__ __forceinline__ void unscaled(uint32_t w, uint32_t a[4]) const {
    const uint32_t index = w & 0x77777777u, upper = and_or(w >> 1, 0x44444444u, 0x32103210u);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t low = bytes<0>(index >> 16 * i, upper >> 16 * i), high = bytes<1>(index >> 16 * i, upper >> 16 * i);
      a[2 * i] = permute_bytes(low, high, 0x5140);
      a[2 * i + 1] = permute_bytes(low, high, 0x7362);
    }
  }
};

// A lane's codes of a strip and block, and its zero points of a strip's, as stored.
template <Format F>
struct BlockCodes {
  static constexpr int kParts = fragment_bytes(F) / kFragmentBytes;
  uint4 parts[kParts];

  __device__ __forceinline__ uint32_t word(int i) const {
    const uint4& p = parts[i / 4];
    return i % 4 == 0 ? p.x : i % 4 == 1 ? p.y : i % 4 == 2 ? p.z : p.w;
  }
  // Operand A of step i of 16 columns, not scaled.
  template <class T>
  __device__ __forceinline__ void unscaled(const GroupParams<T, F>& params, int i, uint32_t a[4]) const {
    if constexpr (kParts == 2)
      params.unscaled(word(2 * i), word(2 * i + 1), a);
    else
      params.unscaled(word(i), a);
  }
};
template <Format F>
__device__ __forceinline__ uint32_t load_zeros(const unsigned char* strip, int lane) {
  if constexpr (F == Format::kAffine8) return *reinterpret_cast<const uint16_t*>(strip + lane / 4 * 2);
  if constexpr (F == Format::kAffine4) return strip[lane / 4];
  return 0;
}

// The two rows' scales, as pairs.
template <class T>
struct GroupScales;

template <>
struct GroupScales<__half> {
  __half2 lo, hi;  // of row r, of row r+8

  __device__ __forceinline__ void set(uint32_t scales) {  // fp16 of row r (low half) and row r+8
    const __half2 s = as_half2(scales);
    lo = __low2half2(s), hi = __high2half2(s);
  }
  __device__ __forceinline__ uint32_t scaled(uint32_t a, bool upper) const { return as_bits(__hmul2(as_half2(a), upper ? hi : lo)); }
};

template <>
struct GroupScales<__nv_bfloat16> {
  __nv_bfloat162 lo, hi;

  __device__ __forceinline__ void set(uint32_t scales) {
    const float2 s = __half22float2(as_half2(scales));
    lo = __float2bfloat162_rn(s.x), hi = __float2bfloat162_rn(s.y);
  }
  __device__ __forceinline__ uint32_t scaled(uint32_t a, bool upper) const { return as_bits(__hmul2(as_bf162(a), upper ? hi : lo)); }
};

template <class T>
__device__ __forceinline__ uint32_t pack_pair(float lo, float hi);
template <>
__device__ __forceinline__ uint32_t pack_pair<__half>(float lo, float hi) {
  return as_bits(__floats2half2_rn(lo, hi));
}
template <>
__device__ __forceinline__ uint32_t pack_pair<__nv_bfloat16>(float lo, float hi) {
  return as_bits(__floats2bfloat162_rn(lo, hi));
}

// SwiGLU of a pair of sums.
__device__ __forceinline__ float gated(float gate, float up) { return gate / (1 + __expf(-gate)) * up; }

// ---- tensor cores
// ----------------------------------------------------------------------------------------------- d [16 x 8]
// += a [16 x 16] b [16 x 8], fp32 sums.
template <class T>
__device__ __forceinline__ void mma_16x8x16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void mma_16x8x16<__half>(float d[4], const uint32_t a[4], uint32_t b0,
                                                    uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void mma_16x8x16<__nv_bfloat16>(float d[4], const uint32_t a[4], uint32_t b0,
                                                           uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- shared memory and asynchronous copies
// ----------------------------------------------------------------------
__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
// Four 8 x 8 matrices of 16-bit numbers; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrix_x4(uint32_t r[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row));
}
// Past the L1 cache; `bytes` of the 16 are read, the others become zero.
__device__ __forceinline__ void copy16_async(uint32_t to, const void* from, int bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
}
__device__ __forceinline__ void copy8_async(uint32_t to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(from));
}
template <int Bytes>
__device__ __forceinline__ void copy_async(uint32_t to, const void* from) {
  static_assert(Bytes == 8 || Bytes == 16);
  if constexpr (Bytes == 8)
    copy8_async(to, from);
  else
    copy16_async(to, from);
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;"); }
template <int Pending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// ---- clusters of blocks (Hopper); elsewhere no kernel that uses them is launched
// --------------------------------
__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
#endif
}
// A float in the shared memory of another block of the cluster.
__device__ __forceinline__ float load_cluster(uint32_t address, uint32_t rank) {
  float v = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %1, %2;\n"
      "ld.shared::cluster.f32 %0, [remote];}"
      : "=f"(v)
      : "r"(address), "r"(rank)
      : "memory");
#endif
  return v;
}

// ---- programmatic dependent launch
// ------------------------------------------------------------------------------ A kernel launched with that
// attribute starts while its predecessor ends: weights may be fetched at once, but what earlier kernels
// wrote, and what they may still read, is touched only after wait_for_predecessor().
__device__ __forceinline__ void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void allow_successor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

}  // namespace awq::cuda
