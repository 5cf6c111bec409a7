// Draws tokens from logits: sample.h lists the passes.
#include "kernels/cuda/sample.h"

#include <climits>

#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/launch.cuh"

namespace awq::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kEach = kSamplePart / kThreads, kAtOnce = 8;  // tokens a thread looks at; loads under way
constexpr int kOwnBins = kSampleBins / kThreads;
static_assert(kEach % kAtOnce == 0 && kOwnBins * kThreads == kSampleBins);
constexpr uint32_t kNaNsEnd = 0x007fffff, kNothing = 0xff800000;  // orders of infinity (smaller ones: NaN) and of -infinity

// Its own inverse on the bits. 0 and -0 are equal.
__device__ __forceinline__ uint32_t flip(uint32_t bits) { return bits >> 31 ? bits : ~bits & 0x7fffffffu; }
__device__ __forceinline__ uint32_t order_of(float x) { return x == 0 ? 0x7fffffffu : flip(__float_as_uint(x)); }
__device__ __forceinline__ float logit_of(uint32_t order) { return __uint_as_float(flip(order)); }

__device__ __forceinline__ bool stays(const SampleState& s, uint32_t order, int id) {
  return order < s.cut_order || (order == s.cut_order && id <= s.cut_id);
}

// The block's row and the part of it.
struct Place {
  int row, part, parts;
  __device__ __forceinline__ explicit Place(const SampleArgs& a) : parts(static_cast<int>(gridDim.x) / a.count) {
    row = static_cast<int>(blockIdx.x) / parts, part = static_cast<int>(blockIdx.x) % parts;
  }
};

__device__ __forceinline__ float* line_of(const SampleArgs& a, const SampleRow& row) { return a.logits + row.row * a.vocab; }

// f(logit, id) for the part's tokens, and -infinity beyond the vocabulary.
template <class F>
__device__ __forceinline__ void for_each_in(const float* line, int part, int vocab, const F& f) {
  const int first = part * kSamplePart + static_cast<int>(threadIdx.x);
#pragma unroll 1
  for (int i = 0; i < kEach; i += kAtOnce) {
    float x[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j)
      if (const int id = first + (i + j) * kThreads; id < vocab)
        x[j] = line[id];
      else
        x[j] = -INFINITY;
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) f(x[j], first + (i + j) * kThreads);
  }
}

// Whether the block is the last of its row; then it sees what the others wrote, read past the first cache.
__device__ __forceinline__ bool last_to_arrive(SampleState& s, int parts) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(&s.arrivals, 1u) == static_cast<uint32_t>(parts) - 1;
    if (last) s.arrivals = 0;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// The sum of the values of the threads before this one, exactly 0 where all of them are; `all`: of the block. sums [kWarps] in
// shared memory, not in use by others.
__device__ __forceinline__ double sum_before(double own, double* sums, double& all) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  double sum = own;
#pragma unroll
  for (int i = 1; i < 32; i *= 2) {
    const double other = __shfl_up_sync(~0u, sum, i);
    if (lane >= i) sum += other;
  }
  if (lane == 31) sums[warp] = sum;
  double before = __shfl_up_sync(~0u, sum, 1);
  if (lane == 0) before = 0;
  __syncthreads();
  double warps_before = 0;
  all = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w == warp) warps_before = all;
    all += sums[w];
  }
  return warps_before + before;
}

// exp((x - top) / temperature): the Sampler's weight but for its last bits.
struct Weight {
  double top, inverse;
  __device__ __forceinline__ Weight(const SampleRow& row, const SampleState& s)
      : top(s.top), inverse(1 / static_cast<double>(row.temperature)) {}
  __device__ __forceinline__ double operator()(float x) const { return exp((static_cast<double>(x) - top) * inverse); }
};

// Of the sum of all weights, at least 1: what roundings can amount to. Of n weights the Sampler's sums are off by n * 2^-53, those of
// masses by as much, and a comparison has two of each.
__device__ __forceinline__ double rounding(int64_t vocab) { return static_cast<double>(vocab) * 0x1p-50 + 1e-13; }

constexpr int kEditThreads = 256;

