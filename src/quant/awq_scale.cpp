#include "quant/awq_scale.h"

#include <algorithm>
#include <cmath>

#include "base/progress.h"
#include "quant/rounders.h"

namespace awq {
namespace {

struct Candidate {
  std::vector<float> scale;
  double ratio = 0;  // exponent of the activations; 0 without the weight term is identity
  bool with_weights = false;
  double loss = 0;  // with min-max rounding, on some rows

  bool is_identity() const { return ratio == 0 && !with_weights; }
  bool in_awq_grid() const { return with_weights && ratio < 1; }
  std::string name() const {
    if (is_identity()) return "identity";
    return with_weights ? fmt::format("x^{:.3g}/w^{:.3g}", ratio, 1 - ratio) : fmt::format("x^{:.3g}", ratio);
  }
};

// Rows used to rank: evenly spaced, so many that a candidate costs about 0.8 GFLOP. The whole grid is ranked on every
// kCoarseStep-th of them, the best kRanked of it on all. The finalists are compared on all rows of the weights.
constexpr double kRankingWork = 4e8;
constexpr int64_t kMinRankingRows = 64, kCoarseStep = 4;
constexpr size_t kRanked = 10, kRankedQuick = 6, kRankedAwq = 3;

class Search {
 public:
  Search(const std::vector<GroupLinear>& linears, const SiteStats& stats, const ScaleSearch& search, QuantBackend& backend)
      : linears_(linears), stats_(stats), search_(search), backend_(backend), cols_(stats.dim) {
    sample_rows();
  }

  ScaleChoice run() {
    std::vector<Candidate> grid = candidates();
    refine(grid);
    rank(grid);
    ScaleChoice best = awq_rule(grid);
    for (const Candidate& c : finalists(grid)) consider(c, best);
    return best;
  }

 private:
  // Every n-th row of the quantized linears, stacked.
  void sample_rows() {
    int64_t total = 0;
    for (const GroupLinear& l : linears_) total += l.quantized ? l.weight.dim(0) : 0;
    const int64_t wanted = std::max(kMinRankingRows, static_cast<int64_t>(kRankingWork / static_cast<double>(cols_ * cols_)));
    const int64_t stride = std::max<int64_t>(1, total / wanted);
    std::vector<QuantBackend::Rows> rows;
    for (const GroupLinear& l : linears_)
      if (l.quantized && stride / 2 < l.weight.dim(0)) rows.push_back({&l.weight, stride / 2, stride});
    sample_ = backend_.gather(rows);
    const int64_t step = std::max<int64_t>(1, std::min(kCoarseStep, sample_.dim(0) / kMinRankingRows));
    coarse_ = step > 1 ? backend_.gather({{&sample_, step / 2, step}}) : sample_;
  }

  double ranking_loss(const QuantMatrix& rows, const std::vector<float>& scale) {
    const double loss = backend_.minmax_loss(rows, search_.scheme, search_.scale_dtype, scale, stats_.view());
    return std::isfinite(loss) ? loss : 1e300;
  }

  // Scales shared where channels must share one (largest magnitudes win), then moved so that the producer's gain
  // stays representable.
  std::vector<float> legal(std::vector<float> s) const {
    if (search_.norm_gain != nullptr) make_fold_exact(search_.norm_gain, search_.norm_offset, search_.norm_dtype, s);
    return s;
  }

  std::vector<float> shared(std::vector<float> x) const {
    if (search_.channel_owner.empty()) return x;
    const int32_t owners = 1 + *std::max_element(search_.channel_owner.begin(), search_.channel_owner.end());
    std::vector<double> sum(static_cast<size_t>(owners), 0.0);
    std::vector<int64_t> count(static_cast<size_t>(owners), 0);
    for (int64_t k = 0; k < cols_; ++k) sum[search_.channel_owner[k]] += x[k], ++count[search_.channel_owner[k]];
    for (int64_t k = 0; k < cols_; ++k)
      x[k] = static_cast<float>(sum[search_.channel_owner[k]] / static_cast<double>(count[search_.channel_owner[k]]));
    return x;
  }

