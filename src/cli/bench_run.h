// The measurements behind `awq bench`: a model's forward driven directly, without scheduler, and without sampling unless asked for.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/model.h"
#include "model/random_model.h"
#include "runtime/sampling.h"

namespace awq::cli {

struct BenchShape {
  int64_t prompt = 512;   // tokens of a prefill
  int64_t context = 512;  // tokens in the cache of every sequence before decoding
  int64_t decode = 32;    // tokens decoded per sequence and repetition
  int64_t batch = 1;      // sequences
  int64_t repeat = 5;     // repetitions; medians are reported
  DType kv_dtype = DType::kF16;
  std::optional<SamplingParams> sampling = {};  // tokens are drawn so while decoding
  bool host_sampling = false;                   // always from logits in host memory
};

struct BenchResult {
  double prefill_tokens_per_s = 0;  // of one sequence; 0 when prompt is 0
  double decode_tokens_per_s = 0;   // over all sequences; 0 when decode is 0
  double decode_step_seconds = 0;
  int64_t bytes_per_step = 0;  // weights once, and every sequence's keys and values
  double prefill_ops =
      0;  // integer operations of the linears of one prefill, the output layer's last row aside
  int64_t cache_bytes = 0;
  int64_t rss_bytes = 0;  // resident at the end, with all buffers of the steps
  double host_draws = 0;  // with sampling: the share of tokens drawn from logits in host memory
};

BenchResult run_bench(const Model& model, const BenchShape& shape);

// One linear of a block at some number of tokens, by each kind of product, in microseconds.
struct KernelRow {
  std::string linear;  // "gate_up [16384, 2048]"
  int64_t tokens = 0;
  double gemv_us = 0, gemm_us = 0, auto_us = 0, bf16_us = 0;
  int64_t bytes = 0;  // of the quantized weight
};
// Weights of their own, several copies, so that a row reads from memory as a model does.
std::vector<KernelRow> kernel_table(const ModelConfig& config, const RandomWeights& weights,
                                    const LoadOptions& options);
// Up to so many sequences the quantized products of a block take less time than the 16-bit ones; 0: never.
int64_t crossover(const std::vector<KernelRow>& rows);

}  // namespace awq::cli
