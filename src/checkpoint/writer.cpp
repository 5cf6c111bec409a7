#include "checkpoint/writer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <unordered_map>

#include "base/log.h"
#include "base/sha256.h"
#include "base/system.h"

namespace awq {
namespace fs = std::filesystem;
namespace {

constexpr const char* kIndexFile = "model.safetensors.index.json";

// What the operating system said, as an Error that names the file and what was being written.
[[noreturn]] void fail_write(const fs::path& shown, int64_t bytes, int error) {
  if (error == ENOSPC || error == EDQUOT) {
    fail(Code::kNoSpace, "{}: no space left on the device: needs {} bytes, {} bytes free", shown.string(),
         bytes, free_disk_bytes(shown.parent_path()));
  }
  fail(Code::kIo, "{}: cannot write {} bytes: {}", shown.string(), bytes, std::strerror(error));
}

// A file being written in the temporary directory. Messages show the name it will have in the end.
class OutputFile {
 public:
  OutputFile(const fs::path& path, fs::path shown) : shown_(std::move(shown)) {
    fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0) fail_write(shown_, 0, errno);
  }
  ~OutputFile() { ::close(fd_); }
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // Claims the disk space now, so that a long job cannot run out of it at the end. File systems that cannot
  // promise space get the size only.
  void reserve(int64_t bytes) {
    int rc;
    do rc = ::fallocate(fd_, 0, 0, bytes);
    while (rc != 0 && errno == EINTR);
    if (rc != 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) rc = ::ftruncate(fd_, bytes);
    if (rc != 0) fail_write(shown_, bytes, errno);
  }

  void write_at(int64_t offset, const void* data, int64_t bytes) {
    const char* p = static_cast<const char*>(data);
    for (int64_t done = 0; done < bytes;) {
      const ssize_t n = ::pwrite(fd_, p + done, static_cast<size_t>(bytes - done), offset + done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) fail_write(shown_, bytes - done, n < 0 ? errno : EIO);
      done += n;
    }
  }

  void sync() {
    if (::fsync(fd_) != 0) fail(Code::kIo, "{}: fsync failed: {}", shown_.string(), std::strerror(errno));
  }

 private:
  fs::path shown_;
  int fd_ = -1;
};

// What lies under the final name.
enum class Target { kFree, kOurs };

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

// Absolute, symbolic links followed, no trailing slash: "out/." and a link to a directory name what they
// mean.
fs::path resolve_target(const fs::path& dir) {
  if (dir.empty()) fail(Code::kBadArgument, "output directory: the name is empty");
  std::error_code ec;
  fs::path path = fs::weakly_canonical(fs::absolute(dir), ec);
  if (ec) fail(Code::kIo, "{}: cannot resolve the path: {}", dir.string(), ec.message());
  if (!path.has_filename()) path = path.parent_path();
  if (!path.has_filename())
    fail(Code::kBadArgument, "{}: expected a directory name to write to", dir.string());
  return path;
}

// A lock that ends with the process tells directories being written from those a killed process left behind.
int lock_directory(const fs::path& dir) {
  const int fd = ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return -1;
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  ::close(fd);
  return -1;
}

// Removes temporary directories of this target whose writer is gone.
void remove_abandoned(const fs::path& parent, const std::string& prefix) {
  std::error_code ec;
  std::vector<fs::path> found;
  for (fs::directory_iterator it(parent, ec), end; !ec && it != end; it.increment(ec)) {
    const std::string name = it->path().filename().string();
    if (!name.starts_with(prefix) || name.size() == prefix.size()) continue;
    if (name.find_first_not_of("0123456789", prefix.size()) == std::string::npos) found.push_back(it->path());
  }
  for (const fs::path& path : found) {
    const int fd = lock_directory(path);
    if (fd < 0) continue;
    log(Level::kInfo, "removing {}, left behind by a process that was killed", path.string());
    fs::remove_all(path, ec);
    ::close(fd);
  }
}

void create_parents(const fs::path& parent, std::vector<fs::path>& created) {
  std::vector<fs::path> missing;
  std::error_code ec;
  for (fs::path p = parent; !fs::exists(p, ec) && !ec; p = p.parent_path()) missing.push_back(p);
  for (auto p = missing.rbegin(); p != missing.rend(); ++p) {
    if (fs::create_directory(*p, ec)) created.push_back(*p);
    if (ec) fail(Code::kIo, "{}: cannot create the directory: {}", p->string(), ec.message());
  }
}

}  // namespace

