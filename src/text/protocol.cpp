#include "text/protocol.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "tokenizer/unicode.h"

namespace awq {
namespace {

constexpr std::array<const char*, 3> kNames = {"gptq2048", "raw2048", "llamacpp512"};

// White space as Python's str.strip() sees it, which made the dataset's rows: White_Space and the four
// separators.
bool is_blank_row(std::string_view row) {
  for (size_t at = 0; at < row.size();) {
    const char32_t c = next_code_point(row, at);
    if (!is_white_space(c) && !(c >= 0x1c && c <= 0x1f)) return false;
  }
  return true;
}

// The rows of the dataset, a blank one at the end left out, joined as the papers' code joins them.
std::string joined_rows(std::string_view text) {
  std::string out;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view row = text.substr(at, end - at);
    const bool blank = is_blank_row(row);
    if (blank && end == text.size()) break;
    if (at > 0) out += "\n\n";
    if (!blank) out.append(row) += '\n';
    at = end + 1;
  }
  return out;
}

// The token this tokenizer puts before a text, if it does.
std::optional<int32_t> added_bos(const Tokenizer& tokenizer) {
  const std::vector<int32_t> with = tokenizer.encode("a", true), without = tokenizer.encode("a", false);
  if (with.empty() || (!without.empty() && with.front() == without.front())) return std::nullopt;
  return with.front();
}

}  // namespace

std::span<const char* const> protocol_names() { return kNames; }

const char* protocol_name(Protocol protocol) { return kNames.at(static_cast<size_t>(protocol)); }

Protocol protocol_named(std::string_view name) {
  const auto at = std::find(kNames.begin(), kNames.end(), name);
  if (at == kNames.end())
    fail(Code::kBadArgument, "protocol '{}': expected gptq2048, raw2048 or llamacpp512", name);
  return static_cast<Protocol>(at - kNames.begin());
}

std::vector<int32_t> protocol_tokens(const TextSet& text, const Tokenizer& tokenizer, Protocol protocol) {
  std::vector<int32_t> tokens;
  if (protocol == Protocol::kLlamacpp512)
    if (const auto bos = added_bos(tokenizer)) tokens.push_back(*bos);
  for (const std::string& sample : text.samples) {
    std::string_view piece = sample;
    std::string joined;
    if (text.plain && protocol == Protocol::kGptq2048) piece = joined = joined_rows(sample);
    if (text.plain && protocol == Protocol::kLlamacpp512 && piece.ends_with('\n')) piece.remove_suffix(1);
    const std::vector<int32_t> ids = tokenizer.encode(piece, false);
    tokens.insert(tokens.end(), ids.begin(), ids.end());
  }
  return tokens;
}

WindowSpec protocol_windows(Protocol protocol, const Tokenizer& tokenizer) {
  if (protocol == Protocol::kLlamacpp512) return {512, 256, added_bos(tokenizer)};
  return {2048, 0, std::nullopt};
}

}  // namespace awq
