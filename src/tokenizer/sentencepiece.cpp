// SentencePiece .model -> TokenizerSpec. The format is the message ModelProto of sentencepiece_model.proto in
// the protocol buffers wire format; a reader of these few fields is smaller than the library and can be
// bounded.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <unordered_set>

#include "base/error.h"
#include "tokenizer/spec.h"
#include "tokenizer/unicode.h"

namespace awq {
namespace {

enum ModelType : uint64_t { kUnigram = 1, kBpe = 2, kWord = 3, kChar = 4 };
enum TokenType : uint64_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

// The fields of one message, in the order they are stored.
class Message {
 public:
  Message(std::string_view bytes, const char* name, const std::string& where)
      : bytes_(bytes), name_(name), where_(where) {}

  // Moves to the next field; false at the end.
  bool next() {
    if (pos_ == bytes_.size()) return false;
    const uint64_t key = varint();
    field_ = key >> 3;
    wire_ = static_cast<int>(key & 7);
    switch (wire_) {
      case 0:
        number_ = varint();
        return true;
      case 1:
        data_ = take(8);
        return true;
      case 2:
        data_ = take(varint());
        return true;
      case 5:
        data_ = take(4);
        return true;
      default:
        bad(fmt::format("a field of a known wire type, got type {}", wire_));
    }
  }
  uint64_t field() const { return field_; }
  uint64_t number() const {
    expect(0, "a number");
    return number_;
  }
  bool flag() const { return number() != 0; }
  std::string_view data() const {
    expect(2, "bytes");
    return data_;
  }
  float real() const {
    expect(5, "a 32-bit real number");
    float f;
    std::memcpy(&f, data_.data(), sizeof f);
    return f;
  }

 private:
  [[noreturn]] void bad(const std::string& expected) const {
    fail(Code::kBadFile, "{}: {} at byte {}: expected {}", where_, name_, pos_, expected);
  }
  void expect(int wire, const char* what) const {
    if (wire_ != wire) bad(fmt::format("{} in field {}, got wire type {}", what, field_, wire_));
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (pos_ == bytes_.size()) bad("a number, got the end");
      const auto byte = static_cast<unsigned char>(bytes_[pos_++]);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    bad("a number of at most 10 bytes");
  }
  std::string_view take(uint64_t n) {
    if (n > bytes_.size() - pos_) bad(fmt::format("{} more bytes, got {}", n, bytes_.size() - pos_));
    const std::string_view out = bytes_.substr(pos_, n);
    pos_ += n;
    return out;
  }

  std::string_view bytes_;
  const char* name_;
  const std::string& where_;
  size_t pos_ = 0;
  uint64_t field_ = 0, number_ = 0;
  int wire_ = 0;
  std::string_view data_;
};

struct Piece {
  std::string text;
  float score = 0;
  uint64_t type = kNormal;
};
struct NormalizerSpec {
  std::string charsmap;
  SentencePieceRules rules;
};
struct ModelProto {
  std::vector<Piece> pieces;
  uint64_t model_type = kUnigram;
  bool byte_fallback = false, whitespace_as_suffix = false;
  std::string unk_surface = " \xE2\x81\x87 ";  // U+2047
  NormalizerSpec normalizer, denormalizer;
};

Piece read_piece(Message m) {
  Piece p;
  while (m.next()) {
    if (m.field() == 1) p.text = m.data();
    if (m.field() == 2) p.score = m.real();
    if (m.field() == 3) p.type = m.number();
  }
  return p;
}

void read_trainer(Message m, ModelProto& proto) {
  while (m.next()) {
    if (m.field() == 3) proto.model_type = m.number();
    if (m.field() == 24) proto.whitespace_as_suffix = m.flag();
    if (m.field() == 35) proto.byte_fallback = m.flag();
    if (m.field() == 44) proto.unk_surface = m.data();
  }
}

void read_normalizer(Message m, NormalizerSpec& n) {
  while (m.next()) {
    if (m.field() == 2) n.charsmap = m.data();
    if (m.field() == 3) n.rules.add_dummy_prefix = m.flag();
    if (m.field() == 4) n.rules.remove_extra_whitespaces = m.flag();
    if (m.field() == 5) n.rules.escape_whitespaces = m.flag();
  }
}

ModelProto read_proto(std::string_view bytes, const std::string& where) {
  ModelProto proto;
  Message m(bytes, "SentencePiece model", where);
  while (m.next()) {
    if (m.field() == 1) proto.pieces.push_back(read_piece({m.data(), "piece", where}));
    if (m.field() == 2) read_trainer({m.data(), "trainer_spec", where}, proto);
    if (m.field() == 3) read_normalizer({m.data(), "normalizer_spec", where}, proto.normalizer);
    if (m.field() == 5) read_normalizer({m.data(), "denormalizer_spec", where}, proto.denormalizer);
  }
  return proto;
}

// What the library refuses to load (src/model_interface.cc), we refuse.
class Checks {
 public:
  Checks(const ModelProto& proto, const std::string& where) : proto_(proto), where_(where) {}