template <class F>
__device__ __forceinline__ void edit_each(const SampleArgs& a, float* line, int first, int count, const F& f) {
  for (int i = first + static_cast<int>(threadIdx.x); i < first + count; i += kEditThreads) f(line + a.edits[i].id, i);
  __syncthreads();  // an id may be in the next list, too
}

// A block per row. Each operation rounds for itself, as the Sampler's do.
__global__ void __launch_bounds__(kEditThreads) edit_kernel(SampleArgs a) {
  allow_successor();
  wait_for_predecessor();
  const SampleRow row = a.rows[blockIdx.x];
  float* line = line_of(a, row);
  edit_each(a, line, row.edits, row.added, [&](float* x, int i) {
    a.before[i] = *x;
    *x = __fadd_rn(*x, a.edits[i].value);
  });
  edit_each(a, line, row.edits + row.added, row.seen, [&](float* x, int i) {
    a.before[i] = *x;
    *x = *x < 0 ? __fmul_rn(*x, row.penalty) : __fdiv_rn(*x, row.penalty);
  });
  edit_each(a, line, row.edits + row.added + row.seen, row.subtracted, [&](float* x, int i) {
    a.before[i] = *x;
    *x = __fsub_rn(*x, a.edits[i].value);
  });
}

__global__ void __launch_bounds__(kEditThreads) undo_edits_kernel(SampleArgs a) {
  allow_successor();
  wait_for_predecessor();
  const SampleRow row = a.rows[blockIdx.x];
  float* line = line_of(a, row);
  const auto restore = [&](float* x, int i) { *x = a.before[i]; };
  edit_each(a, line, row.edits + row.added + row.seen, row.subtracted, restore);
  edit_each(a, line, row.edits + row.added, row.seen, restore);
  edit_each(a, line, row.edits, row.added, restore);
}

__global__ void __launch_bounds__(kThreads) best_kernel(SampleArgs a) {
  __shared__ unsigned long long warps[kWarps];
  allow_successor();
  wait_for_predecessor();
  const Place at(a);
  const float* line = line_of(a, a.rows[at.row]);
  SampleState& s = a.scratch[at.row].state;
  unsigned long long best = ~0ull;
  for_each_in(line, at.part, static_cast<int>(a.vocab), [&](float x, int id) {
    const unsigned long long key = isnan(x) ? 0 : static_cast<unsigned long long>(order_of(x)) << 32 | static_cast<uint32_t>(id);
    best = min(best, key);
  });
#pragma unroll
  for (int i = 16; i > 0; i /= 2) best = min(best, __shfl_xor_sync(~0u, best, i));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kWarps; ++w) best = min(best, warps[w]);
    atomicMax(&s.best, ~best);
  }
  if (!last_to_arrive(s, at.parts) || threadIdx.x != 0) return;
  best = ~__ldcg(&s.best);
  const auto order = static_cast<uint32_t>(best >> 32);
  s.best = 0;
  s.top = logit_of(order);
  s.cut_order = ~0u, s.cut_id = INT_MAX, s.open = 0;
  s.undecided = order <= kNaNsEnd || order >= kNothing;
  a.ids[at.row] = s.undecided ? -1 : static_cast<int>(static_cast<uint32_t>(best));
}

