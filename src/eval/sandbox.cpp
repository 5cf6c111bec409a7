#include "eval/sandbox.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <random>
#include <utility>

#include "base/error.h"
#include "base/system.h"

namespace awq {
namespace {

#if defined(__x86_64__)
constexpr uint32_t kArch = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArch = AUDIT_ARCH_AARCH64;
#else
constexpr uint32_t kArch = 0;
#endif

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&&) = delete;
  ~Fd() { close(); }
  int get() const { return fd_; }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

[[noreturn]] void fail_here(const char* what) { fail(Code::kIo, "sandbox: {}: {}", what, std::strerror(errno)); }

// What computing takes. Whatever is not here answers "operation not permitted": fork, sockets, signals to others, and everything
// that changes files or the machine.
const std::vector<uint32_t>& harmless_calls() {
  static const std::vector<uint32_t> calls = {
      __NR_read, __NR_readv, __NR_pread64, __NR_write, __NR_writev, __NR_close, __NR_lseek, __NR_fstat, __NR_newfstatat, __NR_statx,
      __NR_mmap, __NR_mprotect, __NR_munmap, __NR_mremap, __NR_madvise, __NR_brk, __NR_rt_sigaction, __NR_rt_sigprocmask,
      __NR_rt_sigreturn, __NR_sigaltstack, __NR_ioctl, __NR_faccessat, __NR_faccessat2, __NR_dup, __NR_dup3, __NR_fcntl, __NR_getcwd,
      __NR_readlinkat, __NR_getdents64, __NR_getpid, __NR_gettid, __NR_getppid, __NR_getuid, __NR_geteuid, __NR_getgid, __NR_getegid,
      __NR_uname, __NR_sysinfo, __NR_set_tid_address, __NR_set_robust_list, __NR_rseq, __NR_getrandom, __NR_futex, __NR_clock_gettime,
      __NR_clock_getres, __NR_clock_nanosleep, __NR_nanosleep, __NR_gettimeofday, __NR_times, __NR_getrusage, __NR_sched_yield,
      __NR_sched_getaffinity, __NR_ppoll, __NR_exit, __NR_exit_group, __NR_execve,
#if defined(__x86_64__)
      __NR_stat, __NR_lstat, __NR_access, __NR_dup2, __NR_readlink, __NR_arch_prctl, __NR_getrlimit, __NR_time, __NR_poll,
#endif
  };
  return calls;
}

constexpr uint32_t kRefuse = SECCOMP_RET_ERRNO | EPERM;

sock_filter load(size_t offset) { return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)); }
constexpr size_t argument(int i) { return offsetof(seccomp_data, args) + 8 * static_cast<size_t>(i); }  // its low half

// If the call is `number`: allowed when the low half of argument `i` and `mask` is nothing, refused else.
void allow_without_bits(std::vector<sock_filter>& f, uint32_t number, int i, uint32_t mask) {
  f.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 4));
  f.push_back(load(argument(i)));
  f.push_back(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, mask, 0, 1));
  f.push_back(BPF_STMT(BPF_RET | BPF_K, kRefuse));
  f.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
}

std::vector<sock_filter> make_filter() {
  std::vector<sock_filter> f;
  f.push_back(load(offsetof(seccomp_data, arch)));
  f.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArch, 1, 0));
  f.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  f.push_back(load(offsetof(seccomp_data, nr)));
  for (const uint32_t number : harmless_calls()) {
    f.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1));
    f.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  }
  // prlimit64 of the process itself: its hard limits are set, so that it can but lower them.
  f.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_prlimit64, 0, 4));
  f.push_back(load(argument(0)));
  f.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0));
  f.push_back(BPF_STMT(BPF_RET | BPF_K, kRefuse));
  f.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  constexpr uint32_t kWrites = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND | (O_TMPFILE & ~O_DIRECTORY);
  allow_without_bits(f, __NR_openat, 2, kWrites);
#if defined(__x86_64__)
  allow_without_bits(f, __NR_open, 1, kWrites);
#endif
  f.push_back(BPF_STMT(BPF_RET | BPF_K, kRefuse));
  return f;
}

