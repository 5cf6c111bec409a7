// Bodies of requests: a letter for the route, then the text. What is accepted lies within the limits that the
// engine relies on, and its schema, if it has one, makes a grammar or an error.
#include <nlohmann/json.hpp>

#include "server/openai_request.h"
#include "server/tool_calls.h"
#include "target.h"
#include "text/json_schema.h"

using namespace awq;
using namespace awq::server;
using fuzz::require;

namespace {

// Small, so that short inputs reach it and building up to it costs little.
constexpr size_t kMaxStates = 2000;

void check_ids(const std::vector<int32_t>& ids) {
  for (const int32_t id : ids) require(id >= 0);
}

void check(const CompletionRequest& r) {
  const SamplingParams& s = r.sampling;
  require(s.temperature >= 0 && s.temperature <= 100 && s.top_k >= 0 && s.top_p > 0 && s.top_p <= 1);
  require(s.min_p >= 0 && s.min_p <= 1 && s.repetition_penalty > 0 && s.repetition_penalty <= 100);
  require(s.presence_penalty >= -2 && s.presence_penalty <= 2 && s.frequency_penalty >= -2 &&
          s.frequency_penalty <= 2);
  require(s.logit_bias.size() <= kMaxLogitBias);
  for (const auto& [id, bias] : s.logit_bias) require(id >= 0 && bias >= -100 && bias <= 100);
  require(r.n >= 1 && r.n <= kMaxChoices && r.logprobs >= -1 && r.logprobs <= kMaxTopLogprobs);
  require(r.max_tokens >= -1 && (r.max_tokens != 0 || r.echo));
  require(r.stops.size() <= kMaxStops && r.stop_ids.size() <= kMaxStops);
  for (const std::string& stop : r.stops) require(!stop.empty() && stop.size() <= kMaxStopBytes);
  check_ids(r.stop_ids);
  for (const auto& prompt : r.tokens) check_ids(prompt);
  if (r.chat) {
    const auto context = nlohmann::ordered_json::parse(r.context);
    require(context["messages"].is_array() && !context["messages"].empty() &&
            context["add_generation_prompt"].is_boolean());
    require(json_depth(r.context) <= kMaxJsonDepth + 1);
  } else {
    const size_t prompts = r.texts.size() + r.tokens.size();
    require((r.texts.empty() || r.tokens.empty()) && prompts >= 1 &&
            prompts * static_cast<size_t>(r.n) <= kMaxChoices);
  }
  require((r.format == ResponseFormat::kSchema) == !r.schema.empty() && (!r.must_call_tool || r.has_tools));
  if (!r.schema.empty()) fuzz::accepts([&] { require(json_schema_grammar(r.schema, kMaxStates) != nullptr); });
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view body = fuzz::text_of(data + 1, size - 1);
  try {
    switch (data[0] % 4) {
      case 0:
        check(parse_completion(body));
        break;
      case 1:
        check(parse_chat(body));
        break;
      case 2:
        parse_tokenize(body);
        check_ids(parse_detokenize(body).tokens);
        break;
      default: {  // what a model writes is no less hostile than what a client sends
        const ParsedText parsed = parse_tool_calls(std::string(body));
        require(content_before_calls(body) <= body.size());
        for (const auto& call : parsed.calls)
          require(!call.name.empty() && nlohmann::json::accept(call.arguments));
      }
    }
  } catch (const ApiError& error) {
    require(error.status == 400 && !error.message.empty() && error.message.size() < 2048);
    require(nlohmann::json::accept(error_body(error)));
  }
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  if (size < 2 || seed % 16 == 0) return LLVMFuzzerMutate(data, size, max_size);
  return 1 + fuzz::mutate_json(data + 1, size - 1, max_size - 1, seed);
}
