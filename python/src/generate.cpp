// Generation for a batch of prompts: an engine of its own for each call, so that threads can share a model.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "bindings.h"
#include "loaded_model.h"
#include "model/load_words.h"
#include "runtime/drafting.h"
#include "runtime/engine.h"
#include "runtime/page_allocator.h"

namespace awq::python {
namespace {

constexpr int64_t kMaxSequences = 64;

struct Settings {
  SamplingParams sampling;
  int64_t max_tokens = 20, min_tokens = 0;
  std::vector<int32_t> end_ids;
  bool ignore_end = false;
  std::string kv_dtype = "float32";
  int64_t draft_tokens = 0;
  std::shared_ptr<LoadedModel> draft_model;
};

struct Answer {
  std::vector<int32_t> tokens;
  std::string reason;
  FinishEvent finish;
};

Settings settings_from(const nb::dict& given) {
  Settings s;
  take(given, "temperature", s.sampling.temperature);
  take(given, "top_k", s.sampling.top_k);
  take(given, "top_p", s.sampling.top_p);
  take(given, "min_p", s.sampling.min_p);
  take(given, "repetition_penalty", s.sampling.repetition_penalty);
  take(given, "seed", s.sampling.seed);
  take(given, "max_tokens", s.max_tokens);
  take(given, "min_tokens", s.min_tokens);
  take(given, "end_ids", s.end_ids);
  take(given, "ignore_end", s.ignore_end);
  take(given, "kv_dtype", s.kv_dtype);
  take(given, "draft_tokens", s.draft_tokens);
  take(given, "draft_model", s.draft_model);
  return s;
}

// Python's processors see and may replace the logits of the next token.
void process(Callback& processor, size_t row, std::span<const int32_t> tokens, std::span<float> logits) {
  processor.call([&](const nb::object& function) {
    const std::vector<int32_t> ids(tokens.begin(), tokens.end());
    const nb::object result = function(row, ids, numpy_copy(logits.data(), {logits.size()}));
    const auto array = nb::cast<nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>>(result);
    if (array.shape(0) != logits.size())
      throw nb::value_error("a logits processor changed the number of logits");
    std::copy(array.data(), array.data() + logits.size(), logits.begin());
  });
}

Request request_for(const Settings& s, std::vector<int32_t> prompt, size_t row, Answer& answer,
                    Callback& on_token, Callback& processor) {
  Request r;
  const int64_t prompt_tokens = static_cast<int64_t>(prompt.size());
  r.prompt = std::move(prompt);
  r.sampling = s.sampling;
  r.sampling.seed += row;
  r.max_tokens = s.max_tokens;
  r.ignore_eos = true;  // the caller's ids replace the model's
  if (!s.ignore_end) r.stop_ids = s.end_ids;
  r.on_finish = [&answer](const FinishEvent& event) {
    answer.finish = event;
    answer.reason = finish_name(event.reason);
  };
  r.on_token = [&answer, &on_token, row](const TokenEvent& event) {
    answer.tokens.push_back(event.token);
    if (on_token.empty()) return true;
    bool go_on = true;
    const bool ok = on_token.call(
        [&](const nb::object& function) { go_on = nb::cast<bool>(nb::bool_(function(row, event.token))); });
    return ok && go_on;
  };
  const bool hold_end = s.min_tokens > 0 && !s.end_ids.empty();
  if (hold_end || !processor.empty())
    r.adjust_logits = [&s, &processor, prompt_tokens, row, hold_end](std::span<const int32_t> tokens,
                                                                     std::span<float> logits) {
      if (hold_end && static_cast<int64_t>(tokens.size()) - prompt_tokens < s.min_tokens)
        for (const int32_t id : s.end_ids)
          if (id >= 0 && static_cast<size_t>(id) < logits.size()) logits[static_cast<size_t>(id)] = -INFINITY;
      if (!processor.empty()) process(processor, row, tokens, logits);
    };
  return r;
}

EngineOptions engine_options(const LoadedModel& m, const Settings& s,
                             const std::vector<std::vector<int32_t>>& prompts) {
  EngineOptions o;
  o.kv_dtype = kv_dtype_named(s.kv_dtype);
  o.draft_tokens = s.draft_tokens;
  if (s.draft_model) o.draft_model = s.draft_model->model;
  o.max_sequences = std::clamp<int64_t>(static_cast<int64_t>(prompts.size()), 1, kMaxSequences);
  std::vector<int64_t> pages;
  for (const auto& p : prompts)
    pages.push_back(PageAllocator::pages_for(
        std::min(static_cast<int64_t>(p.size()) + s.max_tokens, m.model->config().max_position)));
  std::sort(pages.rbegin(), pages.rend());
  for (size_t i = 0; i < pages.size() && static_cast<int64_t>(i) < o.max_sequences; ++i)
    o.kv_pages += pages[i];
  o.kv_pages = std::max<int64_t>(o.kv_pages, 1);
  return o;
}

nb::list generate(const LoadedModel& m, const std::vector<std::vector<int32_t>>& prompts,
                  const nb::dict& given, nb::object token, nb::object logits) {
  const Settings s = settings_from(given);
  check_sampling(s.sampling);
  Callback on_token(std::move(token)), processor(std::move(logits));
  std::vector<Answer> answers(prompts.size());
  std::optional<nb::python_error> interrupt;
  {
    nb::gil_scoped_release release;
    Engine engine(m.model, engine_options(m, s, prompts));
    for (size_t i = 0; i < prompts.size(); ++i)
      engine.add(request_for(s, prompts[i], i, answers[i], on_token, processor));
    while (engine.step() && !on_token.raised() && !processor.raised()) {
      nb::gil_scoped_acquire gil;
      if (PyErr_CheckSignals() != 0) {
        interrupt.emplace();
        break;
      }
    }
  }
  if (interrupt) throw nb::python_error(std::move(*interrupt));
  on_token.rethrow();
  processor.rethrow();
  nb::list out;
  for (const Answer& a : answers) {
    nb::dict row;
    row["tokens"] = a.tokens;
    row["reason"] = a.reason;
    row["stop_id"] = a.finish.stop_id;
    row["prompt_tokens"] = a.finish.prompt_tokens;
    row["prefill_seconds"] = a.finish.prefill_seconds;
    row["decode_seconds"] = a.finish.decode_seconds;
    row["drafted"] = a.finish.drafted;
    row["drafts_right"] = a.finish.drafts_right;
    out.append(row);
  }
  return out;
}

}  // namespace

void bind_generate(nb::module_& m) {
  m.def("generate", &generate, nb::arg("model"), nb::arg("prompts"), nb::arg("settings"),
        nb::arg("on_token") = nb::none(), nb::arg("process_logits") = nb::none());
  m.attr("most_drafts") = kMostDrafts;
  m.attr("model_drafts") = kModelDrafts;
}

}  // namespace awq::python
