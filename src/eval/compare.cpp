#include "eval/compare.h"

#include <algorithm>
#include <cmath>

#include "runtime/engine.h"

namespace awq {
namespace {

constexpr int64_t kSpeedPrompt = 256, kSpeedTokens = 32;
constexpr int kSpeedRuns = 3;

EngineOptions engine_for(int64_t tokens) {
  EngineOptions options;
  options.max_sequences = 1;
  options.kv_pages = tokens / kPageTokens + 2;
  options.share_prefixes = false;  // each run reads its whole prompt
  return options;
}

FinishEvent answer(Engine& engine, const std::vector<int32_t>& prompt, int64_t tokens, bool ignore_end,
                   std::vector<int32_t>* out) {
  FinishEvent finish;
  Request request;
  request.prompt = prompt;
  request.max_tokens = tokens;
  request.ignore_eos = ignore_end;
  request.sampling.temperature = 0;
  request.on_token = [&](const TokenEvent& e) {
    if (out != nullptr) out->push_back(e.token);
    return true;
  };
  request.on_finish = [&](const FinishEvent& e) { finish = e; };
  engine.add(std::move(request));
  engine.run_until_idle();
  if (finish.reason == FinishReason::kError)
    fail(Code::kBadFile, "generating with the compared model: {}", finish.error);
  return finish;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

Speed speed_of(const std::shared_ptr<const Model>& model, const std::vector<int32_t>& text) {
  const int64_t longest = std::min<int64_t>(
      model->config().max_position > 0 ? model->config().max_position - kSpeedTokens : kSpeedPrompt,
      kSpeedPrompt);
  const int64_t length = std::min<int64_t>(static_cast<int64_t>(text.size()), longest);
  const std::vector<int32_t> prompt(text.begin(), text.begin() + length);
  Engine engine(model, engine_for(length + kSpeedTokens));
  std::vector<double> prefill, decode;
  for (int run = 0; run < kSpeedRuns; ++run) {
    const FinishEvent f = answer(engine, prompt, kSpeedTokens, true, nullptr);
    prefill.push_back(static_cast<double>(f.prompt_tokens) / std::max(f.prefill_seconds, 1e-9));
    decode.push_back(static_cast<double>(f.tokens - 1) / std::max(f.decode_seconds, 1e-9));
  }
  return {median(prefill), median(decode)};
}

std::vector<Answer> answers_of(const std::shared_ptr<const Model>& model, const CompareOptions& options) {
  std::vector<Answer> out;
  for (const auto& prompt : options.prompts) {
    Engine engine(model, engine_for(static_cast<int64_t>(prompt.size()) + options.answer_tokens));
    out.emplace_back();
    answer(engine, prompt, options.answer_tokens, false, &out.back().tokens);
  }
  return out;
}

void mark_differences(const std::vector<Answer>& source, std::vector<Answer>& answers) {
  for (size_t i = 0; i < answers.size(); ++i) {
    const auto &a = source[i].tokens, &b = answers[i].tokens;
    const auto at = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
    if (at.first != a.end() || at.second != b.end()) answers[i].first_difference = at.first - a.begin();
  }
}

}  // namespace

bool tied(const Divergence& a, const Divergence& b) {
  const size_t n = std::min(a.window_kl.size(), b.window_kl.size());
  if (n < 2) return true;
  double mean = 0, square = 0;
  for (size_t i = 0; i < n; ++i) mean += (a.window_kl[i] - b.window_kl[i]) / static_cast<double>(n);
  for (size_t i = 0; i < n; ++i) square += std::pow(a.window_kl[i] - b.window_kl[i] - mean, 2);
  const double half = 1.96 * std::sqrt(square / static_cast<double>(n - 1) / static_cast<double>(n));
  return std::fabs(mean) <= half;
}

Comparison compare_methods(const Checkpoint& checkpoint, const std::vector<Contender>& contenders,
                           const QuantizeInputs& inputs, const CompareOptions& options,
                           const ProgressFn& progress) {
  Comparison out;
  std::vector<TokenSequences> texts;
  for (const MeasuredText& text : options.texts) {
    const auto all = std::span<const int32_t>(text.tokens);
    const size_t measured = options.limit > 0 ? std::min(all.size(), static_cast<size_t>(options.limit * text.spec.length)) : all.size();
    texts.push_back(cut_sequences(all.first(measured), kShiftSeqLen, kShiftSequences));
  }
  out.all = quantize_side_by_side(checkpoint, contenders, inputs, Precision::kExact, progress, options.statistics, texts);
  for (const StoredTensor& t : checkpoint.tensors()) out.source_bytes += t.bytes;
  std::vector<const Model*> models;
  for (ContenderResult& r : out.all.results) {
    models.push_back(r.model.get());
    out.rows.push_back({std::move(r), {}, {}, {}});
  }
  for (const MeasuredText& text : options.texts) {
    auto evaluations =
        evaluate_all(models, out.all.source.get(), text.tokens, text.spec, options.limit, progress);
    for (size_t i = 0; i < out.rows.size(); ++i) out.rows[i].texts.push_back(std::move(evaluations[i]));
  }
  out.source_answers = answers_of(out.all.source, options);
  if (options.speed) out.source_speed = speed_of(out.all.source, options.texts.front().tokens);
  for (size_t i = 0; i < out.rows.size(); ++i) {
    check_cancelled();
    if (progress)
      progress({"generate", static_cast<double>(i), static_cast<double>(out.rows.size()), "models"});
    out.rows[i].answers = answers_of(out.rows[i].quantized.model, options);
    mark_differences(out.source_answers, out.rows[i].answers);
    if (options.speed)
      out.rows[i].speed = speed_of(out.rows[i].quantized.model, options.texts.front().tokens);
  }
  return out;
}

}  // namespace awq