// A ruleset under which only `readable` can be read or executed and nothing written; -1 where the kernel has no Landlock.
Fd make_ruleset(const std::vector<std::string>& readable) {
  landlock_ruleset_attr attr{};
  attr.handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;  // all of the first version
  Fd ruleset(static_cast<int>(::syscall(__NR_landlock_create_ruleset, &attr, sizeof attr, 0)));
  if (ruleset.get() < 0) return ruleset;
  for (const std::string& path : readable) {
    const Fd at(::open(path.c_str(), O_PATH | O_CLOEXEC));
    if (at.get() < 0) continue;  // not on this machine
    landlock_path_beneath_attr rule{};
    rule.allowed_access = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE;
    if (std::filesystem::is_directory(path)) rule.allowed_access |= LANDLOCK_ACCESS_FS_READ_DIR;
    rule.parent_fd = at.get();
    if (::syscall(__NR_landlock_add_rule, ruleset.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0) fail_here("landlock_add_rule");
  }
  return ruleset;
}

// The program comes on standard input behind a token; the token on standard output says that it ran to its end.
constexpr const char* kRunner =
    "import sys\n"
    "token, program = sys.stdin.read().split('\\n', 1)\n"
    "exec(compile(program, 'program', 'exec'), {'__name__': 'program'})\n"
    "sys.stdout.write('\\n' + token)\n"
    "sys.stdout.flush()\n";

Fd program_file(const std::string& text) {
  Fd file(::memfd_create("program", MFD_CLOEXEC));
  if (file.get() < 0) fail_here("memfd_create");
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(file.get(), text.data() + done, text.size() - done);
    if (n <= 0) fail_here("write");
    done += static_cast<size_t>(n);
  }
  ::lseek(file.get(), 0, SEEK_SET);
  return file;
}

struct Confinement {
  const sock_fprog* filter;
  int ruleset, input, output;
  SandboxLimits limits;
};

void limit(int what, rlim_t value) {
  const rlimit r{value, value};
  if (::setrlimit(static_cast<__rlimit_resource_t>(what), &r) != 0) ::_exit(125);
}

// In the child, between fork and exec: only calls that are safe there.
[[noreturn]] void become(const Confinement& c, const char* path, char* const* argv, char* const* env) {
  ::setsid();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (int number = 1; number < 32; ++number) ::signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  if (::dup2(c.input, 0) < 0 || ::dup2(c.output, 1) < 0 || ::dup2(c.output, 2) < 0 || ::chdir("/") != 0) ::_exit(125);
  const int ruleset = ::fcntl(c.ruleset, F_DUPFD, 3);
  limit(RLIMIT_CPU, static_cast<rlim_t>(c.limits.seconds) + 1);
  limit(RLIMIT_AS, static_cast<rlim_t>(c.limits.memory_bytes));
  limit(RLIMIT_FSIZE, static_cast<rlim_t>(1) << 20);
  limit(RLIMIT_CORE, 0);
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) ::_exit(125);
  if (::syscall(__NR_landlock_restrict_self, ruleset, 0) != 0) ::_exit(125);
  ::syscall(__NR_close_range, 3U, ~0U, 0U);
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, c.filter) != 0) ::_exit(125);
  ::execve(path, argv, env);
  ::_exit(126);
}

// Reads until the other end closes or time is over; true: closed.
bool drain(int fd, double deadline, size_t most, std::string& out, std::string& tail, size_t tail_bytes) {
  std::array<char, 16384> buffer{};
  while (true) {
    const double left = deadline - now_seconds();
    if (left <= 0) return false;
    pollfd p{fd, POLLIN, 0};
    const int ready = ::poll(&p, 1, static_cast<int>(left * 1000) + 1);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) continue;
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return true;
    const auto count = static_cast<size_t>(n);
    out.append(buffer.data(), std::min(count, most - std::min(most, out.size())));
    tail.append(buffer.data(), count);
    if (tail.size() > tail_bytes) tail.erase(0, tail.size() - tail_bytes);
  }
}

std::string random_token() {
  std::random_device device;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", device(), device(), device(), device());
}

