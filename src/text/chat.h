// Conversations as a model reads them: its chat template applied to messages.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/chat_source.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace awq {

struct Conversation {
  std::string messages;                 // JSON: [{"role": "user", "content": "..."}, ...]
  std::string tools = "null";           // JSON: a list of tool descriptions, or null
  std::string variables = "{}";         // JSON object: more variables for the template (enable_thinking, ...)
  std::string template_name;            // "": "tool_use" when there are tools and it exists, else "default"
  bool add_generation_prompt = true;    // the beginning of the answer's turn comes last
  bool continue_final_message = false;  // the last message stays open; not together with the former
  // Fit the messages to the template as servers do: content parts become text where the template wants text
  // and the other way round, arguments of tool calls that are JSON in a string become objects. Off: exactly
  // what transformers' apply_chat_template gives the template.
  bool adapt = true;
};

// Thread-safe after construction.
class ChatRenderer {
 public:
  // kNotFound when the source has no template; kBadFile, kUnsupported when one is not understood.
  explicit ChatRenderer(const ChatSource& source);

  // kBadArgument: not a list of messages with roles, a template of that name does not exist, or the template
  // refuses.
  RenderedChat render(const Conversation& conversation) const;
  // Its tokens; special tokens in the template's text are recognised and none is added.
  std::vector<int32_t> encode(const Conversation& conversation, const Tokenizer& tokenizer) const;

  const ChatTemplate& choose(const Conversation& conversation) const;
  // The special token with which the template ends an answer, such as <|im_end|>, when the answer is followed
  // by one.
  std::optional<int32_t> turn_end(const Tokenizer& tokenizer) const;
  // Whether the default template takes lists of content parts, or only strings.
  bool takes_parts() const { return takes_parts_; }

 private:
  struct Named {
    std::string name;
    std::shared_ptr<const ChatTemplate> parsed;
  };
  std::vector<Named> templates_;
  std::string special_tokens_, where_;
  bool takes_text_ = true, takes_parts_ = false;
};

// JSON lines {"messages": [...]} hold conversations: the text of one of them.
std::string conversation_text(const ChatRenderer& chat, const std::string& record_json);

}  // namespace awq
