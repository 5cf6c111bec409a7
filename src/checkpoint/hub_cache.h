// What a user calls a model, turned into a path on this machine.
#pragma once
#include <filesystem>
#include <string>

namespace awq {

// Where the standard Hugging Face cache lies: HF_HUB_CACHE, else HUGGINGFACE_HUB_CACHE, else HF_HOME/hub,
// else $XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub.
std::filesystem::path hub_cache_dir();

// `model`: a directory, a .gguf file, or "org/name" found in the cache (refs/main -> snapshots/<revision>).
// kNotFound in one line, naming the command that fetches it.
std::filesystem::path resolve_model(const std::string& model);

}  // namespace awq
