#include "quant/block_tuning.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <numeric>
#include <random>

#include "base/half.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "model/block_backward.h"

namespace awq {
namespace {

constexpr int64_t kBatchTokens = 2048;  // of a step, in whole sequences
constexpr size_t kJudgeEvery = 8;       // of the sequences: those that decide what is kept
constexpr int64_t kLossTokens = 16384;  // of them at most, about
constexpr int kLooks = 4;               // times that it is, evenly spaced over the iterations
constexpr int64_t kRowsPerTask = 16;

// Over the number of iterations; what was found to work from codes that are compensated already
// (docs/quality.md). With the rates' linear fall a code's offset moves by 0.1 in all where its gradient never
// changes sign, a fifth of what SignRound gives codes that begin at the nearest.
constexpr float kCodeRate = 0.2f, kScaleRate = 0.01f;
constexpr int kAttempts = 3;    // where nothing better was found, at a quarter of the rates
constexpr float kEdge = 0.49f;  // how far from its code a weight may begin

float stored_scale(float s, DType dtype) {
  return dtype == DType::kF16 ? round_to_fp16(s) : dtype == DType::kBF16 ? round_to_bf16(s) : s;
}

float with_sign(float size, float of) { return of > 0 ? size : of < 0 ? -size : 0.0f; }

// One linear's codes round(start + offset) and scales first * factor. A weight starts where w / s + z lies,
// moved until it rounds to the code that is given: codes chosen by error compensation are often not the
// nearest.
class TunedLinear {
 public:
  // weight [rows, cols] is what q was made of; dense and gradient are its rows in the block that runs.
  TunedLinear(const float* weight, QuantWeight& q, float* dense, const float* gradient)
      : q_(q),
        dense_(dense),
        gradient_(gradient),
        size_(q.scheme.group_size(q.cols)),
        groups_(q.groups()),
        first_scales_(q.scales) {
    start_.resize(q.codes.size());
    each_group([&](int64_t i, int64_t at, float zero) {
      const float s = q_.scales[i];
      for (int64_t j = at; j < at + size_; ++j) {
        const float code = q_.codes[j];
        start_[j] = s > 0 ? std::clamp(weight[j] / s + zero, code - kEdge, code + kEdge) : code;
      }
    });
    keep();
  }

  // The codes and scales that were given.
  void begin() {
    offset_.assign(q_.codes.size(), 0.0f);
    factor_.assign(q_.scales.size(), 1.0f);
    write();
  }

  // A step against the gradient's signs. Derivatives pass through round() as if it were not there; that of a
  // scale is for fixed codes.
  void step(float code_rate, float scale_rate) {
    each_group([&](int64_t i, int64_t at, float zero) {
      const float* d = gradient_ + at;
      float along = 0;
      for (int64_t j = 0; j < size_; ++j) {
        along += d[j] * (static_cast<float>(q_.codes[at + j]) - zero);
        offset_[at + j] = std::clamp(offset_[at + j] - with_sign(code_rate, d[j]), -0.5f, 0.5f);
      }
      factor_[i] = std::clamp(factor_[i] - with_sign(scale_rate, along), 0.5f, 1.5f);
    });
    write();
  }

  void keep() { kept_codes_ = q_.codes, kept_scales_ = q_.scales; }
  void restore() { q_.codes = kept_codes_, q_.scales = kept_scales_; }

 private:
  // body(group's index, its first weight, its zero point), rows in parallel.
  template <class Body>
  void each_group(const Body& body) {
    parallel_for((q_.rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task) {
      for (int64_t r = task * kRowsPerTask; r < std::min(q_.rows, (task + 1) * kRowsPerTask); ++r)
        for (int64_t g = 0; g < groups_; ++g)
          body(r * groups_ + g, r * q_.cols + g * size_, static_cast<float>(q_.zero_at(r, g)));
    });
  }

