#include "base/system.h"

#include <cpuid.h>
#include <fcntl.h>
#include <malloc.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/error.h"

namespace awq {
namespace {

// Value in bytes of a "Name:   123 kB" line, or -1.
int64_t proc_kib(const char* path, std::string_view key) {
  std::ifstream in(path);
  std::string line;
  while (std::getline(in, line))
    if (line.starts_with(key)) return std::strtoll(line.c_str() + key.size(), nullptr, 10) * 1024;
  return -1;
}

int64_t number_in(const char* path) {
  std::ifstream in(path);
  int64_t value = -1;
  in >> value;
  return in ? value : -1;
}

// Two features that __builtin_cpu_supports has no word for in every compiler; the system saves their registers when it
// saves those of AVX2 and AVX-512.
bool cpu_has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx >> 29 & 1) != 0;
}
bool cpu_has_avx512bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 5 & 1) != 0;
}

Isa detect_isa() {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && cpu_has_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && cpu_has_avx512bf16()) return Isa::kAvx512Bf16;
  if (avx512) return Isa::kAvx512;
  return avx2 ? Isa::kAvx2 : Isa::kPortable;
}

Isa initial_isa() {
  const Isa best = detect_isa();
  const char* wanted = std::getenv("AWQ_ISA");
  if (wanted == nullptr || *wanted == 0) return best;
  for (Isa i : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16})
    if (std::strcmp(wanted, isa_name(i)) == 0) {
      if (i > best) fail(Code::kBadArgument, "AWQ_ISA={}: this machine has {}", wanted, isa_name(best));
      return i;
    }
  fail(Code::kBadArgument, "AWQ_ISA={}: expected portable, avx2, avx512 or avx512bf16", wanted);
}

Isa& current_isa() {
  static Isa value = initial_isa();
  return value;
}

void write_all(int fd, std::string_view bytes, const std::filesystem::path& path) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::write(fd, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      fail(errno == ENOSPC || errno == EDQUOT ? Code::kNoSpace : Code::kIo, "{}: cannot write {} bytes: {}", path.string(),
           bytes.size(), std::strerror(errno));
    done += static_cast<size_t>(n);
  }
}

}  // namespace

int64_t peak_rss_bytes() { return std::max<int64_t>(0, proc_kib("/proc/self/status", "VmHWM:")); }

int64_t rss_bytes() { return std::max<int64_t>(0, proc_kib("/proc/self/status", "VmRSS:")); }

void return_freed_memory() {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

int64_t available_ram_bytes() {
  int64_t ram = proc_kib("/proc/meminfo", "MemAvailable:");
  const int64_t limit = number_in("/sys/fs/cgroup/memory.max");
  const int64_t used = number_in("/sys/fs/cgroup/memory.current");
  if (limit > 0 && used >= 0) ram = std::min(ram, limit - used);
  return std::max<int64_t>(0, ram);
}

int64_t free_disk_bytes(const std::filesystem::path& path) {
  std::filesystem::path p = std::filesystem::absolute(path);
  while (!std::filesystem::exists(p) && p.has_relative_path()) p = p.parent_path();
  struct statvfs st {};
  if (::statvfs(p.c_str(), &st) != 0) fail(Code::kIo, "{}: cannot read free space: {}", p.string(), std::strerror(errno));
  return static_cast<int64_t>(st.f_bavail) * static_cast<int64_t>(st.f_frsize);
}

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string read_text_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail(errno == ENOENT ? Code::kNotFound : Code::kIo, "{}: cannot open: {}", path.string(), std::strerror(errno));
  std::ostringstream out;
  out << in.rdbuf();
  if (in.bad()) fail(Code::kIo, "{}: read failed", path.string());
  return std::move(out).str();
}

void fsync_path(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(Code::kIo, "{}: cannot open for fsync: {}", path.string(), std::strerror(errno));
  const int rc = ::fsync(fd);
  const int error = errno;
  ::close(fd);
  if (rc != 0) fail(Code::kIo, "{}: fsync failed: {}", path.string(), std::strerror(error));
}

void write_file_atomic(const std::filesystem::path& path, std::string_view bytes) {
  std::filesystem::path temporary = path;
  temporary += fmt::format(".tmp-{}", ::getpid());
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) fail(Code::kIo, "{}: cannot create: {}", path.string(), std::strerror(errno));
  try {
    write_all(fd, bytes, path);
    if (::fsync(fd) != 0) fail(Code::kIo, "{}: fsync failed: {}", path.string(), std::strerror(errno));
  } catch (...) {
    ::close(fd);
    ::unlink(temporary.c_str());
    throw;
  }
  ::close(fd);
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary.c_str());
    fail(Code::kIo, "{}: cannot rename into place: {}", path.string(), std::strerror(error));
  }
  fsync_path(std::filesystem::absolute(path).parent_path());
}

Isa isa() { return current_isa(); }
void set_isa(Isa value) {
  if (value > detect_isa()) fail(Code::kBadArgument, "this machine has no {}", isa_name(value));
  current_isa() = value;
}
const char* isa_name(Isa value) {
  switch (value) {
    case Isa::kPortable: return "portable";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx512Bf16: return "avx512bf16";
  }
  return "portable";
}

std::string human_bytes(double bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int u = 0;
  while (bytes >= 1024 && u < 4) bytes /= 1024, ++u;
  return u == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.2f} {}", bytes, units[u]);
}

std::string human_seconds(double seconds) {
  if (seconds < 60) return fmt::format("{:.1f} s", seconds);
  const int64_t s = static_cast<int64_t>(seconds + 0.5);
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} h {:02} min", s / 3600, s % 3600 / 60);
}

}  // namespace awq
