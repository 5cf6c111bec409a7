// tokenizer.ggml.pre: how text is cut before byte-level BPE.
#pragma once
#include <string>
#include <vector>

#include "tokenizer/spec.h"

namespace awq {

struct GgufPre {
  const char* name;
  std::vector<PreTokenizerStep> (*steps)();
  bool nfc;            // the published tokenizer normalizes
  bool ignore_merges;  // a word that is a token is taken whole
  bool add_bos;        // where the file does not say
};

// kUnsupported lists the names known.
const GgufPre& find_gguf_pre(const std::string& name, const std::string& where);
std::vector<std::string> gguf_pre_names();

}  // namespace awq
