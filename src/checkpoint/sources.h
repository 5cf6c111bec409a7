// The two kinds of checkpoint behind Checkpoint::open, and what they share.
#pragma once
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/mmap.h"
#include "checkpoint/checkpoint.h"

namespace awq {

std::shared_ptr<const Checkpoint> open_hf_directory(const std::filesystem::path& dir);
std::shared_ptr<const Checkpoint> open_gguf(const std::filesystem::path& path);

// Throws kBadFile naming file, tensor, offset and element when `tensor` holds a NaN or an infinity.
void require_finite(const Tensor& tensor, const StoredTensor& stored);

// kNotFound: "DIR: no tensor 'x'".
[[noreturn]] void no_such_tensor(const Checkpoint& checkpoint, std::string_view name);

// SHA-256 over the configuration and, in order of names, every tensor's name, dtype, shape, size and bytes:
// the same however the tensors are spread over shards.
std::string fingerprint_tensors(const Checkpoint& checkpoint,
                                const std::function<const MappedFile&(const StoredTensor&)>& file_of);

// The value of `license:` in a model card's front matter, "" if there is none.
std::string license_of_readme(std::string_view readme);

}  // namespace awq
