// Device code shared by the 4-bit kernels: codes to operand fragments, tensor-core products, asynchronous
// copies.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/layout.h"

namespace awq::cuda {

// ---- codes to numbers
// ------------------------------------------------------------------------------------------- fp16: 0x6400 |
// q is 1024 + q and 0x6400 | q << 4 is 1024 + 16 q, both exact; subtracting 1024 + zero, or the fused (1024 +
// 16 q) / 16 - (64 + zero), leaves q - zero exactly. bf16 has 7 mantissa bits, so 0x4300 | q is 128 + q and
// the pairs are shifted down first. (Kim et al. 2022, "Who Says Elephants Can't Run", section 3.)

__device__ __forceinline__ uint32_t and_or(uint32_t a, uint32_t mask, uint32_t bits) {
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(a), "r"(mask), "r"(bits));
  return r;
}
__device__ __forceinline__ uint32_t as_bits(__half2 v) { return *reinterpret_cast<uint32_t*>(&v); }
__device__ __forceinline__ uint32_t as_bits(__nv_bfloat162 v) { return *reinterpret_cast<uint32_t*>(&v); }
__device__ __forceinline__ __half2 as_half2(uint32_t v) { return *reinterpret_cast<__half2*>(&v); }
__device__ __forceinline__ __nv_bfloat162 as_bf162(uint32_t v) {
  return *reinterpret_cast<__nv_bfloat162*>(&v);
}

// Scale and zero point of a lane's two rows r and r + 8 in the form its activation type needs.
template <class T>
struct GroupParams;

template <>
struct GroupParams<__half> {
  uint32_t zero_lo, zero_hi;  // 1024 + zero of row r; -(64 + zero of row r+8)
  __half2 scale_lo, scale_hi;

  // scales: fp16 of row r (low half) and row r+8; zeros: a nibble each.
  __device__ __forceinline__ void set(uint32_t scales, uint32_t zeros) {
    zero_lo = 0x64006400u | (zeros & 15u) * 0x10001u;
    zero_hi = 0xd400d400u | (zeros & 0xf0u) * 0x10001u;
    const __half2 s = as_half2(scales);
    scale_lo = __low2half2(s), scale_hi = __high2half2(s);
  }
  // One word to the four registers of operand A, code - zero.
  __device__ __forceinline__ void integers(uint32_t w, uint32_t a[4]) const {
    const __half2 sixteenth = as_half2(0x2c002c00u);
#pragma unroll
    for (int i = 0; i < 2; ++i, w >>= 8) {
      a[2 * i] = as_bits(__hsub2(as_half2(and_or(w, 0x000f000fu, 0x64006400u)), as_half2(zero_lo)));
      a[2 * i + 1] =
          as_bits(__hfma2(as_half2(and_or(w, 0x00f000f0u, 0x64006400u)), sixteenth, as_half2(zero_hi)));
    }
  }
  // The same times the scales.
  __device__ __forceinline__ void weights(uint32_t w, uint32_t a[4]) const {
    integers(w, a);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      a[2 * i] = as_bits(__hmul2(as_half2(a[2 * i]), scale_lo));
      a[2 * i + 1] = as_bits(__hmul2(as_half2(a[2 * i + 1]), scale_hi));
    }
  }
};

template <>
struct GroupParams<__nv_bfloat16> {
  uint32_t zero_lo, zero_hi;  // 128 + zero of row r, of row r+8
  __nv_bfloat162 scale_lo, scale_hi;

  __device__ __forceinline__ void set(uint32_t scales, uint32_t zeros) {
    zero_lo = 0x43004300u | (zeros & 15u) * 0x10001u;
    zero_hi = 0x43004300u | (zeros >> 4 & 15u) * 0x10001u;
    const float2 s = __half22float2(as_half2(scales));
    scale_lo = __float2bfloat162_rn(s.x), scale_hi = __float2bfloat162_rn(s.y);
  }
  __device__ __forceinline__ void integers(uint32_t w, uint32_t a[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      a[i] = as_bits(__hsub2(as_bf162(and_or(w >> 4 * i, 0x000f000fu, 0x43004300u)),
                             as_bf162(i % 2 ? zero_hi : zero_lo)));
  }
  __device__ __forceinline__ void weights(uint32_t w, uint32_t a[4]) const {
    integers(w, a);
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = as_bits(__hmul2(as_bf162(a[i]), i % 2 ? scale_hi : scale_lo));
  }
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
// The two halves of it. What stood in shared memory before cluster_arrive() is seen by the cluster's blocks after cluster_wait().
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
#endif
}
// A pair of floats to the shared memory of another block of the cluster, 8-byte aligned.
__device__ __forceinline__ void store_cluster(uint32_t address, uint32_t rank, float2 v) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "st.shared::cluster.v2.f32 [remote], {%2, %3};}" ::"r"(address),
      "r"(rank), "f"(v.x), "f"(v.y)
      : "memory");
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