// Puts into *id the nth, from 1, of the tokens of this order that stay: for a whole block, when there are more of them.
__device__ void find_nth(const float* line, int vocab, const SampleState& s, uint32_t order, int nth, int* id) {
  __shared__ int found[kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int each = ((vocab + kWarps - 1) / kWarps + 31) / 32 * 32, first = warp * each, end = min(vocab, first + each);
  const auto is_one = [&](int i) { return i < end && order_of(line[i]) == order && stays(s, order, i); };
  int own = 0;
#pragma unroll 4
  for (int i = first + lane; i < first + each; i += 32) own += is_one(i) ? 1 : 0;
  own = __reduce_add_sync(~0u, own);
  if (lane == 0) found[warp] = own;
  __syncthreads();
  int before = 0;
  for (int w = 0; w < warp; ++w) before += found[w];
  if (nth <= before || nth > before + own) return;
  for (int i = first + lane; i < first + each; i += 32) {
    const bool one = is_one(i);
    const uint32_t ones = __ballot_sync(~0u, one);
    if (nth <= before + __popc(ones)) {
      if (one && before + __popc(ones & ((1u << lane) - 1)) + 1 == nth) *id = i;
      return;
    }
    before += __popc(ones);
  }
}

// How many of `equal` tokens of weight w top-p keeps, the heavier ones being `above`: those before which the sum has not reached the
// target; 0 where roundings decide.
__device__ __forceinline__ int kept_of_equals(double above, double target, double w, int equal, double edge) {
  const double wanted = (target - above) / w, kept = ceil(wanted);
  const bool near = fabs(wanted - rint(wanted)) * w <= edge;
  return !near && kept >= 1 && kept <= equal ? static_cast<int>(kept) : 0;
}

constexpr double kUnit = 0x1p-52;  // of a mass, which three limbs of 18 bits hold: sums of a part stay below 2^32
constexpr uint32_t kLimb = (1u << 18) - 1;
static_assert(static_cast<uint64_t>(kLimb) * kSamplePart < (uint64_t{1} << 32));

__device__ __forceinline__ bool searches(const SampleRow& row, bool mass) {
  return row.temperature > 0 && (mass ? row.top_p < 1 : row.top_k > 0);
}

template <bool kMass>
__global__ void __launch_bounds__(kThreads, 2) select_kernel(SampleArgs a, int level) {
  __shared__ uint32_t counts[kSampleBins];
  __shared__ uint32_t limbs[kMass ? 3 : 1][kMass ? kSampleBins : 1];
  __shared__ double sums[kWarps];
  __shared__ int found, kept;
  allow_successor();
  wait_for_predecessor();
  const Place place(a);
  const SampleRow row = a.rows[place.row];
  SampleScratch& scratch = a.scratch[place.row];
  const SampleState s = scratch.state;
  if (s.undecided || (level == 0 ? !searches(row, kMass) : !s.open)) return;
  const float* line = line_of(a, row);
  const Weight weight(row, s);
  const int bits = level == 2 ? 10 : 11, shift = level == 0 ? 21 : level == 1 ? 10 : 0;

  for (int b = threadIdx.x; b < kSampleBins; b += kThreads) {
    counts[b] = 0;
    if constexpr (kMass) limbs[0][b] = limbs[1][b] = limbs[2][b] = 0;
  }
  __syncthreads();
  for_each_in(line, place.part, static_cast<int>(a.vocab), [&](float x, int id) {
    const uint32_t order = order_of(x);
    if (order >= kNothing || (level > 0 && order >> (shift + bits) != s.prefix) || !stays(s, order, id)) return;
    const uint32_t bin = order >> shift & ((1u << bits) - 1);
    atomicAdd(&counts[bin], 1u);
    if constexpr (kMass) {
      const unsigned long long mass = __double2ull_rn(weight(x) * (1 / kUnit));
      if (const auto limb = static_cast<uint32_t>(mass) & kLimb; limb != 0) atomicAdd(&limbs[0][bin], limb);
      if (const auto limb = static_cast<uint32_t>(mass >> 18) & kLimb; limb != 0) atomicAdd(&limbs[1][bin], limb);
      if (const auto limb = static_cast<uint32_t>(mass >> 36); limb != 0) atomicAdd(&limbs[2][bin], limb);
    }
  });
  __syncthreads();
  for (int b = threadIdx.x; b < kSampleBins; b += kThreads) {
    if (counts[b] == 0) continue;
    atomicAdd(&scratch.counts[b], counts[b]);
    if constexpr (kMass) atomicAdd(&scratch.masses[b], (limbs[0][b] + limbs[1][b] * 0x1p18 + limbs[2][b] * 0x1p36) * kUnit);
  }
  if (!last_to_arrive(scratch.state, place.parts)) return;

  double values[kOwnBins], own = 0;
  int equals[kOwnBins];
#pragma unroll
  for (int j = 0; j < kOwnBins; ++j) {
    const int b = static_cast<int>(threadIdx.x) * kOwnBins + j;
    equals[j] = static_cast<int>(__ldcg(&scratch.counts[b]));
    values[j] = kMass ? __ldcg(&scratch.masses[b]) : equals[j];
    scratch.counts[b] = 0;
    if constexpr (kMass) scratch.masses[b] = 0;
    own += values[j];
  }
  if (threadIdx.x == 0) found = kSampleBins;
  double all;
  const double before = sum_before(own, sums, all);
  const double target = level > 0 ? s.target : kMass ? row.top_p * all : row.top_k, total = level > 0 ? s.total : all;
  if (!kMass && level == 0 && target >= all) return;  // all stay
  double above = (level > 0 ? s.above : 0) + before, crossed = 0;
  int crossing = -1, equal = 0;
#pragma unroll
  for (int j = 0; j < kOwnBins; ++j) {
    if (crossing < 0 && above < target && above + values[j] >= target)
      crossing = static_cast<int>(threadIdx.x) * kOwnBins + j, crossed = above, equal = equals[j];
    above += values[j];
  }
  if (crossing >= 0) atomicMin(&found, crossing);
  __syncthreads();
  SampleState& to = scratch.state;
  if (found == kSampleBins) {
    if (threadIdx.x == 0) to.undecided = 1, a.ids[place.row] = -1;
    return;
  }
  const uint32_t prefix = (level > 0 ? s.prefix << bits : 0) | static_cast<uint32_t>(found);
  if (found == crossing) {
    to.open = level < 2;
    to.prefix = prefix, to.above = crossed, to.target = target, to.total = total;
    if (level == 2) {
      kept = kMass ? kept_of_equals(crossed, target, weight(logit_of(prefix)), equal, total * rounding(a.vocab))
                   : static_cast<int>(target - crossed);
      to.undecided = kept == 0;
      if (kept == 0) a.ids[place.row] = -1;
      if (kept == equal) kept = INT_MAX;
    }
  }
  if (level < 2) return;
  __syncthreads();
  if (threadIdx.x == 0) {
    to.cut_order = prefix;
    if (kept == INT_MAX) to.cut_id = prefix == s.cut_order ? s.cut_id : INT_MAX;
  }
  if (kept != 0 && kept != INT_MAX) find_nth(line, static_cast<int>(a.vocab), s, prefix, kept, &to.cut_id);
}

// The weight of a token that stays, else 0. What roundings decide is noted.
struct StayingWeight {
  const SampleState& s;
  Weight weight;
  double min_p, cut, tied;
  bool by_mass;
  __device__ __forceinline__ StayingWeight(const SampleRow& row, const SampleState& state)
      : s(state), weight(row, state), min_p(row.min_p), cut(logit_of(state.cut_order)), by_mass(row.top_p < 1) {
    // The Sampler orders what top-p keeps by weights. Logits so close to the cut's may have its weight, and then go by their ids.
    const double temperature = row.temperature;
    tied = 1e-14 * (temperature + fabs(cut - weight.top));
  }
  __device__ __forceinline__ double operator()(float x, int id, bool& undecided) const {
    const uint32_t order = order_of(x);
    if (order >= kNothing) return 0;
    if (by_mass && order != s.cut_order && fabs(x - cut) <= tied) undecided = true;
    if (!stays(s, order, id)) return 0;
    const double w = weight(x);
    if (min_p == 0 || x == s.top) return w;
    if (fabs(w - min_p) <= 1e-13 * min_p) undecided = true;
    return w < min_p ? 0 : w;
  }
};

__global__ void __launch_bounds__(kThreads) draw_kernel(SampleArgs a) {
  __shared__ double sums[kWarps], part_sums[kSampleMostParts];
  __shared__ double total, point, before_part;
  __shared__ int chosen, token;
  allow_successor();
  wait_for_predecessor();
  const Place place(a);
  const SampleRow row = a.rows[place.row];
  const SampleState s = a.scratch[place.row].state;
  if (row.temperature == 0 || s.undecided) return;
  const float* line = line_of(a, row);
  const int vocab = static_cast<int>(a.vocab);
  const StayingWeight weight(row, s);
  double sum = 0, all;
  bool undecided = false;
  for_each_in(line, place.part, vocab, [&](float x, int id) { sum += weight(x, id, undecided); });
  sum_before(sum, sums, all);
  undecided = __syncthreads_or(undecided);
  SamplePart* parts = a.parts + static_cast<int64_t>(place.row) * place.parts;
  if (threadIdx.x == 0) parts[place.part] = {all, undecided};
  if (!last_to_arrive(a.scratch[place.row].state, place.parts)) return;

  undecided = row.uniform == 0;  // the Sampler's first weight above 0 may be 0 here
  for (int p = threadIdx.x; p < place.parts; p += kThreads) {
    part_sums[p] = __ldcg(&parts[p].sum);
    if (__ldcg(&parts[p].undecided) != 0) undecided = true;
  }
  undecided = __syncthreads_or(undecided);
  if (threadIdx.x == 0) {
    total = 0;
    for (int p = 0; p < place.parts; ++p) total += part_sums[p];
    point = row.uniform * total;
    before_part = 0, chosen = -1, token = INT_MAX;
    for (int p = 0; p < place.parts && chosen < 0; ++p) {
      if (before_part + part_sums[p] > point)
        chosen = p;
      else
        before_part += part_sums[p];
    }
  }
  __syncthreads();
  if (undecided || chosen < 0) {
    if (threadIdx.x == 0) a.ids[place.row] = -1;
    return;
  }

  const int first = chosen * kSamplePart + static_cast<int>(threadIdx.x) * kEach;
  double weights[kEach], own = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    weights[i] = first + i < vocab ? weight(line[first + i], first + i, undecided) : 0;
    own += weights[i];
  }
  double reached = before_part + sum_before(own, sums, all);
  const double edge = total * rounding(a.vocab), at = point;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const double next = reached + weights[i];
    if (weights[i] > 0 && reached <= at && at < next) {
      const bool sure = (reached == 0 || reached + edge <= at) && at + edge < next;
      atomicMin(&token, sure ? first + i : -1);
    }
    reached = next;
  }
  __syncthreads();
  if (threadIdx.x == 0) a.ids[place.row] = token == INT_MAX ? -1 : token;
}