  // Codes and scales as they stand to q, and its numbers to the block.
  void write() {
    const auto top = static_cast<float>(q_.scheme.max_code());
    each_group([&](int64_t i, int64_t at, float zero) {
      const float moved = stored_scale(first_scales_[i] * factor_[i], q_.scale_dtype);
      const float s = moved > 0 && std::isfinite(moved) ? moved : first_scales_[i];
      q_.scales[i] = s;
      for (int64_t j = at; j < at + size_; ++j) {
        q_.codes[j] = static_cast<uint8_t>(std::clamp(start_[j] + offset_[j], 0.0f, top) + 0.5f);
        dense_[j] = (static_cast<float>(q_.codes[j]) - zero) * s;
      }
    });
  }

  QuantWeight& q_;
  float* dense_;
  const float* gradient_;
  int64_t size_, groups_;
  std::vector<float> start_, offset_, factor_, first_scales_;
  std::vector<uint8_t> kept_codes_;
  std::vector<float> kept_scales_;
};

// Some sequences below each other.
struct Batch {
  std::vector<float> inputs, targets;
  std::vector<int32_t> ids, positions;
  std::vector<SpanView> spans;
  BatchView view() const { return {ids, positions, spans}; }
  int64_t tokens() const { return static_cast<int64_t>(positions.size()); }
};

class Tuner {
 public:
  Tuner(const ModelConfig& config, const BlockSpec& spec, const BlockWeights& block,
        const BlockTuning& tuning, std::map<std::string, RoundedWeight>& rounded)
      : tuning_(tuning), block_(config, spec, block, tuning.bf16), width_(config.hidden) {
    const auto& lengths = tuning.inputs.sequences().lengths;
    int64_t first = 0;
    for (const int64_t n : lengths) starts_.push_back(first), first += n;
    split(lengths.size());
    for (const LinearSpec& linear : spec.linears) {
      const auto found = rounded.find(linear.module);
      if (found == rounded.end()) continue;
      wanted_[static_cast<size_t>(linear.reads)] = true;
      auto& m = block_.at(linear.reads);
      m.gradient.resize(m.weight.size());
      const int64_t at = block_.row_of(linear.module) * linear.in;
      const Tensor weight = block.dense(linear.module);
      linears_.push_back(std::make_unique<TunedLinear>(weight.f32(), found->second, m.weight.data() + at,
                                                       m.gradient.data() + at));
    }
    random_.seed(static_cast<uint64_t>(spec.layer));
  }

  TuningOutcome run() {
    TuningOutcome out;
    for (const auto& l : linears_) l->begin();
    out.before = out.after = loss();
    float rate = 1;
    for (int attempt = 0; attempt < kAttempts && out.kept == 0; ++attempt, rate /= 4) descend(rate, out);
    for (const auto& l : linears_) l->restore();
    return out;
  }

 private:
  // Every kJudgeEvery-th sequence decides what is kept and is not learned from, or the last of fewer; the
  // only one does both.
  void split(size_t count) {
    for (size_t s = 0; s < count; ++s) {
      const bool judges = count < kJudgeEvery ? s + 1 == count : s % kJudgeEvery == kJudgeEvery - 1;
      if (judges) judged_.push_back(s);
      if (!judges || count == 1) learned_.push_back(s);
    }
  }

  // From the codes that were given, at `rate` times the usual rates.
  void descend(float rate, TuningOutcome& out) {
    for (const auto& l : linears_) l->begin();
    const int n = tuning_.iterations, first = tried_;
    for (int i = 0; i < n; ++i) {
      check_cancelled();
      next_batch();
      differ();
      block_.backward(output_.data(), wanted_, nullptr);
      const float left = rate * static_cast<float>(n - i) / static_cast<float>(n) / static_cast<float>(n);
      for (const auto& l : linears_) l->step(kCodeRate * left, kScaleRate * left);
      ++tried_;
      if (i + 1 == n || (i + 1) % std::max(1, n / kLooks) == 0) look(first + i + 1, out);
      if (tuning_.progress && first == 0) tuning_.progress(static_cast<double>(i + 1) / n);
    }
  }

  void look(int iterations, TuningOutcome& out) {
    const double now = loss();
    if (!(now < out.after)) return;
    out.after = now, out.kept = iterations;
    for (const auto& l : linears_) l->keep();
  }

