#include "tokenizer/decoder.h"

#include <utility>

#include "tokenizer/byte_level.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/unicode.h"

namespace awq {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The byte of "<0x0A>", or -1.
int fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return -1;
  const int high = hex_digit(token[3]), low = hex_digit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

std::vector<std::string> join_fallback_bytes(const std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (is_valid_utf8(bytes)) {
      out.push_back(bytes);
    } else {
      for (size_t i = 0; i < bytes.size(); ++i)
        out.emplace_back(kReplacementCharacter);  // for each byte of the run
    }
    bytes.clear();
  };
  for (const std::string& token : tokens) {
    const int byte = fallback_byte(token);
    if (byte >= 0) {
      bytes += static_cast<char>(byte);
    } else {
      flush();
      out.push_back(token);
    }
  }
  flush();
  return out;
}

std::string joined(const std::vector<std::string>& tokens, std::string_view between) {
  std::string out;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) out += between;
    out += tokens[i];
  }
  return out;
}

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

// Spaces that stand before English punctuation and contractions go, as `tokenizers` does.
std::string cleaned_up(std::string text) {
  static constexpr std::pair<std::string_view, std::string_view> kRules[] = {
      {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
      {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : kRules) text = replace_all(text, std::string(from), nullptr, to);
  return text;
}

std::string word_piece(const DecoderStep& s, const std::string& token, bool first) {
  std::string text = first                          ? token
                     : token.starts_with(s.content) ? token.substr(s.content.size())
                                                    : " " + token;
  return s.cleanup ? cleaned_up(std::move(text)) : text;
}

std::string ctc_token(const DecoderStep& s, const std::string& token) {
  std::string text = replace_all(token, s.content, nullptr, "");
  return s.cleanup ? replace_all(cleaned_up(std::move(text)), s.word_delimiter, nullptr, " ") : text;
}

std::vector<std::string> ctc_tokens(const DecoderStep& s, const std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0 && tokens[i] == tokens[i - 1]) continue;  // one sound, heard for several frames
    std::string text = ctc_token(s, tokens[i]);
    if (!text.empty()) out.push_back(std::move(text));
  }
  return out;
}

// Bytes to characters, each byte that is none becoming U+FFFD.
void append_bytes_as_text(std::string& out, std::string& bytes) {
  for (size_t pos = 0; pos < bytes.size();) {
    const size_t length = valid_utf8_at(bytes, pos);
    out += length > 0 ? std::string_view(bytes).substr(pos, length) : kReplacementCharacter;
    pos += length > 0 ? length : 1;
  }
  bytes.clear();
}

// SentencePieceProcessor::Decode of the SentencePiece library.
std::string sentencepiece_text(const DecoderStep& s, const Charsmap& charsmap,
                               const std::vector<std::string>& tokens) {
  std::string out, bytes;
  bool at_start = true, dropped = false;
  for (const std::string& token : tokens) {
    if (const int byte = fallback_byte(token); byte >= 0) {
      bytes += static_cast<char>(byte);
      continue;
    }
    append_bytes_as_text(out, bytes);
    if (dropped || !out.empty()) at_start = false;
    dropped = false;
    if (token == s.unk) {
      out += s.unk_surface;
      continue;
    }
    std::string_view piece = token;
    if (at_start && (s.drop_prefix || s.drop_all_prefixes) && piece.starts_with(kSpaceMark)) {
      piece.remove_prefix(kSpaceMark.size());
      dropped = !s.drop_all_prefixes;
    }
    out += replace_all(piece, std::string(kSpaceMark), nullptr, " ");
  }
  append_bytes_as_text(out, bytes);
  return charsmap.empty() ? out : sentencepiece_normalize(out, s.rules, charsmap, {}, true);
}

std::string stripped(std::string_view token, const DecoderStep& s) {
  for (int64_t i = 0; i < s.start && token.starts_with(s.content); ++i) token.remove_prefix(s.content.size());
  for (int64_t i = 0; i < s.stop && token.ends_with(s.content); ++i) token.remove_suffix(s.content.size());
  return std::string(token);
}

}  // namespace

