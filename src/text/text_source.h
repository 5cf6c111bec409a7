// Text for calibration and evaluation: the built-in sets, or a file.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace awq {

struct TextSet {
  std::string name;                  // "builtin", a file's name without its folders, or "standard input"
  std::string sha256;                // of the bytes as they were read
  std::vector<std::string> samples;  // UTF-8, none empty
  bool plain = false;                // one text as it stood in the file, rather than a list of records
};

// Written for this project: prose, dialogue, code, data, maths, several languages. Kinds alternate, so that
// every prefix is a mixture. The two sets share no text.
const TextSet& builtin_calibration();
const TextSet& builtin_heldout();

enum class Builtin : uint8_t { kCalibration, kHeldout };

// Makes text of a conversation, given as its JSON object {"messages": [...]}: conversation_text of
// text/chat.h.
using ConversationFn = std::function<std::string(const std::string& record_json)>;

// spec: "builtin" (then `builtin` says which), a path, or "-" for standard input. A path that ends in .jsonl,
// .ndjson or .json holds one {"text": ...} or {"messages": [...]} per line; any other file is one text as it
// stands. Standard input is taken for JSON lines when its first line is such an object. Errors, in one line
// that names the file and the line or byte: kNotFound, kIo; kBadFile (not UTF-8, not such JSON, no text at
// all); kUnsupported (conversations, where `conversation` is empty).
TextSet load_text(const std::string& spec, Builtin builtin = Builtin::kCalibration,
                  const ConversationFn& conversation = {});

enum class TextFormat : uint8_t { kPlain, kJsonLines, kDetect };
// The same for bytes at hand; `where` names them in errors, `name` in the result.
TextSet parse_text(std::string bytes, const std::string& where, const std::string& name, TextFormat format,
                   const ConversationFn& conversation = {});

// The samples' tokens in order, nothing between them and no BOS.
std::vector<int32_t> token_stream(const TextSet& text, const Tokenizer& tokenizer);

}  // namespace awq