  Candidate make(double ratio, bool with_weights) {
    check_cancelled();
    Candidate c{{}, ratio, with_weights, 0};
    const std::vector<float> ones(static_cast<size_t>(cols_), 1.0f);
    c.scale = legal(c.is_identity() ? ones : awq_scale(x_mean_, with_weights ? w_mean_ : ones, ratio));
    c.loss = ranking_loss(coarse_, c.scale);
    return c;
  }

  std::vector<Candidate> candidates() {
    x_mean_ = shared(stats_.abs_mean());
    w_mean_ = shared(awq_weight_mean(linears_, search_.scheme.group_size(cols_), backend_));
    std::vector<Candidate> grid;
    for (const bool with_weights : {false, true})
      for (int i = 0; i <= 20; ++i) grid.push_back(make(i / 20.0, with_weights));
    return grid;
  }

  // Half steps around the best of each family.
  void refine(std::vector<Candidate>& grid) {
    for (const bool with_weights : {false, true}) {
      const Candidate* best = nullptr;
      for (const Candidate& c : grid)
        if (c.with_weights == with_weights && (best == nullptr || c.loss < best->loss)) best = &c;
      const double ratio = best->ratio;
      for (const double r : {ratio - 0.025, ratio + 0.025})
        if (r > 0 && r < 1) grid.push_back(make(r, with_weights));
    }
  }

  // The best first. Keeps those worth a second look, the identity and the best of AutoAWQ's among them.
  void rank(std::vector<Candidate>& grid) {
    const auto less = [](const Candidate& a, const Candidate& b) { return a.loss < b.loss; };
    std::stable_sort(grid.begin(), grid.end(), less);
    std::vector<Candidate> kept;
    const size_t ranked = search_.quick ? kRankedQuick : kRanked;
    size_t awq = 0;
    for (Candidate& c : grid) {
      const bool of_awq = c.in_awq_grid() && awq++ < kRankedAwq;
      if (kept.size() < ranked || of_awq || c.is_identity()) kept.push_back(std::move(c));
    }
    if (coarse_.dim(0) < sample_.dim(0))
      for (Candidate& c : kept) c.loss = ranking_loss(sample_, c.scale);
    std::stable_sort(kept.begin(), kept.end(), less);
    grid = std::move(kept);
  }

  // Rounds all linears of weight * s and adds up their Gram losses.
  ScaleChoice evaluate(const std::vector<float>& s, bool awq_clip) const {
    ScaleChoice result;
    result.scale = s;
    result.free_range = !awq_clip;
    const GramMatrix gram = backend_.scaled_gram(stats_.view(), s);
    for (const GroupLinear& l : linears_) {
      if (!l.quantized) continue;
      check_cancelled();
      const QuantMatrix w = backend_.scaled(l.weight, s);
      RoundedWeight q = awq_clip && !l.clip_in_awq
                            ? backend_.minmax(w, search_.scheme, search_.scale_dtype)
                            : backend_.search(w, search_.scheme, search_.scale_dtype, gram.view(),
                                              awq_clip ? RangeEffort::kAwqClip : RangeEffort::kFull);
      result.loss += backend_.loss(w, q, gram.view(), search_.quick);
      result.rounded.emplace(l.module, std::move(q));
    }
    return result;
  }

  // AutoAWQ: the best of its 20 exponents (no scale where channels share one: it does not scale o_proj under grouped
  // queries), then its clip.
  ScaleChoice awq_rule(const std::vector<Candidate>& sorted) const {
    const Candidate* pick = nullptr;
    for (const Candidate& c : sorted) {
      const bool theirs = search_.channel_owner.empty() ? c.in_awq_grid() : c.is_identity();
      if (theirs && pick == nullptr) pick = &c;
    }
    ScaleChoice result = evaluate(pick->scale, true);
    result.chosen = pick->name() + ", AutoAWQ clip";
    result.awq_loss = result.loss;
    return result;
  }

  std::vector<Candidate> finalists(const std::vector<Candidate>& sorted) const {
    const size_t count = std::min<size_t>(search_.quick ? 2 : 3, sorted.size());
    std::vector<Candidate> out(sorted.begin(), sorted.begin() + static_cast<int64_t>(count));
    if (search_.quick) return out;
    bool has_identity = false, has_awq = false;
    for (const Candidate& c : out) has_identity |= c.is_identity(), has_awq |= c.in_awq_grid();
    for (const Candidate& c : sorted) {
      if (!has_identity && c.is_identity()) out.push_back(c);
      if (!has_awq && c.in_awq_grid()) out.push_back(c), has_awq = true;
    }
    return out;
  }