  void fill(Batch& batch, const std::vector<size_t>& sequences) const {
    const TokenSequences& all = tuning_.inputs.sequences();
    batch.inputs.clear(), batch.targets.clear(), batch.ids.clear(), batch.positions.clear(),
        batch.spans.clear();
    for (const size_t s : sequences) {
      const int64_t n = all.lengths[s], first = starts_[s];
      batch.spans.push_back({batch.tokens(), n, 0, nullptr});
      for (int64_t p = 0; p < n; ++p) batch.positions.push_back(static_cast<int32_t>(p));
      batch.ids.insert(batch.ids.end(), all.ids.begin() + first, all.ids.begin() + first + n);
      const float *in = tuning_.inputs.data() + first * width_,
                  *target = tuning_.targets.data() + first * width_;
      batch.inputs.insert(batch.inputs.end(), in, in + n * width_);
      batch.targets.insert(batch.targets.end(), target, target + n * width_);
    }
  }

  // Sequences in an order drawn anew for each pass over them, as many as fit a step.
  void next_batch() {
    const auto& lengths = tuning_.inputs.sequences().lengths;
    std::vector<size_t> chosen;
    for (int64_t tokens = 0;;) {
      if (queue_.empty()) {
        queue_ = learned_;
        for (size_t i = queue_.size(); i > 1; --i) std::swap(queue_[i - 1], queue_[random_() % i]);
      }
      const int64_t n = lengths[queue_.back()];
      if (!chosen.empty() && tokens + n > kBatchTokens) break;
      chosen.push_back(queue_.back()), queue_.pop_back(), tokens += n;
      if (queue_.empty()) break;
    }
    fill(batch_, chosen);
  }

  // Runs the batch; `output_` becomes its difference from the targets, a multiple of the squared error's
  // gradient. Returns the sum of squares.
  double differ() {
    output_.resize(batch_.inputs.size());
    block_.forward(batch_.inputs.data(), batch_.view(), output_.data());
    constexpr int64_t kRows = 32;
    const int64_t tokens = batch_.tokens(), tasks = (tokens + kRows - 1) / kRows;
    sums_.assign(static_cast<size_t>(tasks), 0.0);
    parallel_for(tasks, [&](int64_t task) {
      double sum = 0;
      for (int64_t i = task * kRows * width_; i < std::min(tokens, (task + 1) * kRows) * width_; ++i) {
        const float difference = output_[i] - batch_.targets[i];
        output_[i] = difference;
        sum += static_cast<double>(difference) * difference;
      }
      sums_[static_cast<size_t>(task)] = sum;
    });
    return std::accumulate(sums_.begin(), sums_.end(), 0.0);
  }

  // On the sequences that judge, evenly spread over them where they are many.
  double loss() {
    const auto& lengths = tuning_.inputs.sequences().lengths;
    int64_t all = 0;
    for (const size_t s : judged_) all += lengths[s];
    const auto step = static_cast<size_t>(std::max<int64_t>(1, all / kLossTokens));
    double sum = 0;
    int64_t tokens = 0;
    for (size_t i = 0; i < judged_.size();) {
      std::vector<size_t> chosen;
      int64_t n = 0;
      for (; i < judged_.size() && (chosen.empty() || n + lengths[judged_[i]] <= kBatchTokens); i += step)
        chosen.push_back(judged_[i]), n += lengths[judged_[i]];
      fill(batch_, chosen);
      sum += differ(), tokens += n;
    }
    return sum / static_cast<double>(std::max<int64_t>(1, tokens * width_));
  }

  const BlockTuning& tuning_;
  DifferentiableBlock block_;
  int64_t width_;
  std::vector<int64_t> starts_;  // first token of each sequence
  std::vector<std::unique_ptr<TunedLinear>> linears_;
  std::array<bool, 4> wanted_{};
  std::mt19937_64 random_;
  std::vector<size_t> learned_, judged_, queue_;  // sequences
  int tried_ = 0;                                 // iterations
  Batch batch_;
  std::vector<float> output_;
  std::vector<double> sums_;
};

}  // namespace

TuningOutcome tune_block(const ModelConfig& config, const BlockSpec& spec, const BlockWeights& block,
                         const BlockTuning& tuning, std::map<std::string, RoundedWeight>& rounded) {
  return Tuner(config, spec, block, tuning, rounded).run();
}

}  // namespace awq
