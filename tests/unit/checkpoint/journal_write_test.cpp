#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>

#include <csignal>
#include <fstream>

#include "base/sha256.h"
#include "checkpoint/job_directory.h"
#include "unit/checkpoint/write_fixture.h"

namespace awq {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::listing;
using testing::patterned;
using testing::small_manifest;
using testing::small_plan;
using testing::TempDir;

const JobIdentity kIdentity = {{"source", "aa"}, {"--bits", "4"}};
constexpr int64_t kBlocks = 5;

JournalRecord sample_record() {
  JournalRecord r;
  r.done = 3;
  r.total = kBlocks;
  r.identity = kIdentity;
  r.tensors = {{"model.norm.weight", std::string(64, '1')}, {"a \"quoted\" name\n", std::string(64, 'f')}};
  r.states = {{"calibration", std::string(64, 'e'), 4096}};
  r.report = R"({"layers": [1, 2.5]})";
  return r;
}

std::vector<float> values_of(float first, size_t n = 1000) {
  std::vector<float> v(n);
  for (size_t i = 0; i < n; ++i) v[i] = first + static_cast<float>(i);
  return v;
}

// A record of `done` blocks with one state that begins with `done`.
void commit(JobDirectory& job, int64_t done) {
  const std::vector<float> state = values_of(static_cast<float>(done));
  JournalRecord record;
  record.done = done;
  record.report = std::to_string(done);
  job.commit(record, {{"calibration", std::as_bytes(std::span(state))}});
}

TEST(Journal, ARecordReadsBackAsItWasWritten) {
  const JournalRecord r = sample_record(), back = parse_journal(journal_text(r), "here");
  EXPECT_EQ(back.done, r.done);
  EXPECT_EQ(back.total, r.total);
  EXPECT_EQ(back.identity, r.identity);
  ASSERT_EQ(back.tensors.size(), 2u);
  EXPECT_EQ(back.tensors[1].name, r.tensors[1].name);
  EXPECT_EQ(back.tensors[1].digest, r.tensors[1].digest);
  ASSERT_EQ(back.states.size(), 1u);
  EXPECT_EQ(back.states[0].role, "calibration");
  EXPECT_EQ(back.states[0].bytes, 4096);
  EXPECT_EQ(back.report, r.report);
}

TEST(Journal, EveryTruncationAndEveryBitFlipIsSeen) {
  const std::string text = journal_text(sample_record());
  for (size_t n = 0; n < text.size(); ++n) EXPECT_THROW(parse_journal(text.substr(0, n), "here"), Error) << n;
  for (size_t i = 0; i < text.size(); ++i)
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = text;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      EXPECT_THROW(parse_journal(damaged, "here"), Error) << i << " bit " << bit;
    }
}

// Content that vouches for itself but makes no sense.
std::string vouched(const std::string& body) { return "awq.journal/1 " + sha256_hex(body) + "\n" + body; }

TEST(Journal, WrongFieldsAreNamed) {
  const std::string digest = std::string(64, 'a');
  const auto with = [](const std::string& tensors, const std::string& states, const std::string& counts = R"("done":1,"total":2)") {
    return vouched("{" + counts + R"(,"identity":[],"tensors":[)" + tensors + R"(],"states":[)" + states + R"(],"report":""})");
  };
  EXPECT_NO_THROW(parse_journal(with("", ""), "f"));
  const struct {
    std::string text, message;
  } cases[] = {
      {vouched("[]"), "f: expected an object, got array"},
      {vouched("{}"), "'done' is missing"},
      {with("", "", R"("done":4,"total":2)"), "expected at most 2 blocks done, got 4"},
      {with("", "", R"("done":-1,"total":2)"), "'done': expected a count, got -1"},
      {with("", "", R"("done":1.5,"total":2)"), "'done': expected a count, got 1.5"},
      {with("", "", R"("done":1,"total":9223372036854775807)"), "expected at most"},
      {with(R"({"name":"x"})", ""), "'digest' is missing"},
      {with(R"({"name":7,"digest":")" + digest + R"("})", ""), "'name': expected a string"},
      {with("", R"({"role":"r","digest":"../../etc","bytes":1})"), "'digest': expected 64 hexadecimal digits, got '../../etc'"},
      {with("", R"({"role":"r","digest":")" + std::string(63, 'a') + R"(/","bytes":1})"), "hexadecimal"},
      {with("3", ""), "expected an object, got number"},
      {"", "expected a first line"},
      {"awq.journal/1\n{}", "expected a first line"},
  };
  for (const auto& c : cases) expect_error(Code::kBadFile, c.message, [&] { parse_journal(c.text, "f"); });
  expect_error(Code::kUnsupported, "expected version awq.journal/1, got 'awq.journal/2'", [] { parse_journal("awq.journal/2 00\n{}", "f"); });
}

