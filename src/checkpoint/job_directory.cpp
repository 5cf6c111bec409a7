#include "checkpoint/job_directory.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <future>
#include <optional>
#include <set>
#include <system_error>

#include "base/error.h"
#include "base/log.h"
#include "base/mmap.h"
#include "base/system.h"
#include "base/thread_pool.h"
#include "checkpoint/output_files.h"

namespace awq {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kRecordPrefix = "record-", kRecordSuffix = ".json", kStatePrefix = "state-", kPartSuffix = ".part";
constexpr const char* kOutput = "output";
constexpr const char* kReplaced = "replaced";  // the old output, on file systems that cannot exchange two directories

std::string record_name(int64_t done) { return fmt::format("{}{:06}{}", kRecordPrefix, done, kRecordSuffix); }
std::string state_name(const StateFile& state) { return std::string(kStatePrefix) + state.digest; }

bool is_record(const std::string& name) { return name.starts_with(kRecordPrefix) && name.ends_with(kRecordSuffix); }
bool is_ours(const std::string& name) {
  return name == kOutput || name == kReplaced || name.starts_with(kRecordPrefix) || name.starts_with(kStatePrefix);
}

std::vector<std::string> names_in(const fs::path& dir) {
  std::vector<std::string> names;
  std::error_code ec;
  for (fs::directory_iterator it(dir, ec), end; !ec && it != end; it.increment(ec)) names.push_back(it->path().filename().string());
  if (ec) fail(Code::kIo, "{}: cannot list it: {}", dir.string(), ec.message());
  std::sort(names.begin(), names.end());
  return names;
}

void remove_entry(const fs::path& path) {
  std::error_code ec;
  fs::remove_all(path, ec);
  if (ec) fail(Code::kIo, "{}: cannot remove it: {}", path.string(), ec.message());
}

fs::path partial_path(const fs::path& target) { return target.parent_path() / fmt::format(".{}.partial", target.filename().string()); }

}  // namespace

struct JobDirectory::State {
  fs::path target, dir;
  JobIdentity identity;
  int64_t total = 0;
  int lock = -1;
  bool removed = false;
  std::vector<fs::path> created;  // parents, then the directory itself
  std::vector<JournalRecord> records;
  JournalRecord current;  // the newest committed
  std::future<void> syncing;

  ~State() {
    if (syncing.valid()) syncing.wait();
    if (lock >= 0 && !removed && current.done == 0) discard();
    if (lock >= 0) ::close(lock);
    if (removed || current.done > 0) return;
    for (auto p = created.rbegin(); p != created.rend(); ++p) ::rmdir(p->c_str());
  }

  // Removes what can be removed.
  void discard() noexcept {
    try {
      clear();
      ::rmdir(dir.c_str());
    } catch (...) {  // a later run removes the rest
    }
  }

  // A process killed while it replaced an old output, where the two cannot be exchanged in one step, left it here.
  void restore_replaced() const {
    std::error_code ec;
    if (fs::exists(dir / kReplaced, ec) && !fs::exists(target, ec)) ::rename((dir / kReplaced).c_str(), target.c_str());
  }

  void open_directory() {
    create_directories_to(target.parent_path(), created);
    if (::mkdir(dir.c_str(), 0777) == 0) {
      created.push_back(dir);
    } else if (errno != EEXIST) {
      const int error = errno;
      fail(error == ENOSPC || error == EDQUOT ? Code::kNoSpace : Code::kIo, "{}: cannot create the directory: {}", dir.string(),
           std::strerror(error));
    }
    lock = lock_directory(dir);
    if (lock >= 0) return;
    if (errno == EWOULDBLOCK) fail(Code::kExists, "{}: another process is writing this output", dir.string());
    fail(Code::kIo, "{}: cannot lock the directory: {}", dir.string(), std::strerror(errno));
  }

  void check_names() const {
    for (const std::string& name : names_in(dir))
      if (!is_ours(name)) fail(Code::kExists, "{}: holds '{}', which awq did not write: choose another output directory", dir.string(), name);
  }

  // Records go first: one without its data would look like damage.
  void clear() const {
    restore_replaced();
    std::vector<std::string> names = names_in(dir);
    std::stable_partition(names.begin(), names.end(), is_record);
    for (const std::string& name : names) remove_entry(dir / name);
  }

  // Newest first. A damaged record is passed over as long as an older one is readable.
  void read_records() {
    std::vector<std::string> names = names_in(dir);
    std::optional<Error> damage;
    for (auto name = names.rbegin(); name != names.rend(); ++name) {
      if (!is_record(*name)) continue;
      const fs::path path = dir / *name;
      try {
        records.push_back(parse_journal(read_text_file(path), path.string()));
      } catch (const Error& error) {
        if (error.code() != Code::kBadFile) throw;
        log(Level::kWarning, "{}", error.what());
        if (!damage) damage = error;
      }
    }
    if (records.empty() && damage)
      fail(Code::kBadFile, "{}; no older record of the unfinished job is there: --restart begins anew", damage->what());
  }

  void begin_or_continue(JobStart start) {
    check_names();
    if (start == JobStart::kRestart) clear();
    read_records();
    if (records.empty()) {
      if (start == JobStart::kResume)
        fail(Code::kNotFound, "{}: --resume: there is no unfinished job for this output", target.string());
      clear();
      return;
    }
    const std::string difference = identity_difference(records.front().identity, identity);
    if (!difference.empty() || records.front().total != total)
      fail(Code::kExists, "{}: holds an unfinished job with other inputs ({}): --restart begins anew, another -o keeps it", dir.string(),
           difference.empty() ? fmt::format("blocks: begun with {}, now {}", records.front().total, total) : difference);
    current = records.front();
  }

