// What a tokenizer.json says, as plain data: read from JSON, made from a GGUF vocabulary, written as JSON.
// Nested "Sequence" components are flattened: running the steps in order is what a sequence means.
// Field names follow tokenizer.json of the Hugging Face `tokenizers` library.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace awq {

struct SplitPattern {
  std::string text;
  bool is_regex = false;  // Oniguruma syntax; otherwise the literal text
};

enum class NormalizerKind { kNfc, kNfd, kNfkc, kNfkd, kLowercase, kPrepend, kReplace, kStrip, kByteLevel };
struct NormalizerStep {
  NormalizerKind kind;
  SplitPattern pattern;  // kReplace
  std::string content;   // kReplace: the replacement; kPrepend: what is prepended
  bool strip_left = false, strip_right = false;
};

enum class SplitBehavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
enum class PreTokenizerKind {
  kByteLevel,
  kSplit,
  kDigits,
  kWhitespace,
  kWhitespaceSplit,
  kPunctuation,
  kMetaspace
};
enum class PrependScheme { kAlways, kFirst, kNever };
struct PreTokenizerStep {
  PreTokenizerKind kind;
  bool add_prefix_space = false, trim_offsets = true, use_regex = true;  // kByteLevel
  SplitPattern pattern;                                                  // kSplit
  SplitBehavior behavior = SplitBehavior::kIsolated;                     // kSplit, kPunctuation
  bool invert = false;                                                   // kSplit
  bool individual_digits = false;                                        // kDigits
  std::string replacement;                                               // kMetaspace, one character
  PrependScheme prepend_scheme = PrependScheme::kAlways;
  bool split = true;
};

// A post-processor as the ids around the text: before + ids of the text + after. Steps wrap one another.
struct PostStep {
  std::vector<int32_t> before, after;
};

enum class DecoderKind { kByteLevel, kReplace, kByteFallback, kFuse, kStrip, kMetaspace };
struct DecoderStep {
  DecoderKind kind;
  SplitPattern pattern;  // kReplace
  std::string
      content;  // kReplace: the replacement; kStrip: the character stripped; kMetaspace: stands for ' '
  int64_t start = 0, stop = 0;  // kStrip: at most so many at the start and at the end of each token
  PrependScheme prepend_scheme = PrependScheme::kAlways;
};

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false, normalized = false, lstrip = false, rstrip = false, single_word = false;
};

struct BpeSpec {
  std::vector<std::pair<std::string, int32_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;  // best first
  std::optional<std::string> unk_token;
  bool fuse_unk = false, byte_fallback = false, ignore_merges = false;
};

struct TokenizerSpec {
  std::vector<AddedToken> added_tokens;
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre_tokenizer;
  std::vector<PostStep> post_processor;
  std::vector<DecoderStep> decoder;
  BpeSpec model;
};

// kBadFile: not JSON, or a field of the wrong kind. kUnsupported: a component this library does not know.
TokenizerSpec read_tokenizer_json(std::string_view json, const std::string& where);
// The inverse, for what spec_from_gguf makes: no normalizer but the Unicode forms, decoder ByteLevel.
std::string write_tokenizer_json(const TokenizerSpec& spec);

// kUnsupported: a vocabulary other than byte-level BPE, or an unknown pre-tokenizer name.
TokenizerSpec spec_from_gguf(const GgufVocab& vocab, const std::string& where);

std::shared_ptr<const Tokenizer> make_tokenizer(const TokenizerSpec& spec, const std::string& where);

}  // namespace awq