TEST(Journal, DifferencesOfIdentityAreNamedFieldByField) {
  EXPECT_EQ(identity_difference(kIdentity, kIdentity), "");
  EXPECT_EQ(identity_difference(kIdentity, {{"source", "bb"}, {"--bits", "4"}}), "source: begun with aa, now bb");
  EXPECT_EQ(identity_difference(kIdentity, {{"source", "aa"}, {"--bits", "3"}, {"new", "x"}}),
            "--bits: begun with 4, now 3; new: begun with nothing, now x");
  EXPECT_EQ(identity_difference(kIdentity, {{"source", "aa"}}), "--bits: begun with 4, now nothing");
}

TEST(Journal, TheDigestCoversEveryPiece) {
  std::vector<std::byte> bytes((size_t{9} << 20) + 3);  // three pieces
  const std::string zeros = content_digest(bytes);
  EXPECT_EQ(zeros.size(), 64u);
  for (const size_t at : {size_t{0}, size_t{4} << 20, bytes.size() - 1}) {
    bytes[at] = std::byte{1};
    EXPECT_NE(content_digest(bytes), zeros) << at;
    bytes[at] = std::byte{0};
  }
  EXPECT_EQ(content_digest({}), sha256_hex(""));
}

TEST(JobDirectory, ContinuesAfterTheNewestBlock) {
  TempDir tmp;
  {
    JobDirectory job(tmp / "out", kIdentity, kBlocks, JobStart::kContinue);
    EXPECT_TRUE(job.records().empty());
    for (int64_t done = 1; done <= 3; ++done) commit(job, done);
  }
  EXPECT_EQ(listing(tmp.path()), std::vector<std::string>{".out.partial"});
  EXPECT_TRUE(JobDirectory::exists(tmp / "out"));
  JobDirectory job(tmp / "out", kIdentity, kBlocks, JobStart::kResume);
  ASSERT_EQ(job.records().size(), 2u);  // the newest and the one before it
  EXPECT_EQ(job.records()[0].done, 3);
  EXPECT_EQ(job.records()[1].done, 2);
  EXPECT_EQ(job.records()[0].report, "3");
  EXPECT_EQ(job.read_state(job.records()[0].states.at(0)), values_of(3));
  EXPECT_EQ(job.read_state(job.records()[1].states.at(0)), values_of(2));
  job.use(job.records()[0]);
  commit(job, 4);
  job.remove();
  EXPECT_TRUE(listing(tmp.path()).empty());
}

TEST(JobDirectory, NothingIsKeptBeforeTheFirstBlock) {
  TempDir tmp;
  { JobDirectory job(tmp / "deep/er/out", kIdentity, kBlocks, JobStart::kContinue); }
  EXPECT_TRUE(listing(tmp.path()).empty());
}

