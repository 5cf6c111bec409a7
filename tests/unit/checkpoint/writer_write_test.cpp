#include "checkpoint/writer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/sha256.h"
#include "unit/checkpoint/write_fixture.h"

namespace awq {
namespace {

namespace fs = std::filesystem;
using testing::contents;
using testing::expect_error;
using testing::listing;
using testing::patterned;
using testing::small_manifest;
using testing::small_plan;
using testing::TempDir;

void add_all(CheckpointWriter& writer, const OutputPlan& plan, bool backwards = false) {
  auto tensors = plan.tensors;
  if (backwards) std::reverse(tensors.begin(), tensors.end());
  for (const OutputTensor& t : tensors) writer.add(t.name, patterned(t));
}

void write_output(const fs::path& dir, const WriterOptions& options = {}, const std::string& config = "{}") {
  const OutputPlan plan = small_plan();
  CheckpointWriter writer(dir, plan, options);
  add_all(writer, plan);
  writer.add_file("config.json", config);
  writer.finish(small_manifest());
}

// Independent of the library's reader: the header's offsets against the bytes.
void expect_holds(const fs::path& file, const std::vector<OutputTensor>& tensors) {
  const std::string bytes = read_text_file(file);
  uint64_t n = 0;
  std::memcpy(&n, bytes.data(), 8);
  ASSERT_EQ((8 + n) % 8, 0u);
  const auto header = nlohmann::json::parse(bytes.substr(8, n));
  EXPECT_EQ(header["__metadata__"], (nlohmann::json{{"format", "pt"}}));
  EXPECT_EQ(header.size(), tensors.size() + 1);
  size_t covered = 8 + n;
  for (const OutputTensor& t : tensors) {
    const auto& entry = header.at(t.name);
    EXPECT_EQ(entry["dtype"], dtype_name(t.dtype));
    EXPECT_EQ(entry["shape"].get<Shape>(), t.shape);
    const size_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
    const Tensor expected = patterned(t);
    ASSERT_EQ(end - begin, static_cast<size_t>(expected.nbytes())) << t.name;
    EXPECT_EQ(bytes.substr(8 + n + begin, end - begin),
              std::string(reinterpret_cast<const char*>(expected.bytes()), end - begin))
        << t.name;
    covered += end - begin;
  }
  EXPECT_EQ(covered, bytes.size());
}

TEST(Writer, WritesOneFileThatHoldsEveryTensor) {
  TempDir tmp;
  write_output(tmp / "out");
  EXPECT_EQ(listing(tmp.path()), std::vector<std::string>{"out"});
  EXPECT_EQ(listing(tmp / "out"),
            (std::vector<std::string>{"config.json", "manifest.json", "model.safetensors"}));
  expect_holds(tmp / "out/model.safetensors", small_plan().tensors);
  EXPECT_TRUE(verify_files(tmp / "out").empty());
}

TEST(Writer, PlannedBytesAreExactForEveryShardSize) {
  const OutputPlan plan = small_plan();
  for (int64_t limit : {int64_t{1}, int64_t{400}, int64_t{900}, int64_t{1300}, kDefaultShardBytes}) {
    TempDir tmp;
    CheckpointWriter writer(tmp / "out", plan, {.shard_bytes = limit});
    add_all(writer, plan);
    EXPECT_EQ(writer.bytes_written(), planned_bytes(plan, limit));
    writer.finish(small_manifest());
    int64_t on_disk = 0;
    for (const std::string& name : listing(tmp / "out"))
      if (name != kManifestFile) on_disk += static_cast<int64_t>(fs::file_size(tmp / ("out/" + name)));
    EXPECT_EQ(on_disk, planned_bytes(plan, limit)) << limit;
  }
}

TEST(Writer, ShardsStayUnderTheLimitAndTheIndexFindsEveryTensor) {
  const OutputPlan plan = small_plan();
  constexpr int64_t kLimit = 900;
  TempDir tmp;
  CheckpointWriter writer(tmp / "out", plan, {.shard_bytes = kLimit});
  add_all(writer, plan, /*backwards=*/true);
  writer.finish(small_manifest());

  const auto index = nlohmann::json::parse(read_text_file(tmp / "out/model.safetensors.index.json"));
  const auto shards = plan_shards(plan, kLimit);
  ASSERT_GT(shards.size(), 2u);
  EXPECT_EQ(shards[0].file, fmt::format("model-00001-of-{:05}.safetensors", shards.size()));
  size_t named = 0;
  int64_t total = 0;
  for (const OutputShard& shard : shards) {
    EXPECT_LE(fs::file_size(tmp / ("out/" + shard.file)), static_cast<uintmax_t>(kLimit));
    expect_holds(tmp / ("out/" + shard.file), shard.tensors);
    for (const OutputTensor& t : shard.tensors) {
      EXPECT_EQ(index["weight_map"].at(t.name), shard.file);
      total += t.nbytes();
      ++named;
    }
  }
  EXPECT_EQ(named, plan.tensors.size());
  EXPECT_EQ(index["weight_map"].size(), plan.tensors.size());
  EXPECT_EQ(index["metadata"]["total_size"], total);
  EXPECT_TRUE(verify_files(tmp / "out").empty());
}

TEST(Writer, ATensorLargerThanTheLimitGetsItsOwnShard) {
  OutputPlan plan;
  plan.tensors = {{"a", DType::kF32, {4}}, {"large", DType::kF32, {1000}}, {"b", DType::kF32, {4}}};
  const auto shards = plan_shards(plan, 1000);
  ASSERT_EQ(shards.size(), 3u);
  EXPECT_EQ(shards[1].tensors.size(), 1u);
  EXPECT_EQ(shards[1].tensors[0].name, "large");
  EXPECT_EQ(shards[1].file, "model-00002-of-00003.safetensors");
}

TEST(Writer, TheSameInputsGiveTheSameBytesInAnyOrder) {
  const OutputPlan plan = small_plan();
  std::map<std::string, std::string> first;
  for (bool backwards : {false, true}) {
    TempDir tmp;
    CheckpointWriter writer(tmp / "out", plan, {.shard_bytes = 900});
    if (backwards) writer.add_file("config.json", "{}");
    add_all(writer, plan, backwards);
    if (!backwards) writer.add_file("config.json", "{}");
    writer.finish(small_manifest());
    if (backwards)
      EXPECT_EQ(contents(tmp / "out"), first);
    else
      first = contents(tmp / "out");
  }
  EXPECT_EQ(first["manifest.json"].find("/tmp"), std::string::npos);
}

TEST(Writer, ManifestNamesEveryFileWithItsDigest) {
  TempDir tmp;
  const OutputPlan plan = small_plan();
  CheckpointWriter writer(tmp / "out", plan);
  add_all(writer, plan);
  writer.add_file("tokenizer.json", "hello");
  const Manifest finished = writer.finish(small_manifest());
  const Manifest read = read_manifest(tmp / "out");
  ASSERT_EQ(read.files.size(), 2u);
  EXPECT_EQ(finished.files.size(), 2u);
  EXPECT_EQ(read.files[0].name, "model.safetensors");
  EXPECT_EQ(read.files[0].sha256, sha256_hex(read_text_file(tmp / "out/model.safetensors")));
  EXPECT_EQ(read.files[1].name, "tokenizer.json");
  EXPECT_EQ(read.files[1].bytes, 5);
  EXPECT_EQ(read.files[1].sha256, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
}

TEST(Writer, NothingStandsUnderTheFinalNameBeforeFinish) {
  TempDir tmp;
  const OutputPlan plan = small_plan();
  {
    CheckpointWriter writer(tmp / "deep/er/out", plan);
    add_all(writer, plan);
    writer.add_file("config.json", "{}");
    EXPECT_FALSE(fs::exists(tmp / "deep/er/out"));
    EXPECT_EQ(writer.working_dir(),
              fs::canonical(tmp.path()) / fmt::format("deep/er/.out.tmp-{}", ::getpid()));
    expect_holds(writer.working_dir() / "model.safetensors", plan.tensors);
  }
  EXPECT_TRUE(listing(tmp.path()).empty());  // the parents it made are gone too
}

TEST(Writer, RefusesAFinishedOutputUnlessForced) {
  TempDir tmp;
  write_output(tmp / "out", {}, "old");
  expect_error(Code::kExists, "already holds a finished output: use --force",
               [&] { write_output(tmp / "out"); });
  EXPECT_EQ(read_text_file(tmp / "out/config.json"), "old");
  write_output(tmp / "out", {.force = true}, "new");
  EXPECT_EQ(read_text_file(tmp / "out/config.json"), "new");
  EXPECT_TRUE(verify_files(tmp / "out").empty());
  EXPECT_EQ(listing(tmp.path()), std::vector<std::string>{"out"});
}

TEST(Writer, AnUnfinishedReplacementLeavesTheOldOutputIntact) {
  TempDir tmp;
  write_output(tmp / "out", {}, "old");
  const auto before = contents(tmp / "out");
  {
    CheckpointWriter writer(tmp / "out", small_plan(), {.force = true});
    writer.add_file("config.json", "new");
  }
  EXPECT_EQ(contents(tmp / "out"), before);
  EXPECT_EQ(listing(tmp.path()), std::vector<std::string>{"out"});
}

TEST(Writer, NeverTouchesWhatAwqDidNotWrite) {
  TempDir tmp;
  fs::create_directory(tmp / "thesis");
  std::ofstream(tmp / "thesis/chapter1.txt") << "years of work";
  std::ofstream(tmp / "thesis/manifest.json") << R"({"schema": "other/1"})";
  std::ofstream(tmp / "file") << "x";
  for (bool force : {false, true}) {
    expect_error(Code::kExists, "holds files that awq did not write",
                 [&] { write_output(tmp / "thesis", {.force = force}); });
    expect_error(Code::kExists, "exists and is not a directory",
                 [&] { write_output(tmp / "file", {.force = force}); });
  }
  EXPECT_EQ(read_text_file(tmp / "thesis/chapter1.txt"), "years of work");
  EXPECT_EQ(listing(tmp.path()), (std::vector<std::string>{"file", "thesis"}));
}

TEST(Writer, UsesAnEmptyDirectoryAndFollowsALink) {
  TempDir tmp;
  fs::create_directory(tmp / "empty");
  write_output(tmp / "empty");
  EXPECT_TRUE(verify_files(tmp / "empty").empty());
  fs::create_directory(tmp / "real");
  fs::create_directory_symlink("real", tmp / "link");
  write_output(tmp / "link/");
  EXPECT_TRUE(fs::is_symlink(tmp / "link"));
  EXPECT_TRUE(verify_files(tmp / "real").empty());
  expect_error(Code::kBadArgument, "expected a directory name", [] { write_output("/"); });
  expect_error(Code::kBadArgument, "the name is empty", [] { write_output(""); });
}

TEST(Writer, KeepsTheNameThatSomethingElseTookMeanwhile) {
  TempDir tmp;
  const OutputPlan plan = small_plan();
  {
    CheckpointWriter writer(tmp / "out", plan);
    add_all(writer, plan);
    fs::create_directory(tmp / "out");
    std::ofstream(tmp / "out/mine.txt") << "mine";
    expect_error(Code::kExists, "holds files that awq did not write",
                 [&] { writer.finish(small_manifest()); });
  }
  EXPECT_EQ(listing(tmp.path()), std::vector<std::string>{"out"});
  EXPECT_EQ(listing(tmp / "out"), std::vector<std::string>{"mine.txt"});
}

TEST(Writer, RemovesWhatAKilledWriterLeftButNotALiveOnes) {
  TempDir tmp;
  fs::create_directory(tmp / ".out.tmp-1");
  std::ofstream(tmp / ".out.tmp-1/model.safetensors") << "half";
  fs::create_directory(tmp / ".out.tmp-notes");                        // not a name of ours
  fs::create_directory(tmp / fmt::format(".out.tmp-{}", ::getpid()));  // an earlier process with our number
  {
    const OutputPlan plan = small_plan();
    CheckpointWriter writer(tmp / "out", plan);
    EXPECT_FALSE(fs::exists(tmp / ".out.tmp-1"));
    EXPECT_TRUE(fs::exists(tmp / ".out.tmp-notes"));
    expect_error(Code::kExists, "another process is writing this output", [&] { write_output(tmp / "out"); });
    EXPECT_TRUE(fs::exists(writer.working_dir() / "model.safetensors"));
    add_all(writer, plan);
    writer.finish(small_manifest());
  }
  EXPECT_TRUE(verify_files(tmp / "out").empty());
}

TEST(Writer, MistakesOfTheCallerAreNamed) {
  TempDir tmp;
  const OutputPlan plan = small_plan();
  CheckpointWriter writer(tmp / "out", plan);
  const OutputTensor& norm = plan.tensors[5];
  expect_error(Code::kInternal, "'lm_head.weight' is not planned",
               [&] { writer.add("lm_head.weight", patterned(norm)); });
  expect_error(Code::kInternal, "'model.norm.weight': expected F32 [8] as planned, got F32 [9]",
               [&] { writer.add(norm.name, Tensor::zeros(DType::kF32, {9})); });
  expect_error(Code::kInternal, "'model.norm.weight': expected F32 [8] as planned, got F16 [8]",
               [&] { writer.add(norm.name, Tensor::zeros(DType::kF16, {8})); });
  writer.add(norm.name, patterned(norm));
  expect_error(Code::kInternal, "'model.norm.weight' is written twice",
               [&] { writer.add(norm.name, patterned(norm)); });
  expect_error(Code::kInternal, "was never written", [&] { writer.finish(small_manifest()); });

  writer.add_file("config.json", "{}");
  for (const char* name : {"config.json", "manifest.json", "model.safetensors"})
    expect_error(Code::kBadArgument, "already taken", [&] { writer.add_file(name, ""); });
  for (const char* name : {"", ".", "..", "../x", "/etc/x", "a/b"})
    expect_error(Code::kBadArgument, "expected a plain file name", [&] { writer.add_file(name, ""); });

  OutputPlan twice = plan;
  twice.tensors.push_back(norm);
  expect_error(Code::kBadArgument, "'model.norm.weight' is planned twice", [&] { planned_bytes(twice); });
  expect_error(Code::kBadArgument, "shard size", [&] { plan_shards(plan, 0); });
}

TEST(Writer, TooLittleDiskIsSeenBeforeAnythingIsWritten) {
  TempDir tmp;
  OutputPlan plan;
  plan.tensors = {{"huge", DType::kF32, {int64_t{1} << 58}}};
  expect_error(Code::kNoSpace, fmt::format("out: too little disk: needs {}", human_bytes(0x1p60)),
               [&] { CheckpointWriter(tmp / "out", plan); });
  expect_error(Code::kNoSpace, fmt::format("({} bytes)", planned_bytes(plan)),
               [&] { CheckpointWriter(tmp / "out", plan); });
  expect_error(Code::kNoSpace, "too little disk",
               [&] { CheckpointWriter(tmp / "out", small_plan(), {.side_bytes = int64_t{1} << 60}); });
  EXPECT_TRUE(listing(tmp.path()).empty());
}

// The limit on file size makes reserve() fail, and pwrite() write short and then fail.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    old_handler_ = std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &old_);
    rlimit limited = old_;
    limited.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limited);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_{};
  void (*old_handler_)(int) = nullptr;
};

TEST(Writer, ARefusedReservationNamesFileAndBytesAndLeavesNothing) {
  TempDir tmp;
  const OutputPlan plan = small_plan();
  {
    FileSizeLimit limit(64);
    expect_error(
        Code::kIo,
        fmt::format("out/model.safetensors: cannot write {} bytes: File too large", planned_bytes(plan)),
        [&] { CheckpointWriter(tmp / "out", plan); });
  }
  EXPECT_TRUE(listing(tmp.path()).empty());
}

TEST(Writer, AShortWriteIsFollowedByAnErrorAndLeavesNothing) {
  TempDir tmp;
  OutputPlan plan;
  plan.tensors = {{"t", DType::kF32, {4096}}};
  {
    CheckpointWriter writer(tmp / "out", plan);
    const Tensor t = patterned(plan.tensors[0]);
    const int64_t header = planned_bytes(plan) - t.nbytes();
    FileSizeLimit limit(static_cast<rlim_t>(header) + 8192);
    expect_error(Code::kIo,
                 fmt::format("model.safetensors: cannot write {} bytes: File too large", t.nbytes() - 8192),
                 [&] { writer.add("t", t); });
    expect_error(Code::kIo, "out/notes.txt: cannot write",
                 [&] { writer.add_file("notes.txt", std::string(20000, 'x')); });
  }
  EXPECT_TRUE(listing(tmp.path()).empty());
}

// In a child with its own mounts: writes the small plan to a file system of `kib` KiB whose free space is
// taken away after `steal_after` tensors. Exit status: 0 written, 1 refused as it should be, 2 anything else,
// 77 cannot mount.
int write_to_full_disk(const fs::path& mount, int64_t kib, size_t steal_after) {
  if (::unshare(CLONE_NEWNS) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return 77;
  ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
  if (::mount("none", mount.c_str(), "tmpfs", 0, fmt::format("size={}k", kib).c_str()) != 0) return 77;
  OutputPlan plan;
  for (int i = 0; i < 8; ++i)
    plan.tensors.push_back({fmt::format("t{}", i), DType::kF32, {2048}});  // 8 KiB each
  try {
    CheckpointWriter writer(mount / "out", plan, {.shard_bytes = 20000});
    for (size_t i = 0; i < plan.tensors.size(); ++i) {
      if (i == steal_after) {
        std::ofstream hog(mount / "hog");
        for (int n = 0; n < 1000 && hog; ++n) hog << std::string(4096, 'x') << std::flush;
      }
      writer.add(plan.tensors[i].name, patterned(plan.tensors[i]));
    }
    writer.add_file("config.json", std::string(9000, ' '));
    writer.finish(small_manifest());
  } catch (const Error& e) {
    fs::remove(mount / "hog");
    const std::string text = e.what();
    const bool named = text.find((mount / "out").string()) == 0 && text.find("needs ") != text.npos;
    return e.code() == Code::kNoSpace && named && listing(mount).empty() ? 1 : 2;
  }
  return verify_files(mount / "out").empty() ? 0 : 2;
}

TEST(Writer, AFullDiskIsAlwaysRefusedCleanly) {
  TempDir tmp;
  const auto run = [&](int64_t kib, size_t steal_after) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(write_to_full_disk(tmp.path(), kib, steal_after));
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  if (run(1024, 99) == 77) GTEST_SKIP() << "mounting a file system is not allowed here";
  int written = 0, refused = 0;
  for (int64_t kib = 4; kib <= 128; kib += 4) {
    const int result = run(kib, 99);
    EXPECT_TRUE(result == 0 || result == 1) << kib << " KiB: " << result;
    ++(result == 0 ? written : refused);
  }
  EXPECT_GT(written, 4);
  EXPECT_GT(refused, 10);
  // Shards were reserved, so another process filling the disk costs only what was not: the small files.
  for (size_t steal_after = 0; steal_after < 8; ++steal_after)
    EXPECT_EQ(run(160, steal_after), 1) << steal_after;
}

// kill -9 in the middle: the final name never appears, and the next run cleans up.
TEST(Writer, AKilledProcessLeavesNoFinalName) {
  TempDir tmp;
  const OutputPlan plan = small_plan();
  const pid_t child = ::fork();
  if (child == 0) {
    CheckpointWriter writer(tmp / "out", plan);
    writer.add(plan.tensors[0].name, patterned(plan.tensors[0]));
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(listing(tmp.path()), std::vector<std::string>{fmt::format(".out.tmp-{}", child)});
  write_output(tmp / "out");
  EXPECT_EQ(listing(tmp.path()), std::vector<std::string>{"out"});
}

}  // namespace
}  // namespace awq
