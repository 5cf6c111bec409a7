// Drawing tokens from logits on the device: what Sampler (runtime/sampling.h) draws, or -1. -1 where the row has no answer (NaN, or a
// largest logit that is not finite), and where the Sampler's own rounding decides: its sums go one after the other in double, those
// here do not, so a draw that comes as close to the edge between two tokens as all roundings together is left to it. The edges are
// about 1e-10 of the sum wide for 200,000 tokens.
//
// A row of logits is cut into parts of kSamplePart tokens, a block each; the last block of a row to end joins them. The passes:
//   edit    biases and penalties, in place; what was there is kept for launch_undo_edits
//   best    the largest logit and its lowest id: greedy rows end here
//   select  three times: where top-k cuts, as radix search for the k-th of the order (logit downwards, then id) by histograms of
//           11, 11 and 10 bits of the logit
//   select  three times: where top-p cuts, the same by sums of weights, in fixed point of 52 bits
//   draw    the sum of the weights that stay; the last block finds the part that the random number falls into and, in it, the token
// All launches return at once; nothing allocates. Kernels start early (launch.h) and wait for what is in front of them.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace awq::cuda {

// A row as RowDraw (model/draw.h) describes it; its edits lie one list behind the other.
struct SampleRow {
  double uniform = 0;
  float temperature = 0, top_p = 1, min_p = 0, penalty = 1;
  int row = 0;  // of the logits
  int top_k = 0;
  int edits = 0;  // where they begin
  int added = 0, seen = 0, subtracted = 0;
};
struct SampleEdit {
  int id = 0;
  float value = 0;  // unused where seen
};

constexpr int kSamplePart = 8192, kSampleMostParts = 512, kSampleBins = 2048;
inline int sample_parts(int64_t vocab) { return static_cast<int>((vocab + kSamplePart - 1) / kSamplePart); }
inline bool sample_takes(int64_t vocab) { return vocab > 0 && sample_parts(vocab) <= kSampleMostParts; }

// What the passes over one row tell each other. An order is a logit's bits, mapped so that larger logits have smaller ones.
struct SampleState {
  unsigned long long best;  // ~(order << 32 | id), the largest of all; 0 between launches
  uint32_t arrivals;        // 0 between launches
  float top;                // the largest logit
  // Tokens of a smaller order stay, and those of this order up to this id.
  uint32_t cut_order;
  int cut_id;
  int undecided;
  // While a search goes on: the upper bits of the order that it is about, what lies above these in count or mass, what is to be
  // reached, and the mass of all.
  int open;
  uint32_t prefix;
  double above, target, total;
};
struct SampleScratch {
  SampleState state;
  uint32_t counts[kSampleBins];  // 0 between launches
  double masses[kSampleBins];    // 0 between launches
};
struct SamplePart {
  double sum;
  int undecided;
};

struct SampleArgs {
  float* logits = nullptr;  // [rows of the logits, vocab]
  int64_t vocab = 0;
  const SampleRow* rows = nullptr;  // [count]
  int count = 0;
  const SampleEdit* edits = nullptr;
  float* before = nullptr;           // [edits]
  SampleScratch* scratch = nullptr;  // [count], zeros at first
  SamplePart* parts = nullptr;       // [count, sample_parts(vocab)]
  int* ids = nullptr;                // [count], the answers
};
// Which passes any of the rows needs.
struct SamplePasses {
  bool edit = false, top_k = false, top_p = false, draw = false;
};
cudaError_t launch_sample(const SampleArgs& args, const SamplePasses& passes, cudaStream_t stream);
// The logits are again as they were before launch_sample with the same args.
cudaError_t launch_undo_edits(const SampleArgs& args, cudaStream_t stream);

// to [count, row_bytes] = rows[i] of `from`; row_bytes a multiple of 8.
cudaError_t launch_gather_rows(const void* from, const int* rows, int count, int64_t row_bytes, void* to, cudaStream_t stream);

}  // namespace awq::cuda
