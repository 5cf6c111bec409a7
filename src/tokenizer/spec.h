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

enum class NormalizerKind {
  kNfc,
  kNfd,
  kNfkc,
  kNfkd,
  kLowercase,
  kPrepend,
  kReplace,
  kStrip,
  kStripAccents,
  kByteLevel,
  kPrecompiled,
  kNmt,
  kBert,
  kSentencePiece
};
// What the SentencePiece library does with text before its model sees it (its NormalizerSpec and
// TrainerSpec).
struct SentencePieceRules {
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
  bool whitespace_as_suffix = false;  // the dummy goes behind the text
  bool prefix_first_only = false;     // and only where the whole input begins, not behind each added token
  std::vector<std::string> user_defined;  // symbols that are taken as they are
};
struct NormalizerStep {
  NormalizerKind kind;
  SplitPattern pattern;  // kReplace
  std::string content;   // kReplace: the replacement; kPrepend: what is prepended
  bool strip_left = false, strip_right = false;
  bool clean_text = true, chinese_chars = true, strip_accents = true, lowercase = true;  // kBert
  std::string charsmap;      // kPrecompiled, kSentencePiece: the compiled rules (charsmap.h), may be empty
  SentencePieceRules rules;  // kSentencePiece
};

enum class SplitBehavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
enum class PreTokenizerKind {
  kByteLevel,
  kSplit,
  kDigits,
  kWhitespace,
  kWhitespaceSplit,
  kPunctuation,
  kMetaspace,
  kBert,
  kDelimiter,
  kFixedLength,
  kUnicodeScripts
};
enum class PrependScheme { kAlways, kFirst, kNever };
struct PreTokenizerStep {
  PreTokenizerKind kind;
  bool add_prefix_space = false, trim_offsets = true, use_regex = true;  // kByteLevel
  SplitPattern pattern;                                                  // kSplit
  SplitBehavior behavior = SplitBehavior::kIsolated;                     // kSplit, kPunctuation
  bool invert = false;                                                   // kSplit
  bool individual_digits = false;                                        // kDigits
  std::string replacement;  // kMetaspace, one character; kDelimiter: the delimiter
  int64_t length = 0;       // kFixedLength, in code points
  PrependScheme prepend_scheme = PrependScheme::kAlways;
  bool split = true;
};

// A post-processor as the ids around the text: before + ids of the text + after. Steps wrap one another.
struct PostStep {
  std::vector<int32_t> before, after;
};

enum class DecoderKind {
  kByteLevel,
  kReplace,
  kByteFallback,
  kFuse,
  kStrip,
  kMetaspace,
  kBpe,
  kWordPiece,
  kCtc,
  kSentencePiece
};
struct DecoderStep {
  DecoderKind kind;
  SplitPattern pattern;  // kReplace
  // kReplace: the replacement; kStrip: the character stripped; kMetaspace: stands for ' '; kBpe: the suffix;
  // kWordPiece: the prefix; kCtc: the pad token
  std::string content;
  int64_t start = 0, stop = 0;  // kStrip: at most so many at the start and at the end of each token
  PrependScheme prepend_scheme = PrependScheme::kAlways;
  bool cleanup = true;             // kWordPiece, kCtc: spaces before punctuation go
  std::string word_delimiter;      // kCtc
  bool drop_prefix = false;        // kSentencePiece: one leading space of the text goes ...
  bool drop_all_prefixes = false;  // ... or one of each token up to the first that shows
  std::string unk, unk_surface;    // kSentencePiece: the unknown piece and what is shown for it
  std::string charsmap;            // kSentencePiece: the denormalizer, may be empty ...
  SentencePieceRules rules;        // ... and its rules
};

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false, normalized = false, lstrip = false, rstrip = false, single_word = false;
};

// kScoredBpe, kCharacter and kWord are SentencePiece's own; the others are models of tokenizer.json.
enum class ModelKind { kBpe, kUnigram, kWordPiece, kWordLevel, kScoredBpe, kCharacter, kWord };
// Which pieces of a SentencePiece vocabulary are found in text: normal and user-defined ones; unused ones
// only on the way to others; reserved ones (unknown, control, bytes) never.
enum class PieceType : uint8_t { kNormal, kUserDefined, kUnused, kReserved };

struct ModelSpec {
  ModelKind kind = ModelKind::kBpe;
  std::vector<std::pair<std::string, int32_t>> vocab;
  std::optional<std::string> unk_token;
  std::optional<int32_t> unk_id;  // counts before unk_token
  bool byte_fallback = false;
  // kBpe
  std::vector<std::pair<std::string, std::string>> merges;  // best first
  bool fuse_unk = false, ignore_merges = false;
  std::string subword_prefix, word_suffix;  // subword_prefix of kWordPiece as well
  // kWordPiece
  int64_t longest_word = 100;  // code points; longer words are unknown
  // kUnigram, kScoredBpe, kCharacter, kWord
  std::vector<double> scores;    // log probabilities, one for each entry of vocab
  std::vector<PieceType> types;  // of a SentencePiece model; else empty
};

struct TokenizerSpec {
  std::vector<AddedToken> added_tokens;
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre_tokenizer;
  std::vector<PostStep> post_processor;
  std::vector<DecoderStep> decoder;
  ModelSpec model;
};

// kBadFile: not JSON, or a field of the wrong kind. kUnsupported: a component this library does not know.
TokenizerSpec read_tokenizer_json(std::string_view json, const std::string& where);
// The inverse, for what spec_from_gguf makes.
std::string write_tokenizer_json(const TokenizerSpec& spec);

// kUnsupported: an unknown kind of vocabulary or pre-tokenizer name.
TokenizerSpec spec_from_gguf(const GgufVocab& vocab, const std::string& where);

// Contents of a SentencePiece .model (a protocol buffer). kBadFile where the library would refuse it as well.
TokenizerSpec spec_from_sentencepiece(std::string_view model, const std::string& where);

std::shared_ptr<const Tokenizer> make_tokenizer(const TokenizerSpec& spec, const std::string& where);

}  // namespace awq
