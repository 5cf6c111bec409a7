// Who may ask: API keys, names under which the server answers, and web pages that may call it.
#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "server/http_parser.h"

namespace awq::server {

class ApiKeys {
 public:
  ApiKeys() = default;
  // kBadArgument for a key shorter than 8 characters or with white space or control characters.
  void add(std::string_view key);
  // One key a line; empty lines and those that begin with # are skipped. kNotFound, kIo, kBadFile.
  void add_file(const std::filesystem::path& file);

  bool required() const { return !digests_.empty(); }
  // The number of the key in an Authorization field, "Bearer KEY", or "Basic", as a browser asks for it, with
  // the key as password; -1: none fits. Takes the same time whatever the key and whichever fits: digests are
  // compared, all of them to the end.
  int64_t find(std::string_view authorization) const;

 private:
  std::vector<std::array<uint8_t, 32>> digests_;
};

struct AccessRules {
  ApiKeys keys;
  std::vector<std::string> hosts;    // Host names answered to, without port, in lower case; empty: any
  std::vector<std::string> origins;  // web pages of other origins that may call, "https://example.org"
};

// A Host field against the list; ports do not matter.
bool host_allowed(const AccessRules& rules, std::string_view host);
// The Origin of a request: none, this server's own page, or one of the list.
bool origin_allowed(const AccessRules& rules, const HttpHead& head);

}  // namespace awq::server
