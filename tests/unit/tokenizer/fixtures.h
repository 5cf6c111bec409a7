// Recorded tokenizers (tools/record_tokenizer_fixtures.py).
#pragma once
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace awq::fixtures {

using Json = nlohmann::json;

inline Json load(const std::string& name) {
  std::ifstream in(std::string(AWQ_TEST_DATA) + "/tokenizer/" + name + ".json");
  return Json::parse(in);
}

inline std::shared_ptr<const Tokenizer> tokenizer(const Json& json,
                                                  const std::string& where = "tokenizer.json") {
  return Tokenizer::from_json(json.dump(), where);
}

// The variant's fields over the base tokenizer's; "model" is merged field by field.
inline Json patched(Json base, const Json& patch) {
  for (const auto& [key, value] : patch.items()) {
    if (key == "model") {
      for (const auto& [field, content] : value.items()) base["model"][field] = content;
    } else {
      base[key] = value;
    }
  }
  return base;
}

// A GGUF vocabulary with the tokens and merges of a recorded tokenizer.
inline GgufVocab gguf_vocab(const Json& json, const std::string& pre) {
  GgufVocab v;
  v.model = "gpt2";
  v.pre = pre;
  const Json& vocab = json["model"]["vocab"];
  v.tokens.resize(vocab.size() + json["added_tokens"].size());
  size_t used = 0;
  for (const auto& [token, id] : vocab.items()) v.tokens[id] = token;
  for (const Json& t : json["added_tokens"]) v.tokens[t["id"]] = t["content"];
  while (used < v.tokens.size() && !v.tokens[used].empty()) ++used;
  v.tokens.resize(used);
  v.token_type.assign(used, 1);
  for (const Json& t : json["added_tokens"]) v.token_type[t["id"]] = t["special"] ? 3 : 4;
  for (const Json& m : json["model"]["merges"])
    v.merges.push_back(m.is_string() ? m.get<std::string>()
                                     : m[0].get<std::string>() + " " + m[1].get<std::string>());
  return v;
}

}  // namespace awq::fixtures
