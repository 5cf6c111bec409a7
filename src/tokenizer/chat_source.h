// What a checkpoint says about conversations: its chat templates and the names of its special tokens.
#pragma once
#include <string>
#include <vector>

namespace awq {

struct ChatSource {
  struct Template {
    std::string name;    // "default", "tool_use", "rag", ...
    std::string source;  // Jinja2
    std::string where;   // the file, or file and key, for errors
  };
  std::vector<Template> templates;  // empty: the checkpoint has none
  // What transformers gives each template beside the conversation (special_tokens_map), as one JSON object:
  // {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": [...]}.
  std::string special_tokens = "{}";
  std::string where;  // the checkpoint, for errors
};

}  // namespace awq
