#include "eval/sandbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace awq {
namespace {

using ::testing::HasSubstr;

class SandboxTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    try {
      sandbox_ = new Sandbox();
    } catch (const Error& e) {
      why_ = e.what();
    }
  }
  static void TearDownTestSuite() { delete sandbox_; }
  void SetUp() override {
    if (sandbox_ == nullptr) GTEST_SKIP() << why_;
  }
  static SandboxResult run(const std::string& program, double seconds = 5) { return sandbox_->run(program, {.seconds = seconds}); }
  static inline Sandbox* sandbox_ = nullptr;
  static inline std::string why_;
};

TEST_F(SandboxTest, ProgramsPassOrFailAsTheyEnd) {
  EXPECT_EQ(run("import math, collections, re, typing, itertools, functools, heapq, random\nassert math.gcd(4, 6) == 2").end, SandboxEnd::kPassed);
  const SandboxResult wrong = run("print('seen')\nassert 1 == 2, 'one is not two'");
  EXPECT_EQ(wrong.end, SandboxEnd::kFailed);
  EXPECT_EQ(wrong.reason, "exit status 1");
  EXPECT_THAT(wrong.output, HasSubstr("seen"));
  EXPECT_THAT(wrong.output, HasSubstr("one is not two"));
  EXPECT_EQ(run("def broken(:").end, SandboxEnd::kFailed);
}

TEST_F(SandboxTest, EndingEarlyIsNotPassing) {
  EXPECT_EQ(run("import sys\nsys.exit(0)").end, SandboxEnd::kFailed);
  EXPECT_EQ(run("import os\nos._exit(0)").end, SandboxEnd::kFailed);
  EXPECT_EQ(run("import ctypes\nctypes.string_at(0)").end, SandboxEnd::kFailed);
}

TEST_F(SandboxTest, LoopsAndSleepEndInTime) {
  for (const char* program : {"while True: pass", "import time\ntime.sleep(60)", "import os\nos.close(1)\nos.close(2)\nwhile True: pass",
                              "import signal\nfor s in range(1, 32):\n  try: signal.signal(s, signal.SIG_IGN)\n  except Exception: pass\nwhile True: pass"}) {
    const SandboxResult r = run(program, 0.15);
    EXPECT_EQ(r.end, SandboxEnd::kTimeout) << program << r.output;
    EXPECT_LT(r.seconds, 2);
  }
}

TEST_F(SandboxTest, NoProcessCanBeMade) {
  for (const char* program : {"import os\nwhile True: os.fork()", "import os\nos.fork()", "import subprocess\nsubprocess.run(['true'])",
                              "import os\nos.posix_spawn('/bin/true', ['true'], {})", "import os\nassert os.system('true') == 0",
                              "import threading\nt = threading.Thread(target=print)\nt.start()"})
    EXPECT_EQ(run(program).end, SandboxEnd::kFailed) << program;
}

TEST_F(SandboxTest, NoSignalReachesOthers) {
  EXPECT_EQ(run("import os\nos.kill(os.getppid(), 0)").end, SandboxEnd::kFailed);
  EXPECT_EQ(run("import os\nos.kill(-1, 9)").end, SandboxEnd::kFailed);
}

TEST_F(SandboxTest, NoNetwork) {
  for (const char* kind : {"socket.AF_INET, socket.SOCK_STREAM", "socket.AF_INET, socket.SOCK_DGRAM", "socket.AF_UNIX, socket.SOCK_STREAM",
                           "socket.AF_INET6, socket.SOCK_STREAM"}) {
    const SandboxResult r = run(std::string("import socket\nsocket.socket(") + kind + ")");
    EXPECT_EQ(r.end, SandboxEnd::kFailed);
    EXPECT_THAT(r.output, HasSubstr("PermissionError"));
  }
}

TEST_F(SandboxTest, FilesAreNeitherWrittenNorReadOutsidePython) {
  const auto dir = std::filesystem::temp_directory_path() / ("awq-sandbox-" + std::to_string(::getpid()));
  std::filesystem::create_directories(dir);
  std::ofstream(dir / "secret") << "treasure";
  const std::string path = (dir / "secret").string(), other = (dir / "new").string();
  const std::string program = "import os\npath, new, folder = '" + path + "', '" + other + "', '" + dir.string() + "'\n" + R"(
attempts = [lambda: open(path).read(), lambda: open(path, 'a'), lambda: open(new, 'w'), lambda: os.unlink(path), lambda: os.rename(path, new),
            lambda: os.mkdir(new), lambda: os.symlink('a', new), lambda: os.truncate(path, 0), lambda: os.chmod(path, 0),
            lambda: os.listdir(folder), lambda: open('/etc/passwd').read(), lambda: os.open('/dev/shm', os.O_TMPFILE | os.O_RDWR),
            lambda: os.memfd_create('x'), lambda: open('/proc/self/mem', 'wb')]
for i, attempt in enumerate(attempts):
    try:
        attempt()
    except PermissionError:
        continue
    raise SystemExit(f'attempt {i} was let through')
)";
  const SandboxResult r = run(program);
  EXPECT_EQ(r.end, SandboxEnd::kPassed) << r.output;
  EXPECT_TRUE(std::filesystem::exists(path));
  EXPECT_FALSE(std::filesystem::exists(other));
  std::filesystem::remove_all(dir);
}

TEST_F(SandboxTest, MemoryAndOutputAreBounded) {
  const SandboxResult hog = sandbox_->run("x = []\nwhile True: x.append(bytearray(1 << 24))", {.memory_bytes = int64_t{1} << 28});
  EXPECT_EQ(hog.end, SandboxEnd::kFailed);
  EXPECT_THAT(hog.output, HasSubstr("MemoryError"));
  const SandboxResult talker = run("while True: print('x' * 10000)", 0.2);
  EXPECT_EQ(talker.end, SandboxEnd::kTimeout);
  EXPECT_LE(talker.output.size(), size_t{64} << 10);
  EXPECT_EQ(run("import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))").end, SandboxEnd::kFailed);
}

TEST(Sandbox, SaysThatThereIsNoPython) { EXPECT_THROW(Sandbox("/nonexistent/python"), Error); }

}  // namespace
}  // namespace awq
