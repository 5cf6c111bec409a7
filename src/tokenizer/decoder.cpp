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
        out.emplace_back("\xEF\xBF\xBD");  // U+FFFD for each byte of the run
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
    }
  }
  return joined(tokens, "");
}

std::string Decoder::token_bytes(std::string_view token) const {
  std::string bytes(token);
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
        return bytes;  // what follows concerns the ends of the whole text
      case DecoderKind::kStrip:
        bytes = stripped(bytes, s);
        break;
      case DecoderKind::kMetaspace:
        bytes = replace_all(bytes, s.content, nullptr, " ");
        break;
    }
  }
  return bytes;
}

}  // namespace awq
