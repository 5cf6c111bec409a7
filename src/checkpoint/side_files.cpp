#include "checkpoint/side_files.h"

#include <algorithm>

#include "base/log.h"
#include "base/system.h"
#include "checkpoint/manifest.h"

namespace awq {
namespace {

namespace fs = std::filesystem;

constexpr uintmax_t kMaxBytes = uintmax_t{128} << 20;  // the largest tokenizer.json known has 33 MB

constexpr std::string_view kNames[] = {
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "normalizer.json",
    "preprocessor_config.json",
    "processor_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer.model.v3",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "vocab.txt",
};

bool belongs_beside_weights(const std::string& name) {
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames) ||
         name.ends_with(".tiktoken") || name.starts_with("LICENSE") || name.starts_with("NOTICE");
}

}  // namespace

std::vector<Checkpoint::SideFile> read_side_files(const fs::path& dir) {
  std::vector<Checkpoint::SideFile> out;
  const auto add = [&](const fs::path& path, std::string name) {
    const uintmax_t size = fs::file_size(path);
    if (size > kMaxBytes)
      log(Level::kWarning, "{}: left out, {} is too large for a side file", path.string(),
          human_bytes(static_cast<double>(size)));
    else
      out.push_back({std::move(name), read_text_file(path)});
  };
  for (const auto& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_regular_file() && belongs_beside_weights(name)) add(entry.path(), name);
  }
  // A README.source.md is there only when README.md is awq's own card about this very folder.
  const fs::path carried = dir / "README.source.md", readme = dir / "README.md";
  if (fs::is_regular_file(carried))
    add(carried, "README.source.md");
  else if (fs::is_regular_file(readme) && !holds_manifest(dir))
    add(readme, "README.source.md");
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return out;
}

}  // namespace awq