struct CheckpointWriter::State {
  struct Shard {
    OutputShard plan;
    std::unique_ptr<OutputFile> file;
    int64_t bytes = 0;
    size_t missing = 0;  // tensors still to come
  };
  struct Slot {
    Shard* shard = nullptr;
    const OutputTensor* tensor = nullptr;
    int64_t offset = 0;  // in the file
    bool written = false;
  };

  fs::path target, temporary;
  bool force = false, finished = false;
  int lock = -1;
  std::vector<fs::path> created_parents;
  std::vector<Shard> shards;
  std::unordered_map<std::string_view, Slot> slots;  // keys point into shards
  std::vector<Manifest::File> files;
  int64_t bytes_written = 0;

  ~State() {
    std::error_code ec;
    shards.clear();
    if (!finished && lock >= 0) fs::remove_all(temporary, ec);
    if (lock >= 0) ::close(lock);
    if (!finished)
      for (auto p = created_parents.rbegin(); p != created_parents.rend(); ++p) ::rmdir(p->c_str());
  }

  void create_temporary() {
    create_parents(target.parent_path(), created_parents);
    const std::string prefix = fmt::format(".{}.tmp-", target.filename().string());
    remove_abandoned(target.parent_path(), prefix);
    temporary = target.parent_path() / fmt::format("{}{}", prefix, ::getpid());
    if (::mkdir(temporary.c_str(), 0777) != 0) {
      if (errno == EEXIST)
        fail(Code::kExists, "{}: another process is writing this output", temporary.string());
      fail(Code::kIo, "{}: cannot create the directory: {}", temporary.string(), std::strerror(errno));
    }
    lock = lock_directory(temporary);
    if (lock < 0)
      fail(Code::kIo, "{}: cannot lock the directory: {}", temporary.string(), std::strerror(errno));
  }

  void check_free_disk(int64_t needed) const {
    const int64_t available = free_disk_bytes(target.parent_path());
    if (available < needed)
      fail(Code::kNoSpace, "{}: too little disk: needs {} ({} bytes), {} free ({} bytes)", target.string(),
           human_bytes(static_cast<double>(needed)), needed, human_bytes(static_cast<double>(available)),
           available);
  }

  void open_shards(std::vector<OutputShard> plans) {
    shards.reserve(plans.size());  // slots point into it
    for (OutputShard& plan : plans) {
      Shard& shard = shards.emplace_back();
      shard.plan = std::move(plan);
      shard.missing = shard.plan.tensors.size();
      const std::string header = safetensors_header(shard.plan.tensors);
      shard.bytes = static_cast<int64_t>(header.size());
      for (const OutputTensor& t : shard.plan.tensors) {
        slots[t.name] = {&shard, &t, shard.bytes, false};
        shard.bytes += t.nbytes();
      }
      shard.file = std::make_unique<OutputFile>(temporary / shard.plan.file, target / shard.plan.file);
      shard.file->reserve(shard.bytes);
      shard.file->write_at(0, header.data(), static_cast<int64_t>(header.size()));
      bytes_written += static_cast<int64_t>(header.size());
      if (shard.missing == 0) complete(shard);
    }
  }

  // Hashed while the pages are still cached; pwrite in any order rules out hashing on the way.
  void complete(const Shard& shard) {
    files.push_back({shard.plan.file, shard.bytes, sha256_file(temporary / shard.plan.file)});
  }

  void write_small(const std::string& name, std::string_view contents) {
    auto file = std::make_unique<OutputFile>(temporary / name, target / name);
    file->write_at(0, contents.data(), static_cast<int64_t>(contents.size()));
    file->sync();
    bytes_written += static_cast<int64_t>(contents.size());
  }

  void publish() {
    fsync_path(temporary);
    const fs::path parent = target.parent_path();
    if (check_target(target, force) == Target::kFree) {
      if (::rename(temporary.c_str(), target.c_str()) != 0) {
        const bool taken = errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR;
        fail(taken ? Code::kExists : Code::kIo, "{}: cannot rename the finished output into place: {}",
             target.string(), std::strerror(errno));
      }
      finished = true;
      fsync_path(parent);
      return;
    }
    replace_old();
    fsync_path(parent);
  }

