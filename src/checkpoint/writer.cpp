#include "checkpoint/writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <future>
#include <unordered_map>

#include "base/log.h"
#include "base/mmap.h"
#include "base/progress.h"
#include "base/sha256.h"
#include "base/system.h"
#include "checkpoint/output_files.h"
#include "base/printable.h"

namespace awq {
namespace fs = std::filesystem;
namespace {

constexpr const char* kIndexFile = "model.safetensors.index.json";

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

void check_free_disk(const fs::path& target, int64_t needed) {
  const int64_t available = free_disk_bytes(target.parent_path());
  if (available < needed)
    fail(Code::kNoSpace, "{}: too little disk: needs {} ({} bytes), {} free ({} bytes)", target.string(),
         human_bytes(static_cast<double>(needed)), needed, human_bytes(static_cast<double>(available)),
         available);
}

// What a directory's files already take on the disk.
int64_t claimed_bytes(const fs::path& dir) {
  int64_t bytes = 0;
  std::error_code ec;
  if (dir.empty()) return 0;
  for (fs::directory_iterator it(dir, ec), end; !ec && it != end; it.increment(ec)) {
    struct stat st {};
    if (::lstat(it->path().c_str(), &st) == 0) bytes += static_cast<int64_t>(st.st_blocks) * 512;
  }
  return bytes;
}

// The nearest folder that exists must take new names.
void check_permission(const fs::path& target) {
  fs::path parent = target.parent_path();
  std::error_code ec;
  while (!fs::exists(parent, ec) && parent.has_relative_path()) parent = parent.parent_path();
  if (!fs::is_directory(parent, ec))
    fail(Code::kIo, "{}: cannot create the directory: {} is not a directory", target.string(), parent.string());
  if (::access(parent.c_str(), W_OK | X_OK) != 0)
    fail(Code::kIo, "{}: cannot create the directory: {}: {}", target.string(), parent.string(), std::strerror(errno));
}

// Everything the constructor can say without writing; returns the resolved target.
fs::path examine_output(const fs::path& dir, const OutputPlan& plan, const WriterOptions& options) {
  fs::path target = resolve_output(dir);
  check_target(target, options.force);
  check_permission(target);
  check_free_disk(target, planned_bytes(plan, options.shard_bytes) + options.side_bytes - claimed_bytes(options.working_dir));
  return target;
}

}  // namespace

void check_output(const fs::path& dir, const OutputPlan& plan, const WriterOptions& options) {
  examine_output(dir, plan, options);
}

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
    std::string digest = {};  // of what was written, when it may be continued
  };

  fs::path target, temporary;
  bool kept = false;  // the directory is someone else's: it stays when the writer fails
  bool force = false, sealed = false, finished = false;
  int lock = -1;
  std::vector<fs::path> created_parents;
  std::vector<std::pair<const Shard*, std::future<std::string>>> hashing;
  std::vector<Shard> shards;
  std::unordered_map<std::string_view, Slot> slots;  // keys point into shards
  std::vector<Manifest::File> files;
  int64_t bytes_written = 0;

  ~State() {
    std::error_code ec;
    hashing.clear();  // waits for its threads
    shards.clear();
    if (!finished && !kept && lock >= 0) fs::remove_all(temporary, ec);
    if (lock >= 0) ::close(lock);
    if (!finished)
      for (auto p = created_parents.rbegin(); p != created_parents.rend(); ++p) ::rmdir(p->c_str());
  }

  // Files of an earlier run stay if they are shards; what they hold is up to adopt().
  void open_kept(const fs::path& dir, const std::vector<OutputShard>& plans) {
    kept = true;
    temporary = dir;
    if (::mkdir(dir.c_str(), 0777) != 0 && errno != EEXIST)
      fail(Code::kIo, "{}: cannot create the directory: {}", dir.string(), std::strerror(errno));
    std::error_code ec;
    std::vector<fs::path> others;
    for (fs::directory_iterator it(dir, ec), end; !ec && it != end; it.increment(ec)) {
      const auto same = [&](const OutputShard& s) { return it->path().filename() == s.file; };
      if (std::none_of(plans.begin(), plans.end(), same)) others.push_back(it->path());
    }
    for (const fs::path& path : others)
      if (!ec) fs::remove_all(path, ec);
    if (ec) fail(Code::kIo, "{}: cannot be cleared: {}", dir.string(), ec.message());
  }

  void create_temporary() {
    create_directories_to(target.parent_path(), created_parents);
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

  void open_shards(std::vector<OutputShard> plans) {
    shards.reserve(plans.size());  // slots point into it
    for (OutputShard& plan : plans) {
      Shard& shard = shards.emplace_back();
      shard.plan = std::move(plan);
      shard.missing = shard.plan.tensors.size();
      const std::string header = safetensors_header(shard.plan.tensors);
      shard.bytes = static_cast<int64_t>(header.size());
      for (const OutputTensor& t : shard.plan.tensors) {
        slots[t.name] = {&shard, &t, shard.bytes, false, {}};
        shard.bytes += t.nbytes();
      }
      shard.file = std::make_unique<OutputFile>(temporary / shard.plan.file, target / shard.plan.file,
                                                kept ? OutputFile::Mode::kKeep : OutputFile::Mode::kNew);
      shard.file->reserve(shard.bytes);
      shard.file->write_at(0, header.data(), static_cast<int64_t>(header.size()));
      bytes_written += static_cast<int64_t>(header.size());
      if (shard.missing == 0) complete(shard);
    }
  }

  // Hashed while the pages are still cached, in a thread of its own; pwrite in any order rules out hashing on the way.
  void complete(const Shard& shard) {
    hashing.push_back({&shard, std::async(std::launch::async, [path = temporary / shard.plan.file] { return sha256_file(path); })});
  }
  void finish_hashing() {
    for (auto& [shard, digest] : hashing) files.push_back({shard->plan.file, shard->bytes, digest.get()});
    hashing.clear();
  }

  void write_small(const std::string& name, std::string_view contents) {
    write_small_file(temporary / name, target / name, contents, Sync::kNow);
    bytes_written += static_cast<int64_t>(contents.size());
  }

  void publish() {
    sync_path(temporary);
    if (check_target(target, force) == Target::kFree) {
      if (::rename(temporary.c_str(), target.c_str()) != 0) {
        const bool taken = errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR;
        fail(taken ? Code::kExists : Code::kIo, "{}: cannot rename the finished output into place: {}",
             target.string(), std::strerror(errno));
      }
      finished = true;
      sync_name();
      return;
    }
    replace_old();
    sync_name();
  }

  // The output is complete and in place: only a power failure right now could still bring back the name before.
  void sync_name() const {
    try {
      sync_path(target.parent_path());
    } catch (const Error& error) {
      log(Level::kWarning, "{} (the output is complete)", error.what());
    }
  }

  // The old output is exchanged with the new one in one step where the file system can, else moved aside
  // first; it is deleted only once the new one stands.
  void replace_old() {
    fs::path old = temporary;
    if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) != 0) {
      old = kept ? temporary.parent_path() / "replaced"
                 : target.parent_path() / fmt::format(".{}.old-{}", target.filename().string(), ::getpid());
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
    sync_name();
    std::error_code ec;
    fs::remove_all(old, ec);
    if (ec)
      log(Level::kWarning, "{}: the replaced output could not be removed: {}", old.string(), ec.message());
  }
};

