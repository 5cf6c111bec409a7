// Perplexity of a model over windows of a text, and how far its predictions are from a reference model's.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/progress.h"
#include "model/model.h"
#include "text/protocol.h"

namespace awq {

// Half widths of 95 % intervals take windows as the independent units, since neighbouring tokens are not
// independent. 0 when there is a single window.
struct Divergence {
  double kl = 0, kl_ci95 = 0;  // nats per target: mean of sum_v p_ref (ln p_ref - ln p)
  double kl_median = 0, kl_p99 = 0, kl_max = 0;
  // Share of targets with the same most likely token, 0..1.
  double top1_agreement = 0, top1_agreement_ci95 = 0;
  double reference_perplexity = 0;
  double perplexity_ratio_ci95 = 0;  // half width of the 95 % interval of perplexity over the reference's, from paired windows
  std::vector<double> window_kl;  // mean of each window: the units of the intervals, for paired comparisons
};

struct Evaluation {
  int64_t windows = 0, targets = 0;
  double nll = 0, nll_ci95 = 0;                // nats per target
  double perplexity = 0, perplexity_ci95 = 0;  // exp(nll); its half width to first order
  std::optional<Divergence> divergence;        // with a reference
};

// Runs the first `limit` windows of `tokens` (0: all) through the model and, unless null, the reference.
// Memory beyond the weights: the states of one window, at most 64 MiB of logits per model, and 8 bytes per
// target with a reference. kBadArgument: fewer tokens than one window, or two vocabularies of different size;
// kBadFile: logits that are not finite. With kv_dtype the model, not the reference, reads the keys and values of a window from
// a cache of that type, as it does when it generates.
Evaluation evaluate(const Model& model, const Model* reference, std::span<const int32_t> tokens,
                    const WindowSpec& spec, int64_t limit = 0, const ProgressFn& progress = {}, std::optional<DType> kv_dtype = {});

// The same for several models of one reference, whose logits are computed once.
std::vector<Evaluation> evaluate_all(std::span<const Model* const> models, const Model* reference, std::span<const int32_t> tokens,
                                     const WindowSpec& spec, int64_t limit = 0, const ProgressFn& progress = {},
                                     std::optional<DType> kv_dtype = {});

}  // namespace awq
