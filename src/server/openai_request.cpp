#include "server/openai_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "text/json_schema.h"

namespace awq::server {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void refuse(const std::string& param, std::string message) {
  throw ApiError{400, "invalid_request_error", std::move(message), param};
}

Json parse_object(std::string_view body) {
  if (json_depth(body) > kMaxJsonDepth)
    refuse("", fmt::format("the body is nested more than {} deep", kMaxJsonDepth));
  Json json = Json::parse(body, nullptr, false);
  if (json.is_discarded()) refuse("", "the body is not JSON");
  if (!json.is_object())
    refuse("", fmt::format("the body: expected a JSON object, got {}", json.type_name()));
  return json;
}

// What is shown of a value in an error: short, and nothing but itself.
std::string shown(const Json& value) {
  const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() <= 60 ? text : text.substr(0, 57) + "...";
}

// Fields of an object, each of the type it must have; null counts as left out.
class Fields {
 public:
  explicit Fields(const Json& object) : object_(object) {}

  const Json* find(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  double number(const char* key, double low, double high, double otherwise) const {
    const Json* v = find(key);
    if (v == nullptr) return otherwise;
    const double x = v->is_number() ? v->get<double>() : NAN;
    if (!(x >= low && x <= high))
      refuse(key, fmt::format("{}: expected a number from {} to {}, got {}", key, low, high, shown(*v)));
    return x;
  }
  int64_t integer(const char* key, int64_t low, int64_t high, int64_t otherwise) const {
    const Json* v = find(key);
    if (v == nullptr) return otherwise;
    const bool whole = v->is_number_unsigned() ? v->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX)
                                               : v->is_number_integer();
    if (!whole || v->get<int64_t>() < low || v->get<int64_t>() > high)
      refuse(key,
             fmt::format("{}: expected a whole number from {} to {}, got {}", key, low, high, shown(*v)));
    return v->get<int64_t>();
  }
  bool boolean(const char* key, bool otherwise) const {
    const Json* v = find(key);
    if (v == nullptr) return otherwise;
    if (!v->is_boolean()) refuse(key, fmt::format("{}: expected true or false, got {}", key, shown(*v)));
    return v->get<bool>();
  }
  std::string string(const char* key) const {
    const Json* v = find(key);
    if (v == nullptr) return {};
    if (!v->is_string()) refuse(key, fmt::format("{}: expected a string, got {}", key, shown(*v)));
    return v->get<std::string>();
  }

