#include "runtime/sampling.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace awq {
namespace {

void check(bool ok, const char* field, const char* expected, double value) {
  if (!ok) fail(Code::kBadArgument, "{}: expected {}, got {}", field, expected, value);
}

}  // namespace

void check_sampling(const SamplingParams& p) {
  check(std::isfinite(p.temperature) && p.temperature >= 0, "temperature", "0 or more", p.temperature);
  check(p.top_k >= 0, "top_k", "0 or more", p.top_k);
  check(p.top_p > 0 && p.top_p <= 1, "top_p", "a number above 0 and up to 1", p.top_p);
  check(p.min_p >= 0 && p.min_p <= 1, "min_p", "a number from 0 to 1", p.min_p);
  check(std::isfinite(p.repetition_penalty) && p.repetition_penalty > 0, "repetition_penalty",
        "a number above 0", p.repetition_penalty);
  const auto within = [](float x, float limit) { return x >= -limit && x <= limit; };
  check(within(p.presence_penalty, 2), "presence_penalty", "a number from -2 to 2", p.presence_penalty);
  check(within(p.frequency_penalty, 2), "frequency_penalty", "a number from -2 to 2", p.frequency_penalty);
  for (const auto& [id, bias] : p.logit_bias)
    check(within(bias, 100), "logit_bias", "numbers from -100 to 100", bias);
}

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// The seed is mixed before the counter is added: otherwise neighbouring seeds would be one sequence, shifted.
double uniform_at(uint64_t seed, uint64_t counter) {
  constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;
  const uint64_t key = mix(seed + kGolden);
  return static_cast<double>(mix(key + (counter + 1) * kGolden) >> 11) * 0x1p-53;
}

Sampler::Sampler(const SamplingParams& params, int64_t vocab) : params_(params) {
  check_sampling(params);
  for (const auto& [id, bias] : params.logit_bias)
    if (id < 0 || id >= vocab)
      fail(Code::kBadArgument, "logit_bias: expected token ids from 0 to {}, got {}", vocab - 1, id);
  std::vector<int32_t> biased;
  for (const auto& [id, bias] : params.logit_bias) biased.push_back(id);
  std::sort(biased.begin(), biased.end());
  bias_repeats_ = std::adjacent_find(biased.begin(), biased.end()) != biased.end();
  if (params.repetition_penalty != 1) is_seen_.assign(static_cast<size_t>(vocab), 0);
}

void Sampler::see(int32_t id) {
  if (is_seen_.empty()) return;
  uint8_t& seen = is_seen_.at(static_cast<size_t>(id));
  if (!seen) seen_.push_back(id);
  seen = 1;
}

void Sampler::accept_prompt(std::span<const int32_t> ids) {
  for (const int32_t id : ids) see(id);
}

void Sampler::accept(int32_t id) {
  see(id);
  if (params_.presence_penalty != 0 || params_.frequency_penalty != 0) ++generated_[id];
}

std::optional<RowDraw> Sampler::plan(int64_t ahead) {
  const SamplingParams& p = params_;
  const bool lowers = p.presence_penalty != 0 || p.frequency_penalty != 0;
  if (bias_repeats_ || (ahead > 0 && (lowers || p.repetition_penalty != 1))) return std::nullopt;
  lowered_.clear();
  for (const auto& [id, times] : generated_) lowered_.emplace_back(id, lowered_by(times));
  RowDraw r;
  r.draws = true;
  r.temperature = p.temperature, r.top_k = p.top_k, r.top_p = p.top_p, r.min_p = p.min_p;
  if (p.temperature > 0) r.uniform = uniform_at(p.seed, draws_ + static_cast<uint64_t>(ahead));
  r.added = p.logit_bias, r.repetition_penalty = p.repetition_penalty, r.seen = seen_, r.subtracted = lowered_;
  return r;
}

int32_t Sampler::draw(std::span<float> logits) {
  penalise(logits);
  const int32_t best = greedy(logits);
  if (params_.temperature == 0) return best;
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i)
    if (logits[i] != -INFINITY) candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  keep_top_k();
  weights_.resize(candidates_.size());
  const double top = logits[static_cast<size_t>(best)], temperature = params_.temperature;
  for (size_t i = 0; i < candidates_.size(); ++i)
    weights_[i] = std::exp((static_cast<double>(candidates_[i].logit) - top) / temperature);
  keep_probable();
  return pick();
}

// Keskar et al. 2019 (CTRL), section 4.1, with the sign rule of transformers: a seen token never gains.
void Sampler::penalise(std::span<float> logits) const {
  for (const auto& [id, bias] : params_.logit_bias) logits[static_cast<size_t>(id)] += bias;
  const float penalty = params_.repetition_penalty;
  for (const int32_t id : seen_) {
    float& x = logits[static_cast<size_t>(id)];
    x = x < 0 ? x * penalty : x / penalty;
  }
  for (const auto& [id, times] : generated_) logits[static_cast<size_t>(id)] -= lowered_by(times);
}

float Sampler::lowered_by(int32_t times) const {
  return params_.presence_penalty + params_.frequency_penalty * static_cast<float>(times);
}

int32_t Sampler::greedy(std::span<const float> logits) const {
  size_t best = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]))
      fail(Code::kBadFile, "the model's logits: expected numbers, got NaN for token {}", i);
    if (logits[i] > logits[best]) best = i;
  }
  if (logits.empty() || !std::isfinite(logits[best]))
    fail(Code::kBadFile, "the model's logits: expected a finite largest one, got {}",
         logits.empty() ? 0 : logits[best]);
  return static_cast<int32_t>(best);
}

void Sampler::keep_top_k() {
  const auto k = static_cast<size_t>(params_.top_k);
  if (k == 0 || k >= candidates_.size()) return;
  const auto larger = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  std::nth_element(candidates_.begin(), candidates_.begin() + params_.top_k, candidates_.end(), larger);
  candidates_.resize(k);
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
}

// top-p (Holtzman et al. 2020) and min-p (Nguyen et al. 2024). The weight of a candidate that stays is kept,
// of one that falls becomes 0.
void Sampler::keep_probable() {
  if (params_.top_p < 1) {
    double sum = 0;
    for (const double w : weights_) sum += w;
    // Candidates under this weight sum to less than (1 - top_p) / 2: none of them can stay, and sorting is
    // for the rest.
    const double negligible = sum * (1 - params_.top_p) / (2 * static_cast<double>(weights_.size()));
    std::vector<size_t> order;
    for (size_t i = 0; i < weights_.size(); ++i) {
      if (weights_[i] >= negligible)
        order.push_back(i);
      else
        weights_[i] = 0;
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return weights_[a] > weights_[b]; });
    double before = 0;  // the sum of all larger ones decides; the largest always stays
    for (const size_t i : order) {
      const double w = weights_[i];
      if (before > 0 && before >= params_.top_p * sum) weights_[i] = 0;
      before += w;
    }
  }
  // The largest weight is 1.
  if (params_.min_p > 0)
    for (double& w : weights_)
      if (w < params_.min_p) w = 0;
}

// In the order of ids, so that top-k at the size of the vocabulary draws what no top-k draws.
int32_t Sampler::pick() {
  double sum = 0;
  for (const double w : weights_) sum += w;
  const double point = uniform_at(params_.seed, draws_++) * sum;
  double reached = 0;
  int32_t last = candidates_.front().id;
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] == 0) continue;
    reached += weights_[i];
    last = candidates_[i].id;
    if (reached > point) break;
  }
  return last;
}

}  // namespace awq
