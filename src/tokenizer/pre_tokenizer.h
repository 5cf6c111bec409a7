// Cuts normalized text into the pieces ("words") that BPE merges within.
#pragma once
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/spec.h"
#include "tokenizer/split_regex.h"

namespace awq {

class PreTokenizer {
 public:
  PreTokenizer(const std::vector<PreTokenizerStep>& steps, const std::string& where);

  // The last step is ByteLevel: pieces are handed over as raw bytes, still to be mapped to the byte alphabet.
  bool byte_level() const { return byte_level_; }

  struct Piece {
    std::string_view text;
    bool at_start;  // begins where the whole input begins
  };
  // Non-empty pieces in order. Views point into `text` or into `owned`.
  std::vector<Piece> split(std::string_view text, bool at_start, std::deque<std::string>& owned) const;

 private:
  struct Step {
    PreTokenizerStep spec;
    std::vector<SplitRegex> regex;  // one where the step needs it
  };
  void apply(const Step& step, bool last, const Piece& piece, std::vector<Piece>& out,
             std::deque<std::string>& owned) const;

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace awq
