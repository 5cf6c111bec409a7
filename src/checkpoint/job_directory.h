// The hidden directory `.NAME.partial` beside an output, in which a long job writes and from which it can be continued
// after being killed at any moment:
//   output/               the files of the output so far; renamed to NAME in the end
//   record-000012.json    what is done after 12 blocks (checkpoint/journal.h); the newest two are kept
//   state-<digest>        hidden states a record refers to
// Every file but those of output/ appears under its name by a rename and carries a checksum. A killed process loses at most
// the block it was in; after a power failure a record whose data did not reach the disk is seen by its digests, and the one
// before it, which was synced, is used.
#pragma once
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/journal.h"

namespace awq {

enum class JobStart {
  kContinue,  // continue the unfinished job that is there, if any
  kResume,    // there must be one
  kRestart,   // discard what is there
};

struct StateView {
  std::string role;
  std::span<const std::byte> bytes;
};

// Not thread-safe.
class JobDirectory {
 public:
  // Whether there is anything of an unfinished job for this output.
  static bool exists(const std::filesystem::path& output);

  // Creates or opens the directory and locks it; a new job begins with record 0. Throws
  //   kExists    another process is writing this output; an unfinished job with another identity is there (named field by
  //              field); the directory holds files of someone else
  //   kNotFound  kResume without an unfinished job
  //   kBadFile   no record of the unfinished job is readable
  //   kNoSpace, kIo
  JobDirectory(const std::filesystem::path& output, const JobIdentity& identity, int64_t total, JobStart start);
  // Without remove() the job stays for a later run if a block of it is done; else everything is removed.
  ~JobDirectory();
  JobDirectory(const JobDirectory&) = delete;
  JobDirectory& operator=(const JobDirectory&) = delete;

  const std::filesystem::path& path() const;
  std::filesystem::path output_dir() const;

  // Readable records of this job, newest first. The caller uses the first whose data are intact.
  const std::vector<JournalRecord>& records() const;
  // The state's bytes as floats; kBadFile when they are not what the record says.
  std::vector<float> read_state(const StateFile& state) const;
  // Continues from this record; those after it are forgotten at the next commit.
  void use(const JournalRecord& record);

  // Makes `record` the newest. Its states are written from `states`, its identity and total are the job's. Returns when a
  // kill -9 can no longer undo it; syncing to disk goes on in the background, and its errors come out of the next call.
  void commit(JournalRecord record, const std::vector<StateView>& states);
  void wait_synced();
  int64_t done() const;  // of the newest record

  // After the output was published: nothing is left to continue.
  void remove();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace awq