 private:
  const Json& object_;
};

std::vector<int32_t> token_list(const Json& list, const char* key) {
  std::vector<int32_t> ids;
  for (const Json& id : list) {
    if (!id.is_number_integer() || id < 0 || id > INT32_MAX)
      refuse(key, fmt::format("{}: expected token ids, got {}", key, shown(id)));
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

void read_stops(const Fields& fields, CompletionRequest& r) {
  if (const Json* ids = fields.find("stop_token_ids")) {
    if (!ids->is_array() || ids->size() > kMaxStops)
      refuse("stop_token_ids",
             fmt::format("stop_token_ids: expected a list of up to {} token ids", kMaxStops));
    r.stop_ids = token_list(*ids, "stop_token_ids");
  }
  const Json* stop = fields.find("stop");
  if (stop == nullptr) return;
  const Json list = stop->is_array() ? *stop : Json::array({*stop});
  if (list.size() > kMaxStops)
    refuse("stop", fmt::format("stop: expected at most {} strings, got {}", kMaxStops, list.size()));
  for (const Json& s : list) {
    if (!s.is_string() || s.get_ref<const std::string&>().empty() ||
        s.get_ref<const std::string&>().size() > kMaxStopBytes)
      refuse("stop", fmt::format("stop: expected strings of 1 to {} bytes, got {}", kMaxStopBytes, shown(s)));
    r.stops.push_back(s.get<std::string>());
  }
}

void read_logit_bias(const Fields& fields, CompletionRequest& r) {
  const Json* bias = fields.find("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object() || bias->size() > kMaxLogitBias)
    refuse("logit_bias", fmt::format("logit_bias: expected an object of up to {} token ids", kMaxLogitBias));
  for (const auto& [key, value] : bias->items()) {
    const bool is_id =
        !key.empty() && key.size() < 10 && key.find_first_not_of("0123456789") == std::string::npos;
    if (!is_id) refuse("logit_bias", fmt::format("logit_bias: expected token ids, got {}", shown(Json(key))));
    const double x = value.is_number() ? value.get<double>() : NAN;
    if (!(x >= -100 && x <= 100))
      refuse("logit_bias",
             fmt::format("logit_bias: expected numbers from -100 to 100, got {}", shown(value)));
    r.sampling.logit_bias.emplace_back(std::stoi(key), static_cast<float>(x));
  }
}

void read_format(const Fields& fields, CompletionRequest& r) {
  const Json* format = fields.find("response_format");
  if (format == nullptr) return;
  const char* key = "response_format";
  if (!format->is_object()) refuse(key, fmt::format("{}: expected an object, got {}", key, shown(*format)));
  const std::string type = Fields(*format).string("type");
  if (type == "json_object") {
    r.format = ResponseFormat::kJson;
  } else if (type == "json_schema") {
    const Json* outer = Fields(*format).find("json_schema");
    const Json* schema = outer != nullptr && outer->is_object() ? Fields(*outer).find("schema") : nullptr;
    if (schema == nullptr) refuse(key, "response_format: expected json_schema.schema");
    r.format = ResponseFormat::kSchema;
    r.schema = schema->dump();
  } else if (type != "text") {
    refuse(key, fmt::format("response_format: expected the type text, json_object or json_schema, got {}",
                            shown(Json(type))));
  }
  if (r.format != ResponseFormat::kText && r.ignore_eos)
    refuse("ignore_eos", "ignore_eos: a JSON text must be able to end");
}

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

// What both kinds of completions have.
void read_common(const Fields& fields, CompletionRequest& r) {
  r.model = fields.string("model");
  SamplingParams& s = r.sampling;
  s.temperature = static_cast<float>(fields.number("temperature", 0, 100, 1));
  s.top_p = static_cast<float>(fields.number("top_p", 1e-9, 1, 1));
  s.min_p = static_cast<float>(fields.number("min_p", 0, 1, 0));
  s.top_k = static_cast<int32_t>(std::max<int64_t>(0, fields.integer("top_k", -1, INT32_MAX, 0)));
  s.presence_penalty = static_cast<float>(fields.number("presence_penalty", -2, 2, 0));
  s.frequency_penalty = static_cast<float>(fields.number("frequency_penalty", -2, 2, 0));
  s.repetition_penalty = static_cast<float>(fields.number("repetition_penalty", 0.01, 100, 1));
  s.seed = fields.find("seed") ? static_cast<uint64_t>(fields.integer("seed", INT64_MIN, INT64_MAX, 0))
                               : random_seed();
  r.n = static_cast<int32_t>(fields.integer("n", 1, kMaxChoices, 1));
  r.ignore_eos = fields.boolean("ignore_eos", false);
  r.stream = fields.boolean("stream", false);
  if (const Json* options = fields.find("stream_options")) {
    if (!options->is_object()) refuse("stream_options", "stream_options: expected an object");
    if (!r.stream) refuse("stream_options", "stream_options: only with stream");
    r.include_usage = Fields(*options).boolean("include_usage", false);
  }
  read_stops(fields, r);
  read_logit_bias(fields, r);
  read_format(fields, r);
}

bool is_text_part(const Json& part) {
  return part.is_object() && Fields(part).string("type") == "text" && Fields(part).find("text") != nullptr &&
         part["text"].is_string();
}

// Messages that a template can be given; fitting them to it is text/chat.h's work.
Json read_messages(const Fields& fields) {
  const Json* list = fields.find("messages");
  if (list == nullptr || !list->is_array() || list->empty())
    refuse("messages", "messages: expected a list of at least one message");
  if (static_cast<int64_t>(list->size()) > kMaxMessages)
    refuse("messages", fmt::format("messages: expected at most {}", kMaxMessages));
  Json out = Json::array();
  for (size_t i = 0; i < list->size(); ++i) {
    Json message = (*list)[i];
    const std::string where = fmt::format("messages[{}]", i);
    const std::string role = message.is_object() ? Fields(message).string("role") : "";
    const bool known =
        role == "system" || role == "developer" || role == "user" || role == "assistant" || role == "tool";
    if (!known) refuse("messages", where + ".role: expected system, developer, user, assistant or tool");
    if (role == "developer") message["role"] = "system";
    const Json* content = Fields(message).find("content");
    if (content == nullptr) {
      if (role != "assistant") refuse("messages", where + ".content is missing");
      message["content"] = "";
    } else if (content->is_array()) {
      if (!std::all_of(content->begin(), content->end(), is_text_part))
        refuse("messages", where + ".content: only parts of the type text are read");
    } else if (!content->is_string()) {
      refuse("messages", where + ".content: expected a string or a list of parts");
    }
    out.push_back(std::move(message));
  }
  return out;
}

// {"name": ..., "arguments": ...} of one of the functions.
Json call_schema(const Json& tools, const std::string& only) {
  Json calls = Json::array(), defs = Json::object();
  for (const Json& tool : tools) {
    const Json& f = tool["function"];
    if (!only.empty() && f["name"] != only) continue;
    Json parameters = f.value("parameters", Json::object());
    if (!parameters.is_object() || parameters.empty()) parameters = {{"type", "object"}};
    if (parameters.contains("$defs"))
      for (const auto& [name, schema] : parameters["$defs"].items()) defs[name] = schema;
    calls.push_back({{"type", "object"},
                     {"properties", {{"name", {{"const", f["name"]}}}, {"arguments", parameters}}},
                     {"required", {"name", "arguments"}}});
  }
  return {{"anyOf", calls}, {"$defs", defs}};
}

void read_tools(const Fields& fields, CompletionRequest& r, Json& context) {
  const Json* tools = fields.find("tools");
  const Json* choice = fields.find("tool_choice");
  if (tools == nullptr) {
    if (choice != nullptr && *choice != "none" && *choice != "auto")
      refuse("tool_choice", "tool_choice: there are no tools");
    return;
  }
  if (!tools->is_array() || tools->empty() || tools->size() > kMaxTools)
    refuse("tools", fmt::format("tools: expected a list of 1 to {} functions", kMaxTools));
  for (const Json& tool : *tools) {
    const bool is_function = tool.is_object() && Fields(tool).string("type") == "function" &&
                             tool.contains("function") && tool["function"].is_object() &&
                             !Fields(tool["function"]).string("name").empty();
    if (!is_function)
      refuse("tools", "tools: expected {\"type\": \"function\", \"function\": {\"name\": ...}}");
  }
  if (choice != nullptr && *choice == "none") return;
  r.has_tools = true;
  context["tools"] = *tools;
  std::string only;
  if (choice != nullptr && choice->is_object()) {
    const Json* f = Fields(*choice).find("function");
    only = f != nullptr && f->is_object() ? Fields(*f).string("name") : "";
    const bool known = !only.empty() && std::any_of(tools->begin(), tools->end(), [&](const Json& t) {
      return t["function"]["name"] == only;
    });
    if (!known) refuse("tool_choice", "tool_choice: expected the name of one of the tools");
  } else if (choice != nullptr && *choice != "auto" && *choice != "required") {
    refuse("tool_choice", "tool_choice: expected none, auto, required or a function");
  }
  if (only.empty() && (choice == nullptr || *choice == "auto")) return;
  if (r.format != ResponseFormat::kText)
    refuse("response_format", "response_format: not beside a tool that must be called");
  r.must_call_tool = true;
  r.format = ResponseFormat::kSchema;
  r.schema = call_schema(*tools, only).dump();
}

// Variables for the template beside those that the server sets.
void read_template_arguments(const Fields& fields, Json& context) {
  const Json* given = fields.find("chat_template_kwargs");
  if (given == nullptr) return;
  const char* key = "chat_template_kwargs";
  if (!given->is_object() || given->size() > 32)
    refuse(key, "chat_template_kwargs: expected an object of up to 32 variables");
  for (const auto& [name, value] : given->items()) {
    if (context.contains(name) || name == "tools" || name.ends_with("_token"))
      refuse(key, fmt::format("chat_template_kwargs: {} is set by the server", shown(Json(name))));
    context[name] = value;
  }
}

}  // namespace

CompletionRequest parse_completion(std::string_view body) {
  const Json json = parse_object(body);
  const Fields fields(json);
  CompletionRequest r;
  read_common(fields, r);
  r.max_tokens = fields.integer("max_tokens", 0, INT32_MAX, 16);
  r.logprobs = static_cast<int32_t>(fields.integer("logprobs", 0, kMaxTopLogprobs, -1));
  r.echo = fields.boolean("echo", false);
  if (r.max_tokens == 0 && !r.echo)
    refuse("max_tokens", "max_tokens: expected at least 1 without echo, got 0");
  if (fields.integer("best_of", 1, kMaxChoices, r.n) != r.n)
    refuse("best_of", "best_of: expected the same as n");
  if (!fields.string("suffix").empty()) refuse("suffix", "suffix: filling in is not supported");
  const Json* prompt = fields.find("prompt");
  if (prompt == nullptr) refuse("prompt", "prompt is missing");
  const bool is_one =
      prompt->is_string() || (prompt->is_array() && !prompt->empty() && prompt->front().is_number());
  const Json list = is_one ? Json::array({*prompt}) : *prompt;
  if (!list.is_array() || list.empty())
    refuse("prompt", "prompt: expected text, token ids, or a list of either");
  if (list.size() * static_cast<size_t>(r.n) > kMaxChoices)
    refuse("prompt", fmt::format("prompt: expected at most {} answers in all, got {} prompts with {} each",
                                 kMaxChoices, list.size(), r.n));
  for (const Json& p : list) {
    if (p.is_string() && r.tokens.empty())
      r.texts.push_back(p.get<std::string>());
    else if (p.is_array() && r.texts.empty())
      r.tokens.push_back(token_list(p, "prompt"));
    else
      refuse("prompt", "prompt: expected text, token ids, or a list of either");
  }
  return r;
}

CompletionRequest parse_chat(std::string_view body) {
  const Json json = parse_object(body);
  const Fields fields(json);
  CompletionRequest r;
  r.chat = true;
  read_common(fields, r);
  r.max_tokens =
      fields.integer("max_completion_tokens", 1, INT32_MAX, fields.integer("max_tokens", 1, INT32_MAX, -1));
  const int64_t top = fields.integer("top_logprobs", 0, kMaxTopLogprobs, 0);
  if (fields.boolean("logprobs", false)) r.logprobs = static_cast<int32_t>(top);
  if (top > 0 && r.logprobs < 0) refuse("top_logprobs", "top_logprobs: only with logprobs");
  Json context = {{"messages", read_messages(fields)},
                  {"add_generation_prompt", fields.boolean("add_generation_prompt", true)}};
  read_tools(fields, r, context);
  read_template_arguments(fields, context);
  r.context = context.dump();
  return r;
}

TokenizeRequest parse_tokenize(std::string_view body) {
  const Json json = parse_object(body);
  const Fields fields(json);
  TokenizeRequest r;
  r.model = fields.string("model");
  r.add_special_tokens = fields.boolean("add_special_tokens", true);
  if (fields.find("messages") != nullptr)
    r.context = Json{{"messages", read_messages(fields)},
                     {"add_generation_prompt", fields.boolean("add_generation_prompt", true)}}
                    .dump();
  else if (fields.find("prompt") != nullptr)
    r.text = fields.string("prompt");
  else
    refuse("prompt", "expected prompt or messages");
  return r;
}

TokenizeRequest parse_detokenize(std::string_view body) {
  const Json json = parse_object(body);
  const Fields fields(json);
  TokenizeRequest r;
  r.model = fields.string("model");
  const Json* tokens = fields.find("tokens");
  if (tokens == nullptr || !tokens->is_array()) refuse("tokens", "tokens: expected a list of token ids");
  r.tokens = token_list(*tokens, "tokens");
  return r;
}

}  // namespace awq::server