TEST(JobDirectory, OtherInputsAreRefusedAndNothingIsTouched) {
  TempDir tmp;
  {
    JobDirectory job(tmp / "out", kIdentity, kBlocks, JobStart::kContinue);
    commit(job, 1);
  }
  const auto before = listing(tmp / ".out.partial");
  expect_error(Code::kExists, "holds an unfinished job with other inputs (--bits: begun with 4, now 3): --restart begins anew",
               [&] { JobDirectory(tmp / "out", {{"source", "aa"}, {"--bits", "3"}}, kBlocks, JobStart::kContinue); });
  expect_error(Code::kExists, "blocks: begun with 5, now 6", [&] { JobDirectory(tmp / "out", kIdentity, 6, JobStart::kResume); });
  EXPECT_EQ(listing(tmp / ".out.partial"), before);
  JobDirectory job(tmp / "out", {{"source", "aa"}, {"--bits", "3"}}, kBlocks, JobStart::kRestart);
  EXPECT_TRUE(job.records().empty());
}

TEST(JobDirectory, ResumeDemandsAnUnfinishedJob) {
  TempDir tmp;
  expect_error(Code::kNotFound, "--resume: there is no unfinished job",
               [&] { JobDirectory(tmp / "out", kIdentity, kBlocks, JobStart::kResume); });
  EXPECT_TRUE(listing(tmp.path()).empty());
}

TEST(JobDirectory, ADamagedNewestRecordGivesWayToTheOneBefore) {
  for (const char* damage : {"", "awq.journal/1 00\n{}", "half"}) {
    TempDir tmp;
    {
      JobDirectory job(tmp / "out", kIdentity, kBlocks, JobStart::kContinue);
      for (int64_t done = 1; done <= 3; ++done) commit(job, done);
    }
    std::ofstream(tmp / ".out.partial/record-000003.json") << damage;
    {
      JobDirectory job(tmp / "out", kIdentity, kBlocks, JobStart::kContinue);
      ASSERT_EQ(job.records().size(), 1u);
      EXPECT_EQ(job.records()[0].done, 2);
    }
    std::ofstream(tmp / ".out.partial/record-000002.json") << damage;
    expect_error(Code::kBadFile, "no older record of the unfinished job is there: --restart begins anew",
                 [&] { JobDirectory(tmp / "out", kIdentity, kBlocks, JobStart::kContinue); });
    EXPECT_TRUE(fs::exists(tmp / ".out.partial/record-000003.json"));
  }
}

TEST(JobDirectory, DamagedStatesAreSeen) {
  TempDir tmp;
  JobDirectory job(tmp / "out", kIdentity, kBlocks, JobStart::kContinue);
  commit(job, 1);
  StateFile state;
  for (const std::string& name : listing(job.path()))
    if (name.starts_with("state-")) state = {"calibration", name.substr(6), 4000};
  EXPECT_EQ(job.read_state(state), values_of(1));
  const fs::path file = job.path() / ("state-" + state.digest);
  {
    std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
    f.seekp(1234);
    f.put('x');
  }
  expect_error(Code::kBadFile, "expected content with digest", [&] { job.read_state(state); });
  fs::resize_file(file, 3996);
  expect_error(Code::kBadFile, "expected 4000 bytes, got 3996", [&] { job.read_state(state); });
  fs::remove(file);
  expect_error(Code::kBadFile, "cannot read the hidden states", [&] { job.read_state(state); });
}

TEST(JobDirectory, ASecondProcessIsRefused) {
  TempDir tmp;
  JobDirectory job(tmp / "out", kIdentity, kBlocks, JobStart::kContinue);
  for (const JobStart start : {JobStart::kContinue, JobStart::kResume, JobStart::kRestart})
    expect_error(Code::kExists, "another process is writing this output", [&] { JobDirectory(tmp / "out", kIdentity, kBlocks, start); });
  commit(job, 1);
}

TEST(JobDirectory, FilesOfSomeoneElseAreNeverTouched) {
  TempDir tmp;
  fs::create_directory(tmp / ".out.partial");
  std::ofstream(tmp / ".out.partial/thesis.txt") << "years of work";
  for (const JobStart start : {JobStart::kContinue, JobStart::kRestart})
    expect_error(Code::kExists, "holds 'thesis.txt', which awq did not write",
                 [&] { JobDirectory(tmp / "out", kIdentity, kBlocks, start); });
  EXPECT_EQ(listing(tmp / ".out.partial"), std::vector<std::string>{"thesis.txt"});
}