// One line for each of what the interpreter says about itself.
std::vector<std::string> ask_interpreter(const std::string& python) {
  std::string quoted;
  for (const char c : python) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  const std::string command =
      "'" + quoted + "' -I -c 'import os, sys; print(os.path.realpath(sys.executable), sys.prefix, sys.base_prefix, sep=chr(10))' 2>/dev/null";
  FILE* pipe = ::popen(command.c_str(), "re");
  if (pipe == nullptr) fail_here("popen");
  std::string text;
  std::array<char, 4096> buffer{};
  while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe)) text.append(buffer.data(), n);
  std::vector<std::string> lines;
  if (::pclose(pipe) != 0) return lines;
  for (size_t begin = 0, end = 0; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
    lines.push_back(text.substr(begin, end - begin));
  return lines;
}

}  // namespace

Sandbox::Sandbox(const std::string& python) {
  const std::string name = python.empty() ? "python3" : python;
  const std::vector<std::string> said = ask_interpreter(name);
  if (said.size() != 3) fail(Code::kNotFound, "{}: expected a Python interpreter that starts, to run programs with", name);
  interpreter_ = said[0];
  readable_ = {said[1], said[2], interpreter_, "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/urandom"};
  if (kArch == 0 || ::prctl(PR_GET_SECCOMP) < 0 || make_ruleset({}).get() < 0)
    fail(Code::kUnsupported, "running programs needs a kernel with seccomp and Landlock (Linux 5.13 or later), which would hold them");
}

SandboxResult Sandbox::run(const std::string& program, const SandboxLimits& limits) const {
  const std::string token = random_token();
  const Fd input = program_file(token + "\n" + program);
  const Fd ruleset = make_ruleset(readable_);
  if (ruleset.get() < 0) fail_here("landlock_create_ruleset");
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) fail_here("pipe");
  const Fd reader(ends[0]);
  Fd writer(ends[1]);
  std::vector<sock_filter> filter = make_filter();
  const sock_fprog filter_program{static_cast<unsigned short>(filter.size()), filter.data()};
  const Confinement confinement{&filter_program, ruleset.get(), input.get(), writer.get(), limits};
  std::vector<std::string> arguments = {interpreter_, "-I", "-B", "-X", "utf8", "-c", kRunner};
  std::vector<std::string> environment = {"LANG=C.UTF-8", "PYTHONHASHSEED=0"};
  std::vector<char*> argv, env;
  for (std::string& a : arguments) argv.push_back(a.data());
  for (std::string& e : environment) env.push_back(e.data());
  argv.push_back(nullptr);
  env.push_back(nullptr);

  const double start = now_seconds();
  const pid_t child = ::fork();
  if (child < 0) fail_here("fork");
  if (child == 0) become(confinement, interpreter_.c_str(), argv.data(), env.data());
  writer.close();
  SandboxResult result;
  std::string tail;
  const bool closed = drain(reader.get(), start + limits.seconds, static_cast<size_t>(limits.output_bytes), result.output, tail, token.size() + 1);
  // Output can be closed by a program that goes on.
  int status = 0;
  pid_t ended = 0;
  while (closed && (ended = ::waitpid(child, &status, WNOHANG)) == 0 && now_seconds() < start + limits.seconds) ::usleep(500);
  if (ended == 0) {
    ::kill(child, SIGKILL);
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    result.end = SandboxEnd::kTimeout;
    result.reason = fmt::format("no end within {} s", limits.seconds);
  } else if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && tail == "\n" + token) {
    result.end = SandboxEnd::kPassed;
    result.reason = "passed";
  } else if (WIFSIGNALED(status)) {
    result.reason = fmt::format("killed by signal {}", WTERMSIG(status));
  } else if (WEXITSTATUS(status) == 0) {
    result.reason = "ended before its end was reached";
  } else if (WEXITSTATUS(status) >= 125) {
    fail(Code::kIo, "sandbox: {} could not be started confined (status {})", interpreter_, WEXITSTATUS(status));
  } else {
    result.reason = fmt::format("exit status {}", WEXITSTATUS(status));
  }
  if (const size_t at = result.output.rfind("\n" + token); at != std::string::npos) result.output.resize(at);
  result.seconds = now_seconds() - start;
  return result;
}

}  // namespace awq
