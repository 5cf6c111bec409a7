// The bytes of a file, read only: mapped, or in memory already. A mapping lives as long as any shared_ptr to it.
#pragma once
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

namespace awq {

class MappedFile {
 public:
  // Throws kNotFound or kIo, naming the path. Empty files map to an empty span.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  // Bytes that the caller keeps alive; `name` stands for the path in errors. For parsing without files.
  static std::shared_ptr<const MappedFile> in_memory(std::filesystem::path name, std::span<const std::byte> bytes);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }
  // Tells the kernel the range will not be read again, so that resident memory stays bounded.
  void done_with(size_t offset, size_t size) const;

 private:
  MappedFile() = default;
  std::filesystem::path path_;
  bool mapped_ = false;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace awq
