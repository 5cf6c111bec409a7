#include "server/auth.h"

#include <algorithm>

#include "base/error.h"
#include "base/sha256.h"
#include "base/system.h"

namespace awq::server {
namespace {

std::array<uint8_t, 32> digest(std::string_view text) {
  const std::string hex = sha256_hex(text);
  std::array<uint8_t, 32> out{};
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = static_cast<uint8_t>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  return out;
}

// What is not base64 ends the text; a wrong password follows from it like any other.
std::string from_base64(std::string_view text) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const size_t value = kAlphabet.find(c);
    if (value == std::string_view::npos) break;
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    out += static_cast<char>(bits >> count & 0xff);
  }
  return out;
}

std::string key_of(std::string_view authorization) {
  const size_t space = authorization.find(' ');
  if (space == std::string_view::npos) return {};
  const std::string_view scheme = authorization.substr(0, space), rest = authorization.substr(space + 1);
  if (equals_ignoring_case(scheme, "bearer")) return std::string(rest);
  if (!equals_ignoring_case(scheme, "basic")) return {};
  const std::string both = from_base64(rest);
  const size_t colon = both.find(':');
  return colon == std::string::npos ? std::string() : both.substr(colon + 1);
}

std::string_view without_port(std::string_view host) {
  if (host.starts_with('[')) return host.substr(0, host.find(']') + 1);
  return host.substr(0, host.find(':'));
}

bool holds_name(const std::vector<std::string>& names, std::string_view name) {
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& n) { return equals_ignoring_case(n, name); });
}

}  // namespace

void ApiKeys::add(std::string_view key) {
  if (key.size() < 8)
    fail(Code::kBadArgument, "an API key: expected at least 8 characters, got {}", key.size());
  if (std::any_of(key.begin(), key.end(), [](char c) { return c <= ' ' || c == 0x7f; }))
    fail(Code::kBadArgument,
         "an API key: expected visible characters, got white space or a control character");
  digests_.push_back(digest(key));
}

void ApiKeys::add_file(const std::filesystem::path& file) {
  const std::string text = read_text_file(file);
  const size_t before = digests_.size();
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = std::string_view(text).substr(at, end - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && line.front() != '#') add(line);
    at = end + 1;
  }
  if (digests_.size() == before)
    fail(Code::kBadFile, "{}: expected API keys, one a line, got none", file.string());
}

int64_t ApiKeys::find(std::string_view authorization) const {
  const auto given = digest(key_of(authorization));
  int64_t found = -1;
  for (size_t i = 0; i < digests_.size(); ++i) {
    uint8_t different = 0;
    for (size_t b = 0; b < given.size(); ++b)
      different = static_cast<uint8_t>(different | (given[b] ^ digests_[i][b]));
    if (different == 0) found = static_cast<int64_t>(i);
  }
  return found;
}

bool host_allowed(const AccessRules& rules, std::string_view host) {
  return rules.hosts.empty() || host.empty() || holds_name(rules.hosts, without_port(host));
}

bool origin_allowed(const AccessRules& rules, const HttpHead& head) {
  const std::string_view origin = head.field("origin");
  if (origin.empty() || std::find(rules.origins.begin(), rules.origins.end(), origin) != rules.origins.end())
    return true;
  for (const std::string_view scheme : {"http://", "https://"})
    if (origin.starts_with(scheme) && equals_ignoring_case(origin.substr(scheme.size()), head.host))
      return true;
  return false;
}

}  // namespace awq::server
