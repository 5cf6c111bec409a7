// Attention of decoding sequences on Hopper: a cluster of blocks shares the keys of a sequence and key head, and its blocks hand each
// other their sums through shared memory.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/rope.cuh"

namespace awq::cuda {
namespace {

// Pages of a sequence that its newest token sees, dealt to the blocks of a cluster in turn, and in a block to its warps.
struct DealtPages {
  int first_key, begin, end;  // pages [begin, end)
  __device__ __forceinline__ DealtPages(const AttentionArgs& a, const DeviceSpan& span)
      : first_key(a.window > 0 ? max(0, span.past - a.window + 1) : 0), begin(first_key / kCachePage), end(span.past / kCachePage + 1) {}
  // How many of `each` get any when `rank` of `count` blocks have taken theirs before.
  __device__ __forceinline__ int takers(int rank, int count, int each) const { return min((end - begin - rank + count - 1) / count, each); }
};

// Shared memory of a block: a line for each warp and row (sums [head_dim], maximum, sum of weights), the group's queries, and what the
// blocks of the cluster send: sums of this block's share of the group's pairs of elements, and every row's maximum and sum of weights.
template <class T, int HeadDim>
struct DecodeShared {
  static constexpr int kLine = HeadDim + 2;
  int warps, group, blocks;
  __host__ __device__ int pairs() const { return group * HeadDim / 2; }
  __host__ __device__ int share() const { return (pairs() + blocks - 1) / blocks; }
  __host__ __device__ int queries_at() const { return warps * group * kLine * 4; }
  __host__ __device__ int sums_at() const { return queries_at() + group * HeadDim * static_cast<int>(sizeof(T)); }
  __host__ __device__ int ends_at() const { return sums_at() + (blocks > 1 ? blocks * share() * 8 : 0); }
  __host__ __device__ int bytes() const { return ends_at() + (blocks > 1 ? blocks * group * 8 : 0); }
};

// Joins sums that stand `step` floats apart, each with its own maximum: the elements at `x`, maximum and sum of weights at `ends`.
struct Joined {
  float top = -INFINITY, sum = 0;
  float2 o = {0, 0};
  __device__ __forceinline__ Joined(const float* x, int x_step, const float* ends, int ends_step, int count) {
    for (int i = 0; i < count; ++i) top = fmaxf(top, ends[i * ends_step]);
    const float base = top == -INFINITY ? 0 : top;
    for (int i = 0; i < count; ++i) {
      const float2 end = *reinterpret_cast<const float2*>(ends + i * ends_step), v = *reinterpret_cast<const float2*>(x + i * x_step);
      const float weight = exp2f(end.x - base);
      o.x += v.x * weight, o.y += v.y * weight, sum += end.y * weight;
    }
  }
};

// Block: a member of a cluster (span x key head). It prepares the group's queries, and the one with the last page the new key and value,
// which it puts into the cache. Spans, positions and pages are the host's: they need no predecessor.
template <class T, class Stored, int HeadDim, int Warps>
__global__ void __launch_bounds__(Warps * 32) decode_kernel(const __grid_constant__ AttentionArgs a, const __grid_constant__ RopeArgs rope) {
  allow_successor();
  constexpr int kLine = DecodeShared<T, HeadDim>::kLine, kPairs = HeadDim / 2;
  extern __shared__ __align__(16) std::byte shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = a.heads / a.cache.kv_heads, blocks = a.splits, rank = blockIdx.x % blocks;
  if (blocks > 1) cluster_arrive();  // whoever waits for it knows that all blocks have begun and can be written to
  const DecodeShared<T, HeadDim> layout{Warps, group, blocks};
  float* lines = reinterpret_cast<float*>(shared);
  T* queries = reinterpret_cast<T*>(shared + layout.queries_at());
  const int kv = blockIdx.x / blocks % a.cache.kv_heads, index = blockIdx.x / (blocks * a.cache.kv_heads);
  const DeviceSpan span = a.batch.spans[index];
  const DealtPages pages(a, span);
  const int from = pages.begin + rank + warp * blocks, step = Warps * blocks, last = pages.end - 1;
  const auto load = [&](int i, Page<T, Stored, HeadDim>& page) { load_page<false>(a, span, i, kv, lane, page); };
  // The keys of earlier steps need no predecessor either; only the last page gets a new one in this step.
  Page<T, Stored, HeadDim> content;
  if (from < last) load(from, content);
  const bool newest = (last - pages.begin) % blocks == rank;
  const int position = a.batch.positions[span.first], own_page = newest ? a.batch.pages[span.pages + position / kCachePage] : 0;
  Rotation<HeadDim / 32> rotation;
  rotation.set(rope, position, lane);
  wait_for_predecessor();
  for (int h = warp; h < group + (newest ? 2 : 0); h += Warps) {
    const int head = h < group ? kv * group + h : a.heads + kv + (h - group) * a.cache.kv_heads;
    float* line = lines + warp * group * kLine;
    prepare_head<T>(rope, static_cast<const T*>(rope.qkv) + span.first * a.ldq + head * HeadDim, head, rotation, line, lane);
    if (h < group)
      for (int i = lane; i < HeadDim; i += 32) queries[h * HeadDim + i] = static_cast<T>(line[i]);
    else
      store_in_cache<T>(a.cache, own_page, position, kv, h > group, line, lane);
    __syncwarp();
  }
  __syncthreads();
  const T* q_rows[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) q_rows[h] = lane / 4 + 8 * h < group ? queries + (lane / 4 + 8 * h) * HeadDim : nullptr;
  uint32_t q[HeadDim / 16][4];
  load_queries<T, HeadDim>(q_rows, lane, q);
  const int low[2] = {pages.first_key, pages.first_key}, high[2] = {span.past, span.past};
  Accumulator<HeadDim> acc;
  const float scale = a.scale * kLog2E;
  if (from == last) load(from, content);
  for (int i = from; i <= last; i += step) {
    Page<T, Stored, HeadDim> next;
    if (i + step <= last) load(i + step, next);
    take_page(content, i * kCachePage, low, high, scale, lane, q, acc);
    content = next;
  }
  finish_sums(acc);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = lane / 4 + 8 * h;
    if (row >= group || from > last) continue;
    float* line = lines + (warp * group + row) * kLine;
#pragma unroll
    for (int i = 0; i < HeadDim / 8; ++i)
      *reinterpret_cast<float2*>(line + i * 8 + lane % 4 * 2) = make_float2(acc.o[i][2 * h], acc.o[i][2 * h + 1]);
    if (lane % 4 == 0) *reinterpret_cast<float2*>(line + HeadDim) = make_float2(acc.top[h], acc.sum[h]);
  }
  __syncthreads();
  const int count = pages.takers(rank, blocks, Warps), total = layout.pairs();
  uint32_t* y = reinterpret_cast<uint32_t*>(static_cast<T*>(a.y) + (static_cast<int64_t>(span.first) * a.heads + kv * group) * HeadDim);
  const auto joined_here = [&](int pair) {
    const float* line = lines + pair / kPairs * kLine;
    return Joined(line + pair % kPairs * 2, group * kLine, line + HeadDim, group * kLine, count);
  };
  if (blocks == 1) {
    for (int pair = threadIdx.x; pair < total; pair += Warps * 32) {
      const Joined all = joined_here(pair);
      y[pair] = pack_pair<T>(all.o.x / all.sum, all.o.y / all.sum);
    }
    return;
  }
  // Block r finishes the r-th share of the pairs: it gets every block's sums of these.
  const int share = layout.share();
  float *sums = reinterpret_cast<float*>(shared + layout.sums_at()), *ends = reinterpret_cast<float*>(shared + layout.ends_at());
  cluster_wait();
  if (count > 0) {
    for (int pair = threadIdx.x; pair < total; pair += Warps * 32)
      store_cluster(shared_address(sums + (rank * share + pair % share) * 2), pair / share, joined_here(pair).o);
    for (int i = threadIdx.x; i < group * blocks; i += Warps * 32) {
      const Joined all = joined_here(i / blocks * kPairs);
      store_cluster(shared_address(ends + (rank * group + i / blocks) * 2), i % blocks, make_float2(all.top, all.sum));
    }
  }
  cluster_sync();
  const int members = pages.takers(0, 1, blocks);
  for (int own = threadIdx.x; own < share && rank * share + own < total; own += Warps * 32) {
    const int pair = rank * share + own;
    const Joined all(sums + own * 2, share * 2, ends + pair / kPairs * 2, group * 2, members);
    y[pair] = pack_pair<T>(all.o.x / all.sum, all.o.y / all.sum);
  }
}

template <class T, class Stored, int HeadDim>
cudaError_t decode(const AttentionArgs& a, const RopeArgs& rope, cudaStream_t stream) {
  const LaunchShape shape{a.batch.span_count * a.cache.kv_heads * a.splits, a.warps * 32, a.splits};
  const DecodeShared<T, HeadDim> layout{a.warps, a.heads / a.cache.kv_heads, a.splits};
  const auto kernel = a.warps == 8 ? decode_kernel<T, Stored, HeadDim, 8> : decode_kernel<T, Stored, HeadDim, 4>;
  return launch_kernel(kernel, true, shape, layout.bytes(), stream, a, rope);
}

}  // namespace

cudaError_t launch_attention_decode(Act act, const AttentionArgs& args, const RopeArgs& rope, cudaStream_t stream) {
  return by_cache(act, args.cache, [&]<class T, class Stored, int HeadDim>() { return decode<T, Stored, HeadDim>(args, rope, stream); });
}

}  // namespace awq::cuda
