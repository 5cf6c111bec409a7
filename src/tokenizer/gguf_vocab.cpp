// GGUF vocabulary -> TokenizerSpec, in the parts that a tokenizer.json has, so that a file written from it
// gives the same ids. tokenizer.ggml.model says which kind of vocabulary it is (llama.cpp,
// src/llama-vocab.cpp).
#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "base/error.h"
#include "base/log.h"
#include "tokenizer/gguf_pre.h"
#include "tokenizer/spec.h"
#include "tokenizer/unicode.h"
#include "tokenizer/unigram.h"

namespace awq {
namespace {

// GGUF specification, tokenizer.ggml.token_type.
enum TokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

constexpr const char* kSpaceMark = "\xE2\x96\x81";  // U+2581

// A space separates the two tokens; the byte-level alphabet has none, so the first one after a character is
// it.
std::pair<std::string, std::string> split_merge(const std::string& merge, size_t rank,
                                                const std::string& where) {
  if (!is_valid_utf8(merge))
    fail(Code::kBadFile, "{}: tokenizer.ggml.merges[{}]: expected UTF-8", where, rank);
  const size_t space = merge.find(' ', 1);
  if (space == std::string::npos || space + 1 == merge.size())
    fail(Code::kBadFile, "{}: tokenizer.ggml.merges[{}]: expected two tokens, got '{}'", where, rank, merge);
  return {merge.substr(0, space), merge.substr(space + 1)};
}

int32_t checked_id(std::optional<int32_t> id, const char* key, const GgufVocab& vocab,
                   const std::string& where) {
  if (!id || *id < 0 || static_cast<size_t>(*id) >= vocab.tokens.size())
    fail(Code::kBadFile, "{}: tokenizer.ggml.{}: expected an id below {}, got {}", where, key,
         vocab.tokens.size(), id ? std::to_string(*id) : "none");
  return *id;
}

void check_vocab(const GgufVocab& vocab, const std::string& where) {
  if (vocab.tokens.empty() || vocab.tokens.size() > INT32_MAX)
    fail(Code::kBadFile, "{}: tokenizer.ggml.tokens: expected tokens, got {}", where, vocab.tokens.size());
  if (!vocab.token_type.empty() && vocab.token_type.size() != vocab.tokens.size())
    fail(Code::kBadFile, "{}: tokenizer.ggml.token_type: expected {} entries, one per token, got {}", where,
         vocab.tokens.size(), vocab.token_type.size());
  if (!vocab.scores.empty() && vocab.scores.size() != vocab.tokens.size())
    fail(Code::kBadFile, "{}: tokenizer.ggml.scores: expected {} entries, one per token, got {}", where,
         vocab.tokens.size(), vocab.scores.size());
  std::unordered_map<std::string_view, size_t> seen;
  seen.reserve(vocab.tokens.size());
  for (size_t id = 0; id < vocab.tokens.size(); ++id) {
    const std::string& token = vocab.tokens[id];
    if (!is_valid_utf8(token))
      fail(Code::kBadFile, "{}: tokenizer.ggml.tokens[{}]: expected UTF-8", where, id);
    const auto [it, fresh] = seen.try_emplace(token, id);
    if (!fresh)
      fail(Code::kBadFile,
           "{}: tokenizer.ggml.tokens[{}]: expected a token of its own, got '{}' like token {}", where, id,
           token, it->second);
  }
}

int32_t type_of(const GgufVocab& vocab, size_t i) {
  return vocab.token_type.empty() ? kNormal : vocab.token_type[i];
}

void add_vocab(const GgufVocab& vocab, TokenizerSpec& spec) {
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    spec.model.vocab.emplace_back(vocab.tokens[i], id);
    const int32_t type = type_of(vocab, i);
    if (type != kUnknown && type != kControl && type != kUserDefined) continue;
    AddedToken t;
    t.id = id;
    t.content = vocab.tokens[i];
    t.special = type != kUserDefined;
    spec.added_tokens.push_back(std::move(t));
  }
}

void add_merges(const GgufVocab& vocab, TokenizerSpec& spec, const std::string& where) {
  for (size_t rank = 0; rank < vocab.merges.size(); ++rank)
    spec.model.merges.push_back(split_merge(vocab.merges[rank], rank, where));
}

// BOS and EOS around the text, where the file says so or, if it does not, where such files usually mean it.
void add_ends(const GgufVocab& vocab, bool bos, bool eos, TokenizerSpec& spec, const std::string& where) {
  PostStep around;
  if (vocab.add_bos.value_or(bos && vocab.bos.has_value()))
    around.before.push_back(checked_id(vocab.bos, "bos_token_id", vocab, where));
  if (vocab.add_eos.value_or(eos && vocab.eos.has_value()))
    around.after.push_back(checked_id(vocab.eos, "eos_token_id", vocab, where));
  if (!around.before.empty() || !around.after.empty()) spec.post_processor.push_back(std::move(around));
}

NormalizerStep normalizer(NormalizerKind kind) {
  NormalizerStep s{};
  s.kind = kind;
  return s;
}
NormalizerStep replace(SplitPattern pattern, const char* content) {
  NormalizerStep s = normalizer(NormalizerKind::kReplace);
  s.pattern = std::move(pattern);
  s.content = content;
  return s;
}
DecoderStep decoder(DecoderKind kind) {
  DecoderStep s{};
  s.kind = kind;
  return s;
}

TokenizerSpec byte_level_spec(const GgufVocab& vocab, const std::string& where) {
  if (vocab.pre.empty())
    log(Level::kWarning, "{}: key 'tokenizer.ggml.pre' is missing, text is cut by llama.cpp's default rules",
        where);
  const GgufPre& pre = find_gguf_pre(vocab.pre.empty() ? "default" : vocab.pre, where);
  TokenizerSpec spec;
  spec.pre_tokenizer = pre.steps();
  if (pre.nfc) spec.normalizer.push_back(normalizer(NormalizerKind::kNfc));
  spec.decoder.push_back(decoder(DecoderKind::kByteLevel));
  spec.model.ignore_merges = pre.ignore_merges;
  add_vocab(vocab, spec);
  add_merges(vocab, spec, where);
  add_ends(vocab, pre.add_bos, false, spec, where);
  return spec;
}

// The merges that a BPE with scores stands for: every way to make a token of two tokens, those that make a
// token of a higher score first (as transformers' converters from SentencePiece write them).
std::vector<std::pair<std::string, std::string>> merges_of_scores(const GgufVocab& vocab) {
  struct Merge {
    float score;
    size_t left, right, cut, token;
  };
  std::unordered_map<std::string_view, size_t> ids;
  ids.reserve(vocab.tokens.size());
  for (size_t i = 0; i < vocab.tokens.size(); ++i) ids.emplace(vocab.tokens[i], i);
  std::vector<Merge> merges;
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    const int32_t type = type_of(vocab, i);
    if (type != kNormal && type != kUserDefined) continue;
    const std::string_view token = vocab.tokens[i];
    for (size_t cut = utf8_length(token[0]); cut < token.size(); cut += utf8_length(token[cut])) {
      const auto left = ids.find(token.substr(0, cut)), right = ids.find(token.substr(cut));
      if (left != ids.end() && right != ids.end())
        merges.push_back({vocab.scores[i], left->second, right->second, cut, i});
    }
  }
  std::sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    if (a.score != b.score) return a.score > b.score;
    return std::pair(a.left, a.right) < std::pair(b.left, b.right);
  });
  std::vector<std::pair<std::string, std::string>> out;
  out.reserve(merges.size());
  for (const Merge& m : merges)
    out.emplace_back(vocab.tokens[m.token].substr(0, m.cut), vocab.tokens[m.token].substr(m.cut));
  return out;
}

