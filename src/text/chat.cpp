#include "text/chat.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace awq {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kProbe = "qZ7probeZq";  // in no template

Json parse(const std::string& text, const char* what) {
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) fail(Code::kBadArgument, "{}: expected JSON, got something else", what);
  return json;
}

void check_messages(const Json& messages) {
  if (!messages.is_array())
    fail(Code::kBadArgument, "messages: expected a list, got {}", messages.type_name());
  for (size_t i = 0; i < messages.size(); ++i)
    if (!messages[i].is_object() || !messages[i].contains("role") || !messages[i]["role"].is_string())
      fail(Code::kBadArgument, "messages[{}]: expected an object with a string \"role\", got {}", i,
           messages[i].is_object() ? "one without" : messages[i].type_name());
}

// The text parts of a content list, one below the other. kUnsupported for images and other kinds.
std::string joined_parts(const Json& parts) {
  std::string text;
  for (const Json& part : parts) {
    if (!part.is_string() && (!part.is_object() || part.value("type", Json("text")) != "text" ||
                              !part.contains("text") || !part["text"].is_string()))
      fail(Code::kUnsupported,
           "messages: expected content parts {{\"type\": \"text\", \"text\": ...}}, got {}",
           part.is_object() && part.contains("type") ? part["type"].dump() : part.type_name());
    if (!text.empty()) text += '\n';
    text += part.is_string() ? part.get<std::string>() : part["text"].get<std::string>();
  }
  return text;
}

void adapt_message(Json& message, bool takes_text, bool takes_parts) {
  if (const auto content = message.find("content"); content != message.end()) {
    if (content->is_array() && !takes_parts) *content = joined_parts(*content);
    if (content->is_string() && !takes_text) *content = Json::array({{{"type", "text"}, {"text", *content}}});
  }
  const auto calls = message.find("tool_calls");
  if (calls == message.end() || !calls->is_array()) return;
  for (Json& call : *calls) {
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) continue;
    Json& function = call["function"];
    if (!function.contains("arguments") || !function["arguments"].is_string()) continue;
    Json arguments = Json::parse(function["arguments"].get<std::string>(), nullptr, false);
    if (arguments.is_object()) function["arguments"] = std::move(arguments);
  }
}

std::string_view trimmed(std::string_view text, bool left_only) {
  constexpr std::string_view kSpace = " \t\n\r\f\v";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return left_only ? text.substr(begin) : text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

// transformers' continue_final_message: cut where the last message ends.
void cut_after_final_message(const Json& messages, RenderedChat& chat) {
  Json content = messages.empty() ? Json() : messages.back().value("content", Json());
  if (content.is_array() && !content.empty() && content.back().is_object())
    content = content.back().value("text", Json());
  if (!content.is_string())
    fail(Code::kBadArgument, "continue_final_message: expected text in the last message, got none");
  const auto text = content.get<std::string>();
  const std::string_view bare = trimmed(text, false), left = trimmed(text, true);
  const size_t at = chat.text.rfind(bare);
  if (at == std::string::npos)
    fail(Code::kBadArgument,
         "continue_final_message: the last message does not appear in what the template makes of it");
  const bool kept = std::string_view(chat.text).substr(at, left.size()) == text;
  chat.text.resize(at + (kept ? left.size() : bare.size()));
  for (auto& [begin, end] : chat.generation)
    begin = std::min(begin, chat.text.size()), end = std::min(end, chat.text.size());
}

Json probe_messages(const Json& content) { return Json::array({{{"role", "user"}, {"content", content}}}); }

}  // namespace

