// What the writing side shares: files that are written exactly or fail by name, the rules about what may stand under an
// output's name, and locks on directories.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace awq {

// A file being written in a temporary directory. Messages show the name it will have in the end. Interrupted and short
// calls are carried on; errors are kNoSpace (with the bytes needed and free) or kIo.
class OutputFile {
 public:
  enum class Mode { kNew, kKeep };  // the file must not exist; or: what it holds stays
  OutputFile(const std::filesystem::path& path, std::filesystem::path shown, Mode mode = Mode::kNew);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // Sets the size and claims the disk space now, so that a long job cannot run out of it at the end. File systems that
  // cannot promise space get the size only.
  void reserve(int64_t bytes);
  void write_at(int64_t offset, const void* data, int64_t bytes);
  void sync();

 private:
  std::filesystem::path shown_;
  int fd_ = -1;
};

// A small file that appears whole under its name, replacing an older one in one step.
enum class Sync { kNow, kLater };
void write_small_file(const std::filesystem::path& path, const std::filesystem::path& shown, std::string_view contents, Sync sync);

// fsync of a file or directory by name, kIo naming it.
void sync_path(const std::filesystem::path& path);

// Absolute, symbolic links followed, no trailing slash: "out/." and a link to a directory name what they mean.
std::filesystem::path resolve_output(const std::filesystem::path& dir);

// What lies under the final name; throws kExists for anything that may not be replaced.
enum class Target { kFree, kOurs };
Target check_target(const std::filesystem::path& dir, bool force);

// Locks a directory until the descriptor is closed or the process ends, which tells a directory being written from one that
// a killed process left behind. -1 and errno when it cannot: EWOULDBLOCK when another process holds it.
int lock_directory(const std::filesystem::path& dir);

// Creates missing directories and adds each to `created`, outermost first.
void create_directories_to(const std::filesystem::path& dir, std::vector<std::filesystem::path>& created);

}  // namespace awq