// BPE over characters with byte fallback; spaces become U+2581. `merges`: the file lists them.
TokenizerSpec character_spec(const GgufVocab& vocab, bool space_prefix, bool merges,
                             const std::string& where) {
  TokenizerSpec spec;
  if (space_prefix) {
    spec.normalizer.push_back(normalizer(NormalizerKind::kPrepend));
    spec.normalizer.back().content = kSpaceMark;
  }
  spec.normalizer.push_back(replace({" ", false}, kSpaceMark));
  add_vocab(vocab, spec);
  if (merges) {
    add_merges(vocab, spec, where);
  } else {
    spec.model.merges = merges_of_scores(vocab);
  }
  spec.model.byte_fallback = true;
  spec.model.fuse_unk = true;
  if (vocab.unk) spec.model.unk_token = vocab.tokens[checked_id(vocab.unk, "unknown_token_id", vocab, where)];
  spec.decoder = {decoder(DecoderKind::kReplace), decoder(DecoderKind::kByteFallback),
                  decoder(DecoderKind::kFuse)};
  spec.decoder[0].pattern = {kSpaceMark, false};
  spec.decoder[0].content = " ";
  if (space_prefix) {
    spec.decoder.push_back(decoder(DecoderKind::kStrip));
    spec.decoder.back().content = " ";
    spec.decoder.back().start = 1;
  }
  add_ends(vocab, true, false, spec, where);
  return spec;
}

void need_scores(const GgufVocab& vocab, const std::string& where) {
  if (vocab.scores.empty())
    fail(Code::kBadFile, "{}: key 'tokenizer.ggml.scores': expected one score per token, got none", where);
  for (size_t i = 0; i < vocab.scores.size(); ++i)
    if (std::isnan(vocab.scores[i]))
      fail(Code::kBadFile, "{}: tokenizer.ggml.scores[{}]: expected a number, got NaN", where, i);
}

