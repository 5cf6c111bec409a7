// Token ids to text as they are generated. Bytes that may still become part of a character are held back, so
// that every piece handed out is valid UTF-8 and never has to be taken back.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "tokenizer/tokenizer.h"

namespace awq {

class Detokenizer {
 public:
  // `at_start`: the first token begins a text of its own, such as an answer, rather than continuing one: the space with
  // which SentencePiece vocabularies mark it is not shown.
  explicit Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special_tokens = true,
                       bool at_start = false);

  // The text that has become certain with this token; may be empty. What cannot be UTF-8 becomes U+FFFD.
  std::string push(int32_t id);
  // The end of the text: what was held back, as U+FFFD. The object is then ready for another text of the same kind.
  std::string flush();
  // Bytes held back, 0 to 3.
  size_t held_back() const { return held_.size(); }

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool skip_special_, starts_texts_;
  bool at_start_;  // nothing has come yet
  std::string held_;  // start of a UTF-8 sequence
};

// The text of all of them.
std::string detokenized(const std::shared_ptr<const Tokenizer>& tokenizer, std::span<const int32_t> ids);

}  // namespace awq
