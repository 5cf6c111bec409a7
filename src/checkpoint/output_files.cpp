#include "checkpoint/output_files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/error.h"
#include "base/system.h"
#include "checkpoint/manifest.h"

namespace awq {
namespace fs = std::filesystem;
namespace {

// What the operating system said, as an Error that names the file and what was being written.
[[noreturn]] void fail_write(const fs::path& shown, int64_t bytes, int error) {
  if (error == ENOSPC || error == EDQUOT) {
    fail(Code::kNoSpace, "{}: no space left on the device: needs {} bytes, {} bytes free", shown.string(),
         bytes, free_disk_bytes(shown.parent_path()));
  }
  fail(Code::kIo, "{}: cannot write {} bytes: {}", shown.string(), bytes, std::strerror(error));
}

// For calls that a signal may interrupt. Bounded: a call that never gets through is reported, not waited for.
constexpr int kMostRepeats = 1000;
template <class Call>
auto repeat(const Call& call) {
  auto result = call();
  for (int i = 0; result < 0 && errno == EINTR && i < kMostRepeats; ++i) result = call();
  return result;
}

}  // namespace

OutputFile::OutputFile(const fs::path& path, fs::path shown, Mode mode) : shown_(std::move(shown)) {
  const int flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | (mode == Mode::kNew ? O_EXCL : 0);
  fd_ = repeat([&] { return ::open(path.c_str(), flags, 0666); });
  if (fd_ < 0) {
    const int error = errno;
    if (error == ENOSPC || error == EDQUOT) fail_write(shown_, 0, error);
    fail(Code::kIo, "{}: cannot create the file: {}", shown_.string(), std::strerror(error));
  }
}

OutputFile::~OutputFile() { ::close(fd_); }

void OutputFile::reserve(int64_t bytes) {
  struct stat st {};
  int rc = ::fstat(fd_, &st);
  if (rc == 0 && st.st_size > bytes) rc = repeat([&] { return ::ftruncate(fd_, bytes); });
  if (rc == 0) {
    rc = repeat([&] { return ::fallocate(fd_, 0, 0, bytes); });
    if (rc != 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) rc = repeat([&] { return ::ftruncate(fd_, bytes); });
  }
  if (rc != 0) fail_write(shown_, bytes, errno);
}

void OutputFile::write_at(int64_t offset, const void* data, int64_t bytes) {
  const char* p = static_cast<const char*>(data);
  for (int64_t done = 0; done < bytes;) {
    const ssize_t n =
        repeat([&] { return ::pwrite(fd_, p + done, static_cast<size_t>(bytes - done), offset + done); });
    if (n <= 0) fail_write(shown_, bytes - done, n < 0 ? errno : EIO);
    done += n;
  }
}

void OutputFile::sync() {
  if (repeat([&] { return ::fsync(fd_); }) != 0)
    fail(Code::kIo, "{}: fsync failed: {}", shown_.string(), std::strerror(errno));
}

void write_small_file(const fs::path& path, const fs::path& shown, std::string_view contents, Sync sync) {
  fs::path part = path;
  part += ".part";
  ::unlink(part.c_str());  // a killed process may have left one
  {
    OutputFile file(part, shown);
    file.write_at(0, contents.data(), static_cast<int64_t>(contents.size()));
    if (sync == Sync::kNow) file.sync();
  }
  if (::rename(part.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::unlink(part.c_str());
    fail(Code::kIo, "{}: cannot rename the file into place: {}", shown.string(), std::strerror(error));
  }
}

void sync_path(const fs::path& path) {
  const int fd = repeat([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); });
  if (fd < 0) fail(Code::kIo, "{}: cannot open for fsync: {}", path.string(), std::strerror(errno));
  const int rc = repeat([&] { return ::fsync(fd); });
  const int error = errno;
  ::close(fd);
  if (rc != 0) fail(Code::kIo, "{}: fsync failed: {}", path.string(), std::strerror(error));
}

fs::path resolve_output(const fs::path& dir) {
  if (dir.empty()) fail(Code::kBadArgument, "output directory: the name is empty");
  std::error_code ec;
  fs::path path = fs::weakly_canonical(fs::absolute(dir), ec);
  if (ec) fail(Code::kIo, "{}: cannot resolve the path: {}", dir.string(), ec.message());
  if (!path.has_filename()) path = path.parent_path();
  if (!path.has_filename())
    fail(Code::kBadArgument, "{}: expected a directory name to write to", dir.string());
  return path;
}

Target check_target(const fs::path& dir, bool force) {
  std::error_code ec;
  const fs::file_status status = fs::symlink_status(dir, ec);
  if (status.type() == fs::file_type::not_found) return Target::kFree;
  if (ec) fail(Code::kIo, "{}: cannot look at it: {}", dir.string(), ec.message());
  if (status.type() != fs::file_type::directory)
    fail(Code::kExists, "{}: exists and is not a directory", dir.string());
  const bool empty = fs::is_empty(dir, ec);
  if (ec) fail(Code::kIo, "{}: cannot list it: {}", dir.string(), ec.message());
  if (empty) return Target::kFree;
  if (!holds_manifest(dir))
    fail(Code::kExists,
         "{}: exists and holds files that awq did not write (no {} of awq): choose another directory",
         dir.string(), kManifestFile);
  if (!force)
    fail(Code::kExists,
         "{}: already holds a finished output: use --force to replace it, or choose another directory",
         dir.string());
  return Target::kOurs;
}

int lock_directory(const fs::path& dir) {
  for (;;) {
    const int fd = repeat([&] { return ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); });
    if (fd < 0) return -1;
    if (repeat([&] { return ::flock(fd, LOCK_EX | LOCK_NB); }) != 0) {
      const int error = errno;
      ::close(fd);
      errno = error;
      return -1;
    }
    // The one who held it may have removed the directory in between.
    struct stat locked {}, named {};
    if (::fstat(fd, &locked) == 0 && ::stat(dir.c_str(), &named) == 0 && locked.st_ino == named.st_ino &&
        locked.st_dev == named.st_dev)
      return fd;
    ::close(fd);
    if (::access(dir.c_str(), F_OK) != 0) return -1;
  }
}

void create_directories_to(const fs::path& dir, std::vector<fs::path>& created) {
  std::vector<fs::path> missing;
  std::error_code ec;
  for (fs::path p = dir; !fs::exists(p, ec) && !ec; p = p.parent_path()) missing.push_back(p);
  for (auto p = missing.rbegin(); p != missing.rend(); ++p) {
    if (fs::create_directory(*p, ec)) created.push_back(*p);
    if (ec) fail(Code::kIo, "{}: cannot create the directory: {}", p->string(), ec.message());
  }
}

}  // namespace awq