Decoder::Decoder(const std::vector<DecoderStep>& steps, const std::string& where) {
  for (const DecoderStep& s : steps) {
    Step& step = steps_.emplace_back();
    step.spec = s;
    if (s.kind == DecoderKind::kReplace && s.pattern.is_regex) step.regex.emplace_back(s.pattern.text, where);
    step.charsmap = Charsmap(s.charsmap, where);
  }
}

std::string Decoder::decode(std::vector<std::string> tokens) const {
  if (steps_.empty()) return joined(tokens, " ");
  for (const Step& step : steps_) {
    const DecoderStep& s = step.spec;
    switch (s.kind) {
      case DecoderKind::kByteLevel: {
        std::string bytes;
        for (const std::string& token : tokens) bytes += from_byte_level(token);
        tokens.assign(1, replace_invalid_utf8(bytes));
        break;
      }
      case DecoderKind::kReplace:
        for (std::string& token : tokens)
          token =
              replace_all(token, s.pattern.text, step.regex.empty() ? nullptr : &step.regex[0], s.content);
        break;
      case DecoderKind::kByteFallback:
        tokens = join_fallback_bytes(tokens);
        break;
      case DecoderKind::kFuse:
        tokens.assign(1, joined(tokens, ""));
        break;
      case DecoderKind::kStrip:
        for (std::string& token : tokens) token = stripped(token, s);
        break;
      case DecoderKind::kMetaspace:
        for (size_t i = 0; i < tokens.size(); ++i) {
          const bool drop =
              i == 0 && s.prepend_scheme != PrependScheme::kNever;  // all of them, as `tokenizers` does
          tokens[i] = replace_all(tokens[i], s.content, nullptr, drop ? "" : " ");
        }
        break;
      case DecoderKind::kBpe:
        for (size_t i = 0; i < tokens.size(); ++i)
          tokens[i] = replace_all(tokens[i], s.content, nullptr, i + 1 == tokens.size() ? "" : " ");
        break;
      case DecoderKind::kWordPiece:
        for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = word_piece(s, tokens[i], i == 0);
        break;
      case DecoderKind::kCtc:
        tokens = ctc_tokens(s, tokens);
        break;
      case DecoderKind::kSentencePiece:
        tokens.assign(1, sentencepiece_text(s, step.charsmap, tokens));
        break;
    }
  }
  return joined(tokens, "");
}

std::string Decoder::token_bytes(std::string_view token, bool at_start) const {
  std::string bytes(token);
  bool fused = false;  // what follows concerns the ends of the whole text
  for (const Step& step : steps_) {
    const DecoderStep& s = step.spec;
    switch (s.kind) {
      case DecoderKind::kByteLevel:
        return from_byte_level(bytes);
      case DecoderKind::kReplace:
        bytes = replace_all(bytes, s.pattern.text, step.regex.empty() ? nullptr : &step.regex[0], s.content);
        break;
      case DecoderKind::kByteFallback:
        if (const int byte = fallback_byte(bytes); byte >= 0) return std::string(1, static_cast<char>(byte));
        break;
      case DecoderKind::kFuse:
        fused = true;
        break;
      case DecoderKind::kStrip:
        if (!fused) {
          bytes = stripped(bytes, s);
        } else if (at_start) {
          DecoderStep front = s;
          front.stop = 0;
          bytes = stripped(bytes, front);
        }
        break;
      case DecoderKind::kMetaspace:
        bytes = replace_all(bytes, s.content, nullptr,
                            at_start && s.prepend_scheme != PrependScheme::kNever ? "" : " ");
        break;
      case DecoderKind::kBpe:
        bytes = replace_all(bytes, s.content, nullptr, " ");
        break;
      case DecoderKind::kWordPiece:
        bytes = word_piece(s, bytes, at_start);
        break;
      case DecoderKind::kCtc:
        bytes = ctc_token(s, bytes);
        break;
      case DecoderKind::kSentencePiece:
        if (const int byte = fallback_byte(bytes); byte >= 0) return std::string(1, static_cast<char>(byte));
        if (bytes == s.unk) return s.unk_surface;
        if (at_start && (s.drop_prefix || s.drop_all_prefixes) && bytes.starts_with(kSpaceMark))
          bytes.erase(0, kSpaceMark.size());
        return replace_all(bytes, std::string(kSpaceMark), nullptr, " ");
    }
  }
  return bytes;
}

}  // namespace awq