  void consider(const Candidate& c, ScaleChoice& best) const {
    ScaleChoice choice = evaluate(c.scale, false);
    if (!(choice.loss < best.loss)) return;
    choice.awq_loss = best.awq_loss;
    choice.chosen = c.name() + ", free range";
    best = std::move(choice);
  }

  const std::vector<GroupLinear>& linears_;
  const SiteStats& stats_;
  const ScaleSearch& search_;
  QuantBackend& backend_;
  int64_t cols_;
  QuantMatrix sample_, coarse_;
  std::vector<float> x_mean_, w_mean_;
};

}  // namespace

std::vector<float> awq_scale(const std::vector<float>& x_mean, const std::vector<float>& w_mean, double ratio) {
  std::vector<float> s(x_mean.size());
  float largest = 0, smallest = 3e38f;
  for (size_t k = 0; k < s.size(); ++k) {
    const double v = std::pow(static_cast<double>(x_mean[k]), ratio) / (std::pow(static_cast<double>(w_mean[k]), 1 - ratio) + 1e-4);
    s[k] = static_cast<float>(std::max(v, 1e-4));
    largest = std::max(largest, s[k]);
    smallest = std::min(smallest, s[k]);
  }
  const float norm = std::sqrt(largest) * std::sqrt(smallest);
  for (float& v : s) {
    v /= norm;
    if (!std::isfinite(v) || !(v > 0)) v = 1;
  }
  return s;
}

std::vector<float> awq_weight_mean(const std::vector<GroupLinear>& linears, int64_t group, QuantBackend& backend) {
  const int64_t cols = linears.front().weight.dim(1);
  std::vector<double> sum(static_cast<size_t>(cols), 0.0);
  int64_t rows = 0;
  for (const GroupLinear& l : linears) {
    rows += l.weight.dim(0);
    backend.add_relative_magnitudes(l.weight, group, sum);
  }
  std::vector<float> mean(static_cast<size_t>(cols));
  for (int64_t k = 0; k < cols; ++k) mean[k] = static_cast<float>(sum[k] / static_cast<double>(rows));
  return mean;
}

ScaleChoice search_scale(const std::vector<GroupLinear>& linears, const SiteStats& stats, const ScaleSearch& search,
                         QuantBackend& backend) {
  return Search(linears, stats, search, backend).run();
}

void apply_scale(const ScaleGroup& group, const std::vector<float>& scale, const ModelConfig& config, BlockWeights& block,
                 BlockMatrices& weights, QuantBackend& backend) {
  for (const std::string& module : group.consumers) backend.scale_columns(weights.at(module), scale);
  if (group.fold == Fold::kNorm) {
    float* gain = block.norms.at(group.producer).f32();
    for (size_t k = 0; k < scale.size(); ++k) gain[k] /= scale[k];
    return;
  }
  std::vector<float> rows = scale;
  if (group.fold == Fold::kKvHeads) {
    rows.resize(static_cast<size_t>(config.kv_heads * config.head_dim));
    const int64_t repeat = config.heads / config.kv_heads;
    for (int64_t r = 0; r < static_cast<int64_t>(rows.size()); ++r)
      rows[r] = scale[r / config.head_dim * repeat * config.head_dim + r % config.head_dim];
  }
  backend.divide_rows(weights.at(group.producer), group.producer_row, rows);
  const auto bias = block.biases.find(group.producer);
  if (bias == block.biases.end()) return;
  float* b = bias->second.f32() + group.producer_row;
  for (size_t r = 0; r < rows.size(); ++r) b[r] /= rows[r];
}

void apply_scale(const ScaleGroup& group, const std::vector<float>& scale, const ModelConfig& config, BlockWeights& block) {
  BlockMatrices weights;  // share the block's numbers
  for (auto& [module, weight] : block.weights)
    if (const auto* dense = std::get_if<Tensor>(&weight)) weights.emplace(module, *dense);
  apply_scale(group, scale, config, block, weights, cpu_quant_backend());
}

}  // namespace awq