TokenizerSpec llama_spec(const GgufVocab& vocab, const std::string& where) {
  need_scores(vocab, where);
  return character_spec(vocab, vocab.add_space_prefix.value_or(true), false, where);
}

TokenizerSpec gemma4_spec(const GgufVocab& vocab, const std::string& where) {
  return character_spec(vocab, vocab.add_space_prefix.value_or(false), true, where);
}

// Unigram, as transformers converts the SentencePiece models of the T5 family.
TokenizerSpec t5_spec(const GgufVocab& vocab, const std::string& where) {
  need_scores(vocab, where);
  TokenizerSpec spec;
  if (!vocab.charsmap.empty()) {
    spec.normalizer.push_back(normalizer(NormalizerKind::kPrecompiled));
    spec.normalizer.back().charsmap = vocab.charsmap;
  }
  if (vocab.remove_extra_whitespaces.value_or(false)) {
    spec.normalizer.push_back(normalizer(NormalizerKind::kStrip));
    spec.normalizer.back().strip_left = spec.normalizer.back().strip_right = true;
    spec.normalizer.push_back(replace({" {2,}", true}, " "));
  }
  PreTokenizerStep metaspace{};
  metaspace.kind = PreTokenizerKind::kMetaspace;
  metaspace.replacement = kSpaceMark;
  metaspace.prepend_scheme =
      vocab.add_space_prefix.value_or(true) ? PrependScheme::kAlways : PrependScheme::kNever;
  spec.decoder.push_back(decoder(DecoderKind::kMetaspace));
  spec.decoder.back().content = kSpaceMark;
  spec.decoder.back().prepend_scheme = metaspace.prepend_scheme;
  spec.pre_tokenizer.push_back(std::move(metaspace));
  add_vocab(vocab, spec);
  spec.model.kind = ModelKind::kUnigram;
  for (const float score : vocab.scores)
    spec.model.scores.push_back(score_as_read(static_cast<double>(score)));
  spec.model.unk_id = checked_id(vocab.unk, "unknown_token_id", vocab, where);
  add_ends(vocab, false, true, spec, where);
  return spec;
}

// WordPiece. GGUF marks pieces that begin a word by U+2581 where vocab.txt marks the others by "##".
TokenizerSpec bert_spec(const GgufVocab& vocab, const std::string& where) {
  TokenizerSpec spec;
  spec.normalizer.push_back(normalizer(NormalizerKind::kBert));
  spec.pre_tokenizer.push_back({});
  spec.pre_tokenizer.back().kind = PreTokenizerKind::kBert;
  spec.decoder.push_back(decoder(DecoderKind::kWordPiece));
  spec.decoder.back().content = "##";
  add_vocab(vocab, spec);
  const std::string_view mark = kSpaceMark;
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    std::string& token = spec.model.vocab[i].first;
    if (type_of(vocab, i) != kNormal) continue;
    token = token.starts_with(mark) ? token.substr(mark.size()) : "##" + token;
  }
  spec.model.kind = ModelKind::kWordPiece;
  spec.model.subword_prefix = "##";
  if (vocab.unk) spec.model.unk_token = vocab.tokens[checked_id(vocab.unk, "unknown_token_id", vocab, where)];
  PostStep around;
  if (vocab.bos) around.before.push_back(checked_id(vocab.bos, "bos_token_id", vocab, where));
  if (vocab.sep) around.after.push_back(checked_id(vocab.sep, "seperator_token_id", vocab, where));
  if (!around.before.empty() || !around.after.empty()) spec.post_processor.push_back(std::move(around));
  return spec;
}

struct VocabularyKind {
  const char* name;
  TokenizerSpec (*spec)(const GgufVocab&, const std::string&);
};
constexpr VocabularyKind kKinds[] = {{"gpt2", byte_level_spec},
                                     {"llama", llama_spec},
                                     {"gemma4", gemma4_spec},
                                     {"t5", t5_spec},
                                     {"bert", bert_spec}};

}  // namespace

TokenizerSpec spec_from_gguf(const GgufVocab& vocab, const std::string& where) {
  std::string known;
  for (const VocabularyKind& kind : kKinds) {
    if (vocab.model == kind.name) {
      check_vocab(vocab, where);
      return kind.spec(vocab, where);
    }
    known += (known.empty() ? "" : ", ") + std::string(kind.name);
  }
  fail(Code::kUnsupported, "{}: tokenizer.ggml.model '{}' is not supported (supported: {})", where,
       vocab.model, known);
}

}  // namespace awq
