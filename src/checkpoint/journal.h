// What an unfinished job has done so far: one small record per finished block, "awq.journal/1". A record names the job
// (so that other inputs are refused), every tensor already written with its digest, the files that hold the hidden states,
// and the report so far. Its first line is "awq.journal/1 <SHA-256 of the rest>"; the rest is JSON.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace awq {

// What must agree between the run that began a job and the one that continues it: names as users know them, and values.
using JobIdentity = std::vector<std::pair<std::string, std::string>>;

// "source: begun with 12ab…, now 34cd…; bits: begun with 4, now 3"; "" when they agree.
std::string identity_difference(const JobIdentity& begun, const JobIdentity& now);

struct WrittenTensor {
  std::string name;
  std::string digest;  // content_digest() of its bytes
};

struct StateFile {
  std::string role;    // "calibration", "source", "written"
  std::string digest;  // also its file name: "state-<digest>"
  int64_t bytes = 0;
};

struct JournalRecord {
  int64_t done = 0;   // blocks finished; total + 1 once the whole output is ready to be published
  int64_t total = 0;  // blocks of the job
  JobIdentity identity;
  std::vector<WrittenTensor> tensors;
  std::vector<StateFile> states;
  std::string report;  // JSON of the caller's
};

std::string journal_text(const JournalRecord& record);
// Throws kBadFile naming `where` for damage of any kind, kUnsupported for another version of the schema.
JournalRecord parse_journal(std::string_view text, const std::string& where);

// SHA-256 over the SHA-256s of the pieces of 4 MiB: 64 hex digits, computed on all threads.
std::string content_digest(std::span<const std::byte> bytes);

}  // namespace awq
