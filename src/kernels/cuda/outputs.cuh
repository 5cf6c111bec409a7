// What becomes of a product's sums (launch.h: Output), for the kernels of few tokens.
#pragma once
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/launch.h"

namespace awq::cuda {

// 1 / rms of a token's residual from its parts; a warp.
__device__ __forceinline__ float inverse_rms(const NormParts& parts, int token, int dim, float eps, int lane) {
  const float* row = parts.sums + token * parts.stride();
  float sum = 0;
#pragma unroll 8
  for (int i = lane; i < parts.count; i += 32) sum += row[i];
#pragma unroll
  for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
  return rsqrtf(sum / static_cast<float>(dim) + eps);
}

// What the outputs of each token are multiplied by, and for kResidual the scale that the next inputs get: written by the warps
// of a block before the barrier in front of its outputs.
template <int Tokens>
struct TokenScales {
  float outputs[Tokens], next[Tokens];

  __device__ __forceinline__ void fill(const LinearArgs& args, int warp, int warps, int lane) {
    const bool scaled = args.scaled.sums != nullptr, chained = args.output == Output::kResidual && args.residual.before.sums != nullptr;
    for (int t = warp; t < Tokens; t += warps) {
      float factor = 1, after = 1;
      if (t < args.tokens) {
        if (scaled)
          factor = inverse_rms(args.scaled, t, args.w.in, args.eps, lane) / args.scaled.sums[t * args.scaled.stride() + args.scaled.count];
        if (chained) after = inverse_rms(args.residual.before, t, args.w.out, args.eps, lane);
      }
      if (lane == 0) outputs[t] = factor * args.w.out_scale, next[t] = after;
    }
  }
};

// Stores outputs first, first + step, ... of the sums [Tokens][Rows] of the strips from `strip` on; total(i) is a sum, `before` what
// the residual stream has there (loaded early, kResidual). Whole warps call it, with `first` of lane 0 a multiple of 32.
template <class T, int Tokens, int Rows, int Step, class Total, class Before>
__device__ __forceinline__ void finish_outputs(const LinearArgs& args, const TokenScales<Tokens>& scales, int strip, int first,
                                               const Total& total, const Before& before) {
  constexpr int kAll = Tokens * Rows;
  if (args.output == Output::kGated) {
    for (int i = first; i < kAll / 2; i += Step) {
      const int token = i / (Rows / 2), part = i % (Rows / 2);
      const int at = token * Rows + part / 8 * kStripRows + part % 8, row = strip * 8 + part;
      const float gate = total(at) * scales.outputs[token], up = total(at + 8) * scales.outputs[token];
      if (token < args.tokens && row < args.w.out / 2)
        static_cast<T*>(args.y)[token * args.ldy + row] = static_cast<T>(gated(gate, up));
    }
  } else if (args.output == Output::kResidual) {
    const ResidualOutput& r = args.residual;
#pragma unroll
    for (int n = 0; n < (kAll + Step - 1) / Step; ++n) {
      const int i = first + n * Step, token = i / Rows, row = strip * kStripRows + i % Rows;
      const bool real = i < kAll && token < args.tokens && row < args.w.out;
      float v = 0;
      if (real) {
        v = before(n, token, row) + total(i) * scales.outputs[token];
        const int64_t at = static_cast<int64_t>(token) * args.w.out + row;
        r.residual[at] = v;
        static_cast<T*>(r.x)[at] = static_cast<T>(v * __ldg(r.gain + row) * scales.next[token]);
      }
      float squares = v * v;
#pragma unroll
      for (int k = 8; k > 0; k /= 2) squares += __shfl_xor_sync(~0u, squares, k);
      if (i < kAll && i % 16 == 0 && token < args.tokens) {
        float* parts = r.after.sums + token * r.after.stride();
        parts[row / kStripRows] = squares;
        if (row == 0) parts[r.after.count] = scales.next[token];
      }
    }
  } else {
    for (int i = first; i < kAll; i += Step) {
      const int token = i / Rows, row = strip * kStripRows + i % Rows;
      if (token >= args.tokens || row >= args.w.out) continue;
      const float sum = total(i) * scales.outputs[token];
      if (args.output == Output::kF32)
        static_cast<float*>(args.y)[token * args.ldy + row] = sum;
      else
        static_cast<T*>(args.y)[token * args.ldy + row] = static_cast<T>(sum);
    }
  }
}

// What the residual stream has at an output, and the bias of the product that is added to it.
__device__ __forceinline__ float residual_at(const LinearArgs& args, int token, int row) {
  const float v = args.residual.residual[static_cast<int64_t>(token) * args.w.out + row];
  return args.residual.bias ? v + __ldg(args.residual.bias + row) : v;
}

}  // namespace awq::cuda