  // The old output is exchanged with the new one in one step where the file system can, else moved aside
  // first; it is deleted only once the new one stands.
  void replace_old() {
    fs::path old = temporary;
    if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) != 0) {
      old = target.parent_path() / fmt::format(".{}.old-{}", target.filename().string(), ::getpid());
      if (::rename(target.c_str(), old.c_str()) != 0)
        fail(Code::kIo, "{}: cannot move the old output aside: {}", target.string(), std::strerror(errno));
      if (::rename(temporary.c_str(), target.c_str()) != 0) {
        const int error = errno;
        ::rename(old.c_str(), target.c_str());
        fail(Code::kIo, "{}: cannot rename the finished output into place: {}", target.string(),
             std::strerror(error));
      }
    }
    finished = true;
    fsync_path(target.parent_path());
    std::error_code ec;
    fs::remove_all(old, ec);
    if (ec)
      log(Level::kWarning, "{}: the replaced output could not be removed: {}", old.string(), ec.message());
  }
};

CheckpointWriter::CheckpointWriter(const fs::path& dir, const OutputPlan& plan, const WriterOptions& options)
    : state_(std::make_unique<State>()) {
  std::vector<OutputShard> shards = plan_shards(plan, options.shard_bytes);
  state_->target = resolve_target(dir);
  state_->force = options.force;
  check_target(state_->target, options.force);
  state_->check_free_disk(planned_bytes(plan, options.shard_bytes) + options.side_bytes);
  state_->create_temporary();
  const std::string index = shard_index(shards);
  state_->open_shards(std::move(shards));
  if (!index.empty()) add_file(kIndexFile, index);
}

CheckpointWriter::~CheckpointWriter() = default;

void CheckpointWriter::add(std::string_view name, const Tensor& tensor) {
  const auto it = state_->slots.find(name);
  if (it == state_->slots.end()) fail(Code::kInternal, "output tensor '{}' is not planned", name);
  State::Slot& slot = it->second;
  if (slot.written) fail(Code::kInternal, "output tensor '{}' is written twice", name);
  if (tensor.dtype() != slot.tensor->dtype || tensor.shape() != slot.tensor->shape)
    fail(Code::kInternal, "output tensor '{}': expected {} {} as planned, got {} {}", name,
         dtype_name(slot.tensor->dtype), shape_text(slot.tensor->shape), dtype_name(tensor.dtype()),
         shape_text(tensor.shape()));
  slot.shard->file->write_at(slot.offset, tensor.bytes(), tensor.nbytes());
  slot.written = true;
  state_->bytes_written += tensor.nbytes();
  if (--slot.shard->missing == 0) state_->complete(*slot.shard);
}

void CheckpointWriter::add_file(std::string_view name, std::string_view contents) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != name.npos ||
      name.find('\0') != name.npos)
    fail(Code::kBadArgument, "output file '{}': expected a plain file name", name);
  const auto same = [&](const auto& file) { return file.name == name; };
  const auto shard_file = [&](const State::Shard& s) { return s.plan.file == name; };
  if (name == kManifestFile || std::any_of(state_->files.begin(), state_->files.end(), same) ||
      std::any_of(state_->shards.begin(), state_->shards.end(), shard_file))
    fail(Code::kBadArgument, "output file '{}': the name is already taken in this output", name);
  state_->write_small(std::string(name), contents);
  state_->files.push_back({std::string(name), static_cast<int64_t>(contents.size()), sha256_hex(contents)});
}

const fs::path& CheckpointWriter::working_dir() const { return state_->temporary; }
int64_t CheckpointWriter::bytes_written() const { return state_->bytes_written; }

Manifest CheckpointWriter::finish(Manifest manifest) {
  if (state_->finished) fail(Code::kInternal, "output {} is finished twice", state_->target.string());
  for (const State::Shard& shard : state_->shards)
    for (const OutputTensor& t : shard.plan.tensors)
      if (!state_->slots.at(t.name).written)
        fail(Code::kInternal, "output tensor '{}' was never written", t.name);

  manifest.files = state_->files;
  std::sort(manifest.files.begin(), manifest.files.end(),
            [](const Manifest::File& a, const Manifest::File& b) { return a.name < b.name; });
  for (State::Shard& shard : state_->shards) shard.file->sync();
  state_->write_small(kManifestFile, manifest_json(manifest));
  state_->publish();
  return manifest;
}

}  // namespace awq