TEST(JobDirectory, AnOldOutputMovedAsideIsPutBack) {
  TempDir tmp;
  {
    JobDirectory job(tmp / "out", kIdentity, kBlocks, JobStart::kContinue);
    commit(job, 1);
    fs::create_directory(job.path() / "replaced");
    std::ofstream(job.path() / "replaced/old.txt") << "old";
  }
  JobDirectory job(tmp / "out", kIdentity, kBlocks, JobStart::kRestart);
  EXPECT_EQ(listing(tmp / "out"), std::vector<std::string>{"old.txt"});
}

// Another process takes over in the middle of the shards, whatever they hold beyond what is recorded.
TEST(JobDirectory, AWriterContinuesWhereAKilledOneStopped) {
  TempDir tmp;
  const OutputPlan plan = small_plan();
  const auto write = [&](JobDirectory& job, size_t first, size_t stop_after) {
    CheckpointWriter writer(tmp / "out", plan, {.shard_bytes = 900, .working_dir = job.output_dir()});
    if (first > 0) {
      writer.adopt(job.records().at(0).tensors);
      job.use(job.records().at(0));
    }
    for (size_t i = first; i < plan.tensors.size(); ++i) {
      EXPECT_FALSE(writer.has(plan.tensors[i].name));
      writer.add(plan.tensors[i].name, patterned(plan.tensors[i]));
      if (i == stop_after) ::raise(SIGKILL);
      JournalRecord record;
      record.done = static_cast<int64_t>(i) + 1;
      record.tensors = writer.written();
      job.commit(record, {});
    }
    writer.add_file("config.json", "{}");
    job.wait_synced();  // the files being synced are about to change their place
    writer.finish(small_manifest());
    job.remove();
  };
  const int64_t total = static_cast<int64_t>(plan.tensors.size());
  const pid_t child = ::fork();
  if (child == 0) {
    JobDirectory job(tmp / "out", kIdentity, total, JobStart::kContinue);
    write(job, 0, 3);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(listing(tmp.path()), std::vector<std::string>{".out.partial"});
  {
    JobDirectory job(tmp / "out", kIdentity, total, JobStart::kContinue);
    ASSERT_EQ(job.records().at(0).done, 3);
    write(job, 3, 99);
  }
  EXPECT_EQ(listing(tmp.path()), std::vector<std::string>{"out"});
  EXPECT_TRUE(verify_files(tmp / "out").empty());
  TempDir other;
  CheckpointWriter writer(other / "out", plan, {.shard_bytes = 900});
  for (const OutputTensor& t : plan.tensors) writer.add(t.name, patterned(t));
  writer.add_file("config.json", "{}");
  writer.finish(small_manifest());
  EXPECT_EQ(testing::contents(tmp / "out"), testing::contents(other / "out"));
}

TEST(JobDirectory, TensorsThatAreNotWhatTheRecordSaysAreNotTaken) {
  TempDir tmp;
  const OutputPlan plan = small_plan();
  JobDirectory job(tmp / "out", kIdentity, kBlocks, JobStart::kContinue);
  std::vector<WrittenTensor> tensors;
  {
    CheckpointWriter writer(tmp / "out", plan, {.working_dir = job.output_dir()});
    for (const OutputTensor& t : plan.tensors) writer.add(t.name, patterned(t));
    tensors = writer.written();
    EXPECT_EQ(tensors.size(), plan.tensors.size());
  }
  {
    std::fstream f(job.output_dir() / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    f.seekp(-5, std::ios::end);
    f.put('x');
  }
  CheckpointWriter writer(tmp / "out", plan, {.working_dir = job.output_dir()});
  expect_error(Code::kBadFile, "expected content with digest", [&] { writer.adopt(tensors); });
  EXPECT_TRUE(writer.written().empty());
  expect_error(Code::kBadFile, "tensor 'nonsense' is not planned", [&] { writer.adopt({{"nonsense", tensors[0].digest}}); });
}

}  // namespace
}  // namespace awq
