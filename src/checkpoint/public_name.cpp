// What may be published of paths and command lines: outputs are uploaded, and a home directory names its
// user.
#include <algorithm>

#include "checkpoint/manifest.h"

namespace awq {
namespace fs = std::filesystem;
namespace {

// "models--org--name", a repository's directory in a Hugging Face cache, as "org/name"; else "".
std::string cache_repository(const std::string& component) {
  constexpr std::string_view kPrefix = "models--";
  if (!component.starts_with(kPrefix)) return "";
  std::string name = component.substr(kPrefix.size());
  for (size_t at; (at = name.find("--")) != std::string::npos;) name.replace(at, 2, "/");
  return name;
}

// "org/name" is left alone: it names a repository, not a place on this machine.
bool is_path(std::string_view value) {
  if (value == "." || value == ".." || value.starts_with('~')) return true;
  const auto slashes = std::count(value.begin(), value.end(), '/');
  return slashes > 1 ||
         (slashes == 1 && (value.starts_with('/') || value.starts_with('.') || value.ends_with('/')));
}

std::string shell_quoted(const std::string& text) {
  constexpr std::string_view kSafe =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-";
  if (!text.empty() && text.find_first_not_of(kSafe) == std::string::npos) return text;
  std::string out = "'";
  for (char c : text) {
    if (c == '\'')
      out += "'\\''";
    else
      out += c;
  }
  return out + "'";
}

}  // namespace

std::string public_name(const fs::path& path) {
  const fs::path whole = fs::absolute(path).lexically_normal();
  for (const fs::path& component : whole)
    if (std::string name = cache_repository(component.string()); !name.empty()) return name;
  return whole.has_filename() ? whole.filename().string() : whole.parent_path().filename().string();
}

std::string public_argument(std::string_view argument) {
  size_t begin = 0;  // of the value
  if (argument.starts_with("--"))
    begin = argument.find('=') == argument.npos ? argument.size() : argument.find('=') + 1;
  else if (argument.size() > 1 && argument.starts_with('-'))
    begin = 2;  // "-o/path"
  const std::string_view value = argument.substr(begin);
  if (!is_path(value)) return std::string(argument);
  return std::string(argument.substr(0, begin)) + public_name(value);
}

std::string public_command(const std::vector<std::string>& argv) {
  std::string out = "awq";
  for (size_t i = 1; i < argv.size(); ++i) out += " " + shell_quoted(public_argument(argv[i]));
  return out;
}

}  // namespace awq
