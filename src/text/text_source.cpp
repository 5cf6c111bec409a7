#include "text/text_source.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/sha256.h"
#include "base/system.h"
#include "text/corpus.h"

namespace awq {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kSpace = " \t\r\n\f\v";

// Length of the well-formed sequence at the start of `s`, 0 if there is none (Unicode 15, table 3-7).
size_t utf8_sequence(std::string_view s) {
  const auto byte = [&](size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0U; };
  const auto tail = [&](size_t i) { return (byte(i) & 0xc0U) == 0x80U; };
  const unsigned lead = byte(0), second = byte(1);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return tail(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    const bool overlong = lead == 0xe0 && second < 0xa0, surrogate = lead == 0xed && second > 0x9f;
    return tail(1) && tail(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    const bool overlong = lead == 0xf0 && second < 0x90, beyond = lead == 0xf4 && second > 0x8f;
    return tail(1) && tail(2) && tail(3) && !overlong && !beyond ? 4 : 0;
  }
  return 0;
}

void check_utf8(std::string_view text, const std::string& where) {
  for (size_t at = 0; at < text.size();) {
    const size_t length = utf8_sequence(text.substr(at));
    if (length == 0)
      fail(Code::kBadFile, "{}: expected UTF-8 text, got byte 0x{:02x} at offset {}", where,
           static_cast<unsigned char>(text[at]), at);
    at += length;
  }
}

bool is_blank(std::string_view text) { return text.find_first_not_of(kSpace) == std::string_view::npos; }

// The "text" of one line of JSON.
std::string record_text(std::string_view line, const std::string& where, int64_t number,
                        const ConversationFn& conversation) {
  Json record;
  try {
    record = Json::parse(line);
  } catch (const Json::parse_error& error) {
    fail(Code::kBadFile,
         "{}: line {}: expected a JSON object {{\"text\": ...}}, got invalid JSON (column {})", where, number,
         error.byte);
  }
  if (record.is_object() && !record.contains("text") && record.contains("messages")) {
    if (!conversation)
      fail(Code::kUnsupported,
           "{}: line {}: conversations (\"messages\") are not read here; expected {{\"text\": ...}}", where,
           number);
    try {
      return conversation(std::string(line));
    } catch (const Error& error) {
      fail(error.code(), "{}: line {}: {}", where, number, error.what());
    }
  }
  if (!record.is_object() || !record.contains("text"))
    fail(Code::kBadFile, "{}: line {}: expected a JSON object {{\"text\": ...}}, got {}", where, number,
         record.is_object() ? "an object without \"text\"" : record.type_name());
  if (!record["text"].is_string())
    fail(Code::kBadFile, "{}: line {}: expected \"text\" to be a string, got {}", where, number,
         record["text"].type_name());
  return record["text"].get<std::string>();
}

std::vector<std::string> json_lines(std::string_view bytes, const std::string& where,
                                    const ConversationFn& conversation) {
  std::vector<std::string> samples;
  int64_t number = 0;
  for (size_t at = 0; at < bytes.size();) {
    const size_t end = std::min(bytes.find('\n', at), bytes.size());
    const std::string_view line = bytes.substr(at, end - at);
    ++number;
    at = end + 1;
    if (is_blank(line)) continue;
    if (std::string text = record_text(line, where, number, conversation); !text.empty())
      samples.push_back(std::move(text));
  }
  return samples;
}

bool looks_like_json_lines(std::string_view bytes) {
  const size_t begin = bytes.find_first_not_of(kSpace);
  if (begin == std::string_view::npos || bytes[begin] != '{') return false;
  const Json first = Json::parse(bytes.substr(begin, bytes.find('\n', begin) - begin), nullptr, false);
  return first.is_object() && (first.contains("text") || first.contains("messages"));
}

// The samples between the separator lines, without the newlines at their ends (leading spaces belong to the
// text).
std::vector<std::string> corpus_samples(std::string_view file) {
  constexpr std::string_view kSeparator = "\n%%%%\n";
  std::vector<std::string> samples;
  for (size_t at = 0; at < file.size();) {
    const size_t end = std::min(file.find(kSeparator, at), file.size());
    std::string_view sample = file.substr(at, end - at);
    const size_t first = sample.find_first_not_of('\n'), last = sample.find_last_not_of('\n');
    if (first != std::string_view::npos) samples.emplace_back(sample.substr(first, last - first + 1));
    at = end + kSeparator.size();
  }
  return samples;
}

// One sample of every file in turn.
TextSet builtin_set(std::span<const CorpusFile> files) {
  std::vector<std::vector<std::string>> of_file;
  Sha256 digest;
  for (const CorpusFile& file : files) {
    of_file.push_back(corpus_samples(file.text));
    digest.update(file.text);
  }
  TextSet set{"builtin", digest.hex(), {}, false};
  for (size_t turn = 0, added = 1; added > 0; ++turn) {
    added = 0;
    for (auto& samples : of_file)
      if (turn < samples.size()) set.samples.push_back(std::move(samples[turn])), ++added;
  }
  return set;
}

std::string read_standard_input() {
  std::ostringstream out;
  out << std::cin.rdbuf();
  if (std::cin.bad() || out.bad()) fail(Code::kIo, "standard input: read failed: {}", std::strerror(errno));
  return std::move(out).str();
}

}  // namespace

const TextSet& builtin_calibration() {
  static const TextSet set = builtin_set(calibration_files());
  return set;
}

const TextSet& builtin_heldout() {
  static const TextSet set = builtin_set(heldout_files());
  return set;
}

TextSet parse_text(std::string bytes, const std::string& where, const std::string& name, TextFormat format,
                   const ConversationFn& conversation) {
  TextSet set{name, sha256_hex(bytes), {}, false};
  check_utf8(bytes, where);
  if (is_blank(bytes))
    fail(Code::kBadFile, "{}: expected text, got {}", where,
         bytes.empty() ? "an empty file" : "only white space");
  set.plain =
      format == TextFormat::kPlain || (format == TextFormat::kDetect && !looks_like_json_lines(bytes));
  if (set.plain)
    set.samples.push_back(std::move(bytes));
  else
    set.samples = json_lines(bytes, where, conversation);
  if (set.samples.empty()) fail(Code::kBadFile, "{}: expected text, got only empty records", where);
  return set;
}

TextSet load_text(const std::string& spec, Builtin builtin, const ConversationFn& conversation) {
  if (spec == "builtin") return builtin == Builtin::kCalibration ? builtin_calibration() : builtin_heldout();
  if (spec == "-")
    return parse_text(read_standard_input(), "standard input", "standard input", TextFormat::kDetect,
                      conversation);
  const std::filesystem::path path(spec);
  std::error_code error;
  if (std::filesystem::is_directory(path, error))
    fail(Code::kBadFile, "{}: expected a text file, got a directory", spec);
  if (!std::filesystem::exists(path, error))
    fail(Code::kNotFound,
         "{}: no such file; expected a text file, a .jsonl file, \"builtin\" or - for standard input", spec);
  const std::string ending = path.extension().string();
  const bool lines = ending == ".jsonl" || ending == ".ndjson" || ending == ".json";
  return parse_text(read_text_file(path), spec, path.filename().string(),
                    lines ? TextFormat::kJsonLines : TextFormat::kPlain, conversation);
}

std::vector<int32_t> token_stream(const TextSet& text, const Tokenizer& tokenizer) {
  std::vector<int32_t> stream;
  for (const std::string& sample : text.samples) {
    const std::vector<int32_t> ids = tokenizer.encode(sample, false);
    stream.insert(stream.end(), ids.begin(), ids.end());
  }
  return stream;
}

}  // namespace awq