CheckpointWriter::CheckpointWriter(const fs::path& dir, const OutputPlan& plan, const WriterOptions& options)
    : state_(std::make_unique<State>()) {
  std::vector<OutputShard> shards = plan_shards(plan, options.shard_bytes);
  state_->target = examine_output(dir, plan, options);
  state_->force = options.force;
  if (options.working_dir.empty())
    state_->create_temporary();
  else
    state_->open_kept(options.working_dir, shards);
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
  if (state_->kept) slot.digest = content_digest({tensor.bytes(), static_cast<size_t>(tensor.nbytes())});
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

bool CheckpointWriter::has(std::string_view name) const {
  const auto it = state_->slots.find(name);
  return it != state_->slots.end() && it->second.written;
}

std::vector<WrittenTensor> CheckpointWriter::written() const {
  std::vector<WrittenTensor> out;
  for (const State::Shard& shard : state_->shards)
    for (const OutputTensor& t : shard.plan.tensors)
      if (const State::Slot& slot = state_->slots.at(t.name); slot.written) out.push_back({t.name, slot.digest});
  return out;
}

void CheckpointWriter::adopt(const std::vector<WrittenTensor>& tensors) {
  for (const WrittenTensor& t : tensors) {
    check_cancelled();
    const auto it = state_->slots.find(t.name);
    if (it == state_->slots.end()) fail(Code::kBadFile, "{}: tensor '{}' is not planned", state_->temporary.string(), printable(t.name));
    const State::Slot& slot = it->second;
    const fs::path path = state_->temporary / slot.shard->plan.file;
    const auto file = MappedFile::open(path);
    const auto offset = static_cast<size_t>(slot.offset), size = static_cast<size_t>(slot.tensor->nbytes());
    const std::string digest = content_digest(file->bytes().subspan(offset, size));
    file->done_with(offset, size);
    if (digest != t.digest)
      fail(Code::kBadFile, "{}: tensor '{}' at offset {}: expected content with digest {}, got {}", path.string(), t.name, slot.offset,
           t.digest, digest);
  }
  for (const WrittenTensor& t : tensors) {
    State::Slot& slot = state_->slots.at(t.name);
    if (slot.written) fail(Code::kInternal, "output tensor '{}' is written twice", t.name);
    slot.written = true;
    slot.digest = t.digest;
    state_->bytes_written += slot.tensor->nbytes();
    if (--slot.shard->missing == 0) state_->complete(*slot.shard);
  }
}

Manifest CheckpointWriter::seal(Manifest manifest) {
  if (state_->sealed) fail(Code::kInternal, "output {} is finished twice", state_->target.string());
  for (const State::Shard& shard : state_->shards)
    for (const OutputTensor& t : shard.plan.tensors)
      if (!state_->slots.at(t.name).written)
        fail(Code::kInternal, "output tensor '{}' was never written", t.name);

  state_->finish_hashing();
  manifest.files = state_->files;
  std::sort(manifest.files.begin(), manifest.files.end(),
            [](const Manifest::File& a, const Manifest::File& b) { return a.name < b.name; });
  for (State::Shard& shard : state_->shards) shard.file->sync();
  state_->write_small(kManifestFile, manifest_json(manifest));
  state_->sealed = true;
  return manifest;
}

void CheckpointWriter::publish() {
  if (!state_->sealed || state_->finished)
    fail(Code::kInternal, "output {} is published {}", state_->target.string(), state_->sealed ? "twice" : "unfinished");
  state_->publish();
}

Manifest CheckpointWriter::finish(Manifest manifest) {
  manifest = seal(std::move(manifest));
  publish();
  return manifest;
}

}  // namespace awq