  // Everything but the current record and what it refers to.
  void drop_others() const {
    std::set<std::string> keep = {kOutput, kReplaced, record_name(current.done)};
    for (const StateFile& s : current.states) keep.insert(state_name(s));
    for (const std::string& name : names_in(dir))
      if (!keep.contains(name)) remove_entry(dir / name);
  }

  // Writing waits on the kernel's copy and digesting on the arithmetic: side by side they take half the time.
  std::vector<StateFile> write_states(const std::vector<StateView>& states) const {
    std::vector<StateFile> files;
    for (const StateView& s : states) files.push_back({s.role, "", static_cast<int64_t>(s.bytes.size())});
    const auto part = [&](size_t i) { return dir / fmt::format("{}{}{}", kStatePrefix, states[i].role, kPartSuffix); };
    const int64_t n = static_cast<int64_t>(states.size());
    parallel_for(2 * n, [&](int64_t task) {
      const size_t i = static_cast<size_t>(task % n);
      if (task >= n) {
        files[i].digest = content_digest(states[i].bytes);
        return;
      }
      OutputFile file(part(i), part(i), OutputFile::Mode::kKeep);
      file.reserve(files[i].bytes);
      file.write_at(0, states[i].bytes.data(), files[i].bytes);
    });
    for (size_t i = 0; i < files.size(); ++i) {
      const fs::path path = dir / state_name(files[i]);
      if (::rename(part(i).c_str(), path.c_str()) != 0)
        fail(Code::kIo, "{}: cannot rename the file into place: {}", path.string(), std::strerror(errno));
    }
    return files;
  }

  // The list is made before the thread starts: what comes later is not its business.
  void start_sync() {
    std::vector<fs::path> paths;
    std::error_code ec;
    for (fs::directory_iterator it(dir / kOutput, ec), end; !ec && it != end; it.increment(ec)) paths.push_back(it->path());
    for (const StateFile& s : current.states) paths.push_back(dir / state_name(s));
    paths.push_back(dir / record_name(current.done));
    if (fs::is_directory(dir / kOutput, ec)) paths.push_back(dir / kOutput);
    paths.push_back(dir);
    const auto sync_all = [paths] {
      for (const fs::path& path : paths) sync_path(path);
    };
    try {
      syncing = std::async(std::launch::async, sync_all);
    } catch (const std::system_error&) {  // no thread to be had
      sync_all();
    }
  }

  void wait_synced() {
    if (syncing.valid()) syncing.get();
  }
};

bool JobDirectory::exists(const fs::path& output) {
  std::error_code ec;
  return fs::is_directory(partial_path(resolve_output(output)), ec);
}

JobDirectory::JobDirectory(const fs::path& output, const JobIdentity& identity, int64_t total, JobStart start)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.target = resolve_output(output);
  s.dir = partial_path(s.target);
  s.identity = identity;
  s.total = total;
  if (start == JobStart::kResume && !exists(output))
    fail(Code::kNotFound, "{}: --resume: there is no unfinished job for this output", s.target.string());
  s.open_directory();
  try {
    s.begin_or_continue(start);
  } catch (...) {
    // What is there belongs to another job: it must not be taken for an empty one of ours.
    if (s.created.empty() || s.created.back() != s.dir) s.current.done = 1;
    throw;
  }
  if (s.records.empty()) commit({}, {});
}

JobDirectory::~JobDirectory() = default;

const fs::path& JobDirectory::path() const { return state_->dir; }
fs::path JobDirectory::output_dir() const { return state_->dir / kOutput; }
const std::vector<JournalRecord>& JobDirectory::records() const { return state_->records; }
void JobDirectory::use(const JournalRecord& record) { state_->current = record; }
int64_t JobDirectory::done() const { return state_->current.done; }
void JobDirectory::wait_synced() { state_->wait_synced(); }

std::vector<float> JobDirectory::read_state(const StateFile& state) const {
  const fs::path path = state_->dir / state_name(state);
  std::error_code ec;
  const auto size = fs::file_size(path, ec);
  if (ec) fail(Code::kBadFile, "{}: cannot read the hidden states: {}", path.string(), ec.message());
  if (size != static_cast<uintmax_t>(state.bytes) || size % sizeof(float) != 0)
    fail(Code::kBadFile, "{}: expected {} bytes, got {}", path.string(), state.bytes, size);
  const auto file = MappedFile::open(path);
  const std::string digest = content_digest(file->bytes());
  if (digest != state.digest) fail(Code::kBadFile, "{}: expected content with digest {}, got {}", path.string(), state.digest, digest);
  std::vector<float> values(size / sizeof(float));
  std::memcpy(values.data(), file->bytes().data(), size);
  return values;
}

void JobDirectory::commit(JournalRecord record, const std::vector<StateView>& states) {
  State& s = *state_;
  s.wait_synced();
  if (!s.records.empty() || s.current.total != 0) s.drop_others();
  record.identity = s.identity;
  record.total = s.total;
  record.states = s.write_states(states);
  const fs::path path = s.dir / record_name(record.done);
  write_small_file(path, path, journal_text(record), Sync::kLater);
  s.current = std::move(record);
  s.start_sync();
}

// The newest record goes last: until then a later run knows that the output is finished.
void JobDirectory::remove() {
  State& s = *state_;
  s.wait_synced();
  const std::string last = record_name(s.current.done);
  for (const std::string& name : names_in(s.dir))
    if (name != last) remove_entry(s.dir / name);
  remove_entry(s.dir / last);
  if (::rmdir(s.dir.c_str()) != 0) fail(Code::kIo, "{}: cannot remove the directory: {}", s.dir.string(), std::strerror(errno));
  s.removed = true;
}

}  // namespace awq