__global__ void gather_rows_kernel(const uint2* from, const int* rows, int64_t each, uint2* to) {
  allow_successor();
  wait_for_predecessor();
  const uint2* line = from + rows[blockIdx.x] * each;
  for (int64_t i = threadIdx.x; i < each; i += blockDim.x) to[blockIdx.x * each + i] = line[i];
}

}  // namespace

cudaError_t launch_sample(const SampleArgs& args, const SamplePasses& passes, cudaStream_t stream) {
  const LaunchShape shape{args.count * sample_parts(args.vocab), kThreads, 1};
  cudaError_t error = cudaSuccess;
  const auto start = [&](auto kernel, const LaunchShape& s, auto... more) {
    if (error == cudaSuccess) error = launch_kernel(kernel, starts_early(), s, 0, stream, args, more...);
  };
  if (passes.edit) start(edit_kernel, {args.count, kEditThreads, 1});
  start(best_kernel, shape);
  for (int level = 0; level < 3 && passes.top_k; ++level) start(select_kernel<false>, shape, level);
  for (int level = 0; level < 3 && passes.top_p; ++level) start(select_kernel<true>, shape, level);
  if (passes.draw) start(draw_kernel, shape);
  return error;
}

cudaError_t launch_undo_edits(const SampleArgs& args, cudaStream_t stream) {
  return launch_kernel(undo_edits_kernel, starts_early(), {args.count, kEditThreads, 1}, 0, stream, args);
}

cudaError_t launch_gather_rows(const void* from, const int* rows, int count, int64_t row_bytes, void* to, cudaStream_t stream) {
  return launch_kernel(gather_rows_kernel, starts_early(), {count, 256, 1}, 0, stream, static_cast<const uint2*>(from), rows, row_bytes / 8,
                       static_cast<uint2*>(to));
}

}  // namespace awq::cuda
