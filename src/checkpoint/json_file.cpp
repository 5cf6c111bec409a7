#include "checkpoint/json_file.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/system.h"
#include "base/printable.h"

namespace awq {
namespace {

constexpr int kMaxDepth = 64;
constexpr int64_t kMaxComparisons = 100'000'000;       // a few tenths of a second; one object of 14,000 keys
constexpr uintmax_t kMaxBytes = uintmax_t{256} << 20;  // indexes of the largest models have a few MB

std::string position(std::string_view text, size_t byte) {
  const std::string_view before = text.substr(0, std::min(byte > 0 ? byte - 1 : 0, text.size()));
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const size_t line_start = before.rfind('\n');
  const size_t column = before.size() - (line_start == std::string_view::npos ? 0 : line_start + 1) + 1;
  return fmt::format("line {}, column {}", line, column);
}

}  // namespace

nlohmann::ordered_json parse_json(std::string_view text, const std::string& where) {
  // The library takes a NUL for the end and would not look at what stands behind it.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos)
    fail(Code::kBadFile, "{}: invalid JSON at {} (offset {}): unexpected '\\x00'", where,
         position(text, nul + 1), nul);
  using Event = nlohmann::ordered_json::parse_event_t;
  // ordered_json compares each key with all that stand before it in the object.
  std::array<int64_t, kMaxDepth + 2> keys{};  // of the object open at each depth
  int64_t comparisons = 0;
  const auto limit = [&](int depth, Event event, nlohmann::ordered_json&) {
    if (depth > kMaxDepth)
      fail(Code::kBadFile, "{}: expected JSON nested at most {} deep, got more", where, kMaxDepth);
    if (event == Event::object_start) keys[static_cast<size_t>(depth) + 1] = 0;
    if (event == Event::key && (comparisons += keys[static_cast<size_t>(depth)]++) > kMaxComparisons)
      fail(Code::kBadFile, "{}: expected JSON objects of at most some thousand keys, got more", where);
    return true;
  };
  try {
    return nlohmann::ordered_json::parse(text.begin(), text.end(), limit);
  } catch (const nlohmann::json::parse_error& e) {
    const std::string at = position(text, e.byte);
    const bool at_end = e.byte > text.size();
    fail(Code::kBadFile, "{}: invalid JSON at {} (offset {}): {}", where, at, e.byte > 0 ? e.byte - 1 : 0,
         at_end ? std::string("the text ends too early")
                : "unexpected '" + printable(text.substr(e.byte > 0 ? e.byte - 1 : 0, 12)) + "'");
  } catch (const nlohmann::json::exception& e) {
    fail(Code::kBadFile, "{}: invalid JSON: {}", where, printable(e.what()));
  }
}

std::string read_json_text(const std::filesystem::path& path) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (!error && size > kMaxBytes)
    fail(Code::kBadFile, "{}: expected a JSON file of at most {} bytes, got {}", path.string(), kMaxBytes,
         size);
  return read_text_file(path);
}

nlohmann::ordered_json read_json_object(const std::filesystem::path& path) {
  nlohmann::ordered_json json = parse_json(read_json_text(path), path.string());
  if (!json.is_object())
    fail(Code::kBadFile, "{}: expected a JSON object, got {}", path.string(), json.type_name());
  return json;
}

}  // namespace awq