ChatRenderer::ChatRenderer(const ChatSource& source)
    : special_tokens_(source.special_tokens), where_(source.where) {
  for (const auto& t : source.templates)
    templates_.push_back({t.name, ChatTemplate::parse(t.source, t.where)});
  if (templates_.empty())
    fail(Code::kNotFound,
         "{}: expected a chat template (chat_template.jinja, or \"chat_template\" in tokenizer_config.json), "
         "got none",
         where_);
  // What the template makes of a message with text and of one with parts shows which it takes.
  const auto shows = [&](const Json& content) {
    Conversation probe;
    probe.messages = probe_messages(content).dump();
    probe.adapt = false;
    try {
      const std::string text = render(probe).text;
      const size_t at = text.find(kProbe);
      // Python's or JSON's form of the list is not what was meant.
      return at != std::string::npos && text.find("'type'") == std::string::npos &&
             text.find("\"type\"") == std::string::npos;
    } catch (const Error&) {
      return false;  // it refuses such a message
    }
  };
  takes_parts_ = shows(Json::array({{{"type", "text"}, {"text", kProbe}}}));
  takes_text_ = !takes_parts_ || shows(Json(kProbe));
}

const ChatTemplate& ChatRenderer::choose(const Conversation& conversation) const {
  const auto find = [&](std::string_view name) {
    const auto it =
        std::find_if(templates_.begin(), templates_.end(), [&](const Named& t) { return t.name == name; });
    return it == templates_.end() ? nullptr : it->parsed.get();
  };
  std::string name = conversation.template_name;
  if (name.empty()) name = conversation.tools != "null" && find("tool_use") ? "tool_use" : "default";
  if (const ChatTemplate* found = find(name)) return *found;
  if (conversation.template_name.empty() && templates_.size() == 1) return *templates_[0].parsed;
  std::string names;
  for (const Named& t : templates_) names += (names.empty() ? "" : ", ") + t.name;
  fail(Code::kBadArgument, "{}: there is no chat template '{}'; it has {}", where_, name, names);
}

RenderedChat ChatRenderer::render(const Conversation& conversation) const {
  if (conversation.continue_final_message && conversation.add_generation_prompt)
    fail(Code::kBadArgument, "continue_final_message and add_generation_prompt are not possible together");
  Json messages = parse(conversation.messages, "messages");
  check_messages(messages);
  if (conversation.adapt)
    for (Json& message : messages) adapt_message(message, takes_text_, takes_parts_);
  Json context = parse(special_tokens_, "special tokens");
  Json more = parse(conversation.variables, "variables");
  if (!more.is_object()) fail(Code::kBadArgument, "variables: expected an object, got {}", more.type_name());
  context.update(more);
  context["messages"] = messages;
  context["tools"] = parse(conversation.tools, "tools");
  if (!context.contains("documents")) context["documents"] = nullptr;
  context["add_generation_prompt"] = conversation.add_generation_prompt;
  RenderedChat chat =
      choose(conversation).render_chat(context.dump(-1, ' ', false, Json::error_handler_t::replace));
  if (conversation.continue_final_message) cut_after_final_message(messages, chat);
  return chat;
}

std::vector<int32_t> ChatRenderer::encode(const Conversation& conversation,
                                          const Tokenizer& tokenizer) const {
  return tokenizer.encode(render(conversation).text, false);
}

std::optional<int32_t> ChatRenderer::turn_end(const Tokenizer& tokenizer) const {
  Conversation probe;
  Json messages = probe_messages(Json("question"));
  messages.push_back({{"role", "assistant"}, {"content", kProbe}});
  probe.messages = messages.dump();
  probe.add_generation_prompt = false;
  std::string text;
  try {
    text = render(probe).text;
  } catch (const Error&) {
    return std::nullopt;  // a template that takes no such conversation; the model's own end ids remain
  }
  const size_t at = text.rfind(kProbe);
  if (at == std::string::npos) return std::nullopt;
  const std::string tail(trimmed(std::string_view(text).substr(at + kProbe.size()), true));
  for (const int32_t id : tokenizer.encode(tail, false))
    return tokenizer.is_special(id) ? std::optional(id) : std::nullopt;
  return std::nullopt;
}

std::string conversation_text(const ChatRenderer& chat, const std::string& record_json) {
  const Json record = parse(record_json, "record");
  Conversation conversation;
  conversation.messages = record.at("messages").dump();
  if (record.contains("tools")) conversation.tools = record["tools"].dump();
  conversation.add_generation_prompt = false;
  return chat.render(conversation).text;
}

}  // namespace awq
