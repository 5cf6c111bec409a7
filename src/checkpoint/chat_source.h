// Where the chat template of a checkpoint comes from.
#pragma once
#include "checkpoint/checkpoint.h"
#include "tokenizer/chat_source.h"

namespace awq {

// A directory's chat_template.jinja with additional_chat_templates/NAME.jinja; else "chat_template" of
// tokenizer_config.json, a string or [{"name": ..., "template": ...}]; else that of chat_template.json. A
// GGUF file's keys tokenizer.chat_template and tokenizer.chat_template.NAME. Special tokens come from
// tokenizer_config.json, those it leaves out from special_tokens_map.json. kBadFile names the file and what
// was expected.
ChatSource chat_source(const Checkpoint& checkpoint);

}  // namespace awq
