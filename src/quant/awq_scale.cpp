#include "quant/awq_scale.h"

#include <algorithm>
#include <cmath>

#include "base/progress.h"
#include "kernels/quant_ops.h"
#include "quant/rounders.h"

namespace awq {
namespace {

struct Candidate {
  std::vector<float> scale;
  double ratio = 0;  // exponent of the activations; 0 without the weight term is identity
  bool with_weights = false;
  double loss = 0;  // with min-max rounding, on the sampled rows

  bool is_identity() const { return ratio == 0 && !with_weights; }
  bool in_awq_grid() const { return with_weights && ratio < 1; }
  std::string name() const {
    if (is_identity()) return "identity";
    return with_weights ? fmt::format("x^{:.3g}/w^{:.3g}", ratio, 1 - ratio) : fmt::format("x^{:.3g}", ratio);
  }
};

// Rows used to rank the whole grid: evenly spaced, so many that a candidate costs about 0.8 GFLOP. The finalists are
// compared on all rows.
constexpr double kRankingWork = 4e8;
constexpr int64_t kMinRankingRows = 64;

class Search {
 public:
  Search(const std::vector<GroupLinear>& linears, const SiteStats& stats, const ScaleSearch& search)
      : linears_(linears), stats_(stats), search_(search), cols_(stats.dim) {
    sample_rows();
  }

  ScaleChoice run() {
    std::vector<Candidate> grid = candidates();
    refine(grid);
    std::stable_sort(grid.begin(), grid.end(), [](const Candidate& a, const Candidate& b) { return a.loss < b.loss; });
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
    for (const GroupLinear& l : linears_) {
      if (!l.quantized) continue;
      for (int64_t r = stride / 2; r < l.weight.dim(0); r += stride) {
        const float* row = l.weight.f32() + r * cols_;
        sample_.insert(sample_.end(), row, row + cols_);
      }
    }
    sample_rows_ = static_cast<int64_t>(sample_.size()) / cols_;
    error_.resize(sample_.size());
  }

  double ranking_loss(const std::vector<float>& scale) {
    minmax_error(sample_.data(), sample_rows_, cols_, search_.scheme, search_.scale_dtype, scale.data(), error_.data());
    const double loss = gram_loss(error_.data(), sample_rows_, cols_, stats_.gram.data());
    return std::isfinite(loss) ? loss : 1e300;
  }

  // Scales shared where channels must share one (largest magnitudes win), then moved so that the producer's gain
  // stays representable.
  std::vector<float> legal(std::vector<float> s) const {
    if (search_.norm_gain != nullptr) make_fold_exact(search_.norm_gain, search_.norm_dtype, s);
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
    c.loss = ranking_loss(c.scale);
    return c;
  }

  std::vector<Candidate> candidates() {
    x_mean_ = shared(stats_.abs_mean());
    w_mean_ = shared(awq_weight_mean(linears_, search_.scheme.group_size(cols_)));
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

  // The Gram matrix of x / s.
  std::vector<float> scaled_gram(const std::vector<float>& s) const {
    std::vector<float> g(stats_.gram.size());
    for (int64_t i = 0; i < cols_; ++i) {
      const float a = 1.0f / s[i];
      for (int64_t j = 0; j < cols_; ++j) g[i * cols_ + j] = stats_.gram[i * cols_ + j] * a / s[j];
    }
    return g;
  }

  // Rounds all linears of weight * s and adds up their Gram losses.
  ScaleChoice evaluate(const std::vector<float>& s, bool awq_clip) const {
    ScaleChoice result;
    result.scale = s;
    result.free_range = !awq_clip;
    const std::vector<float> gram = scaled_gram(s);
    for (const GroupLinear& l : linears_) {
      if (!l.quantized) continue;
      check_cancelled();
      const int64_t rows = l.weight.dim(0);
      Tensor scaled(DType::kF32, {rows, cols_});
      float* w = scaled.f32();
      for (int64_t i = 0; i < rows * cols_; ++i) w[i] = l.weight.f32()[i] * s[i % cols_];
      QuantWeight q = awq_clip && !l.clip_in_awq
                          ? quantize_minmax(w, rows, cols_, search_.scheme, search_.scale_dtype)
                          : range_search(w, rows, cols_, search_.scheme, search_.scale_dtype, gram.data(),
                                         awq_clip ? RangeEffort::kAwqClip : RangeEffort::kFull);
      Tensor error(DType::kF32, {rows, cols_});
      float* e = error.f32();
      dequantize(q, e);
      for (int64_t i = 0; i < rows * cols_; ++i) e[i] = w[i] - e[i];
      result.loss += gram_loss(e, rows, cols_, gram.data());
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

  static constexpr size_t kFinalists = 3;
  std::vector<Candidate> finalists(const std::vector<Candidate>& sorted) const {
    std::vector<Candidate> out(sorted.begin(), sorted.begin() + static_cast<int64_t>(std::min(kFinalists, sorted.size())));
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
  int64_t cols_, sample_rows_ = 0;
  std::vector<float> sample_, error_, x_mean_, w_mean_;
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

std::vector<float> awq_weight_mean(const std::vector<GroupLinear>& linears, int64_t group) {
  const int64_t cols = linears.front().weight.dim(1);
  std::vector<double> sum(static_cast<size_t>(cols), 0.0);
  int64_t rows = 0;
  for (const GroupLinear& l : linears) {
    rows += l.weight.dim(0);
    for (int64_t r = 0; r < l.weight.dim(0); ++r) {
      const float* w = l.weight.f32() + r * cols;
      for (int64_t at = 0; at < cols; at += group) {
        float largest = 0;
        for (int64_t k = at; k < at + group; ++k) largest = std::max(largest, std::fabs(w[k]));
        const float inverse = 1.0f / (largest + 1e-6f);
        for (int64_t k = at; k < at + group; ++k) sum[k] += std::fabs(w[k]) * inverse;
      }
    }
  }
  std::vector<float> mean(static_cast<size_t>(cols));
  for (int64_t k = 0; k < cols; ++k) mean[k] = static_cast<float>(sum[k] / static_cast<double>(rows));
  return mean;
}

ScaleChoice search_scale(const std::vector<GroupLinear>& linears, const SiteStats& stats, const ScaleSearch& search) {
  return Search(linears, stats, search).run();
}

namespace {

// Rows first, first + 1, ... of a linear and its bias.
void divide_rows(Tensor& weight, Tensor* bias, int64_t first, const std::vector<float>& row_scale) {
  const int64_t rows = static_cast<int64_t>(row_scale.size()), cols = weight.dim(1);
  float* w = weight.f32() + first * cols;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t k = 0; k < cols; ++k) w[r * cols + k] /= row_scale[r];
  if (bias != nullptr)
    for (int64_t r = 0; r < rows; ++r) bias->f32()[first + r] /= row_scale[r];
}

}  // namespace

void apply_scale(const ScaleGroup& group, const std::vector<float>& scale, const ModelConfig& config, BlockWeights& block) {
  for (const std::string& module : group.consumers) {
    Tensor& t = std::get<Tensor>(block.weights.at(module));
    const int64_t cols = t.dim(1);
    float* w = t.f32();
    for (int64_t i = 0; i < t.numel(); ++i) w[i] *= scale[i % cols];
  }
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
  const auto bias = block.biases.find(group.producer);
  divide_rows(std::get<Tensor>(block.weights.at(group.producer)), bias == block.biases.end() ? nullptr : &bias->second,
              group.producer_row, rows);
}

}  // namespace awq