  void run() {
    if (proto_.pieces.empty() || proto_.pieces.size() > INT32_MAX)
      fail(Code::kBadFile, "{}: expected a SentencePiece model with pieces, got {}", where_,
           proto_.pieces.size());
    for (id_ = 0; id_ < proto_.pieces.size(); ++id_) check(proto_.pieces[id_]);
    if (unknowns_ != 1)
      fail(Code::kBadFile, "{}: expected one piece of type 'unknown', got {}", where_, unknowns_);
    if (proto_.byte_fallback && bytes_.size() != 256)
      fail(Code::kBadFile, "{}: expected 256 byte pieces for byte_fallback, got {}", where_, bytes_.size());
  }

 private:
  void check(const Piece& p) {
    if (p.text.empty()) bad("a piece, got an empty one");
    if (!is_valid_utf8(p.text)) bad("a piece in UTF-8");
    if (p.type < kNormal || p.type > kByte) bad(fmt::format("a type from 1 to 6, got {}", p.type));
    if (std::isnan(p.score)) bad("a score, got NaN");
    const bool in_text = p.type == kNormal || p.type == kUserDefined || p.type == kUnused;
    if (!(in_text ? pieces_ : reserved_).insert(p.text).second)
      bad(fmt::format("a piece of its own, got '{}' again", p.text));
    unknowns_ += p.type == kUnknown;
    if (p.type != kByte) return;
    if (!proto_.byte_fallback) bad(fmt::format("no byte piece without byte_fallback, got '{}'", p.text));
    if (!is_byte_piece(p.text)) bad(fmt::format("a byte piece like '<0x0A>', got '{}'", p.text));
    bytes_.insert(p.text);
  }
  static bool is_byte_piece(std::string_view text) {
    constexpr std::string_view kHex = "0123456789ABCDEF";
    return text.size() == 6 && text.starts_with("<0x") && text[5] == '>' &&
           kHex.find(text[3]) != std::string_view::npos && kHex.find(text[4]) != std::string_view::npos;
  }
  [[noreturn]] void bad(const std::string& expected) const {
    fail(Code::kBadFile, "{}: piece {}: expected {}", where_, id_, expected);
  }

  const ModelProto& proto_;
  const std::string& where_;
  size_t id_ = 0;
  int64_t unknowns_ = 0;
  std::unordered_set<std::string_view> pieces_, reserved_, bytes_;  // views into the model
};

ModelKind kind_of(uint64_t model_type, const std::string& where) {
  switch (model_type) {
    case kUnigram:
      return ModelKind::kUnigram;
    case kBpe:
      return ModelKind::kScoredBpe;
    case kWord:
      return ModelKind::kWord;
    case kChar:
      return ModelKind::kCharacter;
    default:
      fail(Code::kUnsupported, "{}: SentencePiece model_type {} is not supported (supported: 1 to 4)", where,
           model_type);
  }
}

PieceType type_of(uint64_t type) {
  if (type == kNormal) return PieceType::kNormal;
  if (type == kUserDefined) return PieceType::kUserDefined;
  return type == kUnused ? PieceType::kUnused : PieceType::kReserved;
}

}  // namespace

TokenizerSpec spec_from_sentencepiece(std::string_view model, const std::string& where) {
  ModelProto proto = read_proto(model, where);
  Checks(proto, where).run();
  TokenizerSpec spec;
  spec.model.kind = kind_of(proto.model_type, where);
  spec.model.byte_fallback = proto.byte_fallback;
  NormalizerStep normalizer{};
  normalizer.kind = NormalizerKind::kSentencePiece;
  normalizer.charsmap = std::move(proto.normalizer.charsmap);
  normalizer.rules = std::move(proto.normalizer.rules);
  normalizer.rules.whitespace_as_suffix = proto.whitespace_as_suffix;
  DecoderStep decoder{};
  decoder.kind = DecoderKind::kSentencePiece;
  decoder.drop_all_prefixes = normalizer.rules.remove_extra_whitespaces;
  decoder.drop_prefix = normalizer.rules.add_dummy_prefix;
  decoder.unk_surface = std::move(proto.unk_surface);
  decoder.charsmap = std::move(proto.denormalizer.charsmap);
  decoder.rules = std::move(proto.denormalizer.rules);
  for (size_t i = 0; i < proto.pieces.size(); ++i) {
    Piece& p = proto.pieces[i];
    const auto id = static_cast<int32_t>(i);
    if (p.type == kUnknown) {
      spec.model.unk_id = id;
      decoder.unk = p.text;
    }
    if (p.type == kControl) {
      AddedToken t;
      t.id = id;
      t.content = p.text;
      t.special = true;
      spec.added_tokens.push_back(std::move(t));
    }
    if (p.type == kUserDefined) normalizer.rules.user_defined.push_back(p.text);
    spec.model.scores.push_back(static_cast<double>(p.score));
    spec.model.types.push_back(type_of(p.type));
    spec.model.vocab.emplace_back(std::move(p.text), id);
  }
  spec.normalizer.push_back(std::move(normalizer));
  spec.decoder.push_back(std::move(decoder));
  return spec;
}

}  // namespace awq
