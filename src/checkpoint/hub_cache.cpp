#include "checkpoint/hub_cache.h"

#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "base/system.h"
#include "base/printable.h"

namespace awq {
namespace {

namespace fs = std::filesystem;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

fs::path home_dir() {
  const std::string home = environment("HOME");
  return home.empty() ? "/" : home;
}

// A variable that names a folder, "~/" at its start meaning the home folder as in huggingface_hub.
fs::path folder(const char* variable) {
  const std::string value = environment(variable);
  return value.starts_with("~/") ? home_dir() / value.substr(2) : fs::path(value);
}

// The hub's rule for names: "org/name" of letters, digits, '-', '_' and '.', without ".." or "--".
bool is_hub_name(const std::string& model) {
  const size_t slash = model.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == model.size() ||
      model.find('/', slash + 1) != std::string::npos)
    return false;
  if (model.front() == '.' || model[slash + 1] == '.' || model.find("..") != std::string::npos ||
      model.find("--") != std::string::npos)
    return false;
  return std::all_of(model.begin(), model.end(), [](unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' ||
           c == '_' || c == '.' || c == '/';
  });
}

// The revision that refs/main names; "" when the ref is missing or names something other than a folder of
// snapshots.
std::string main_revision(const fs::path& repository) {
  const fs::path ref = repository / "refs" / "main";
  std::error_code error;
  if (!fs::is_regular_file(ref, error)) return "";
  std::string text = read_text_file(ref);
  text.erase(std::find_if(text.begin(), text.end(), [](unsigned char c) { return c <= ' '; }), text.end());
  const bool plain = text.find('/') == std::string::npos && text.find("..") == std::string::npos;
  return plain ? text : "";
}

}  // namespace

fs::path hub_cache_dir() {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"})
    if (const fs::path dir = folder(name); !dir.empty()) return dir;
  if (const fs::path home = folder("HF_HOME"); !home.empty()) return home / "hub";
  if (const fs::path cache = folder("XDG_CACHE_HOME"); !cache.empty()) return cache / "huggingface" / "hub";
  return home_dir() / ".cache" / "huggingface" / "hub";
}

fs::path resolve_model(const std::string& model) {
  std::error_code error;
  if (model.empty())
    fail(Code::kBadArgument, "expected a model folder, a .gguf file or org/name, got an empty name");
  if (fs::exists(model, error)) return model;
  if (!is_hub_name(model) || model.ends_with(".gguf"))
    fail(Code::kNotFound, "{}: no such file or folder (expected a model folder, a .gguf file or org/name)",
         printable(model));
  std::string folder = "models--" + model;
  folder.replace(folder.find('/'), 1, "--");
  const fs::path repository = hub_cache_dir() / folder;
  const std::string revision = main_revision(repository);
  const fs::path snapshot = repository / "snapshots" / revision;
  if (revision.empty() || !fs::is_directory(snapshot, error))
    fail(Code::kNotFound, "{}: no such folder, and not in the cache {}; fetch it with: hf download {}", model,
         hub_cache_dir().string(), model);
  return snapshot;
}

}  // namespace awq
