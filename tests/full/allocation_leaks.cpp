// Loads a tiny checkpoint and quantizes it again and again in one process while allocations fail, and counts
// what stays allocated: allocation_leaks MODEL PLACE [STEP=1]. Every STEP-th allocation fails, once and for
// ever; each such job runs twice, so that what the first one leaves warm (scratch memory, caches) is no leak.
// PLACE is a folder for the outputs.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <new>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "quant/job.h"

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void __libc_free(void*);
}

namespace {

std::atomic<int64_t> allocations{0}, live{0}, fail_at{0};
std::atomic<bool> for_ever{false};

bool fails() {
  const int64_t n = ++allocations, at = fail_at;
  if (at == 0 || (for_ever ? n < at : n != at)) return false;
  errno = ENOMEM;
  return true;
}

void* counted(void* p) {
  live += p != nullptr;
  return p;
}

}  // namespace

extern "C" {
void* malloc(size_t n) { return fails() ? nullptr : counted(__libc_malloc(n)); }
void* calloc(size_t n, size_t size) { return fails() ? nullptr : counted(__libc_calloc(n, size)); }
void* realloc(void* p, size_t n) {
  if (fails()) return nullptr;
  void* const moved = __libc_realloc(p, n);
  if (p == nullptr) return counted(moved);
  if (n == 0) --live;
  return moved;
}
void* memalign(size_t align, size_t n) { return fails() ? nullptr : counted(__libc_memalign(align, n)); }
void* aligned_alloc(size_t align, size_t n) { return memalign(align, n); }
int posix_memalign(void** out, size_t align, size_t n) {
  void* p = memalign(align, n);
  if (p == nullptr) return ENOMEM;
  *out = p;
  return 0;
}
void free(void* p) {
  if (p != nullptr) --live;
  __libc_free(p);
}
}

namespace {

namespace fs = std::filesystem;

// Whether the job ended with an output.
bool run(const fs::path& model, const fs::path& place) {
  awq::clear_cancel();
  try {
    const auto checkpoint = awq::Checkpoint::open(model);
    awq::QuantizeJob job;
    job.output = place / "out";
    job.command = "awq quantize";
    for (int i = 0; i < 256; ++i) job.calibration.sequences.ids.push_back(3 + i * 7 % 100);
    job.calibration.sequences.lengths = {64, 64, 64, 64};
    awq::run_quantize(*checkpoint, job, {});
    return true;
  } catch (const awq::Error&) {
    return false;
  } catch (const std::bad_alloc&) {
    return false;
  } catch (const fs::filesystem_error&) {
    return false;
  }
}

struct Outcome {
  bool done;
  int64_t kept;  // allocations more than before
};

Outcome attempt(const fs::path& model, const fs::path& place, int64_t at, bool ever) {
  fs::remove_all(place);
  fs::create_directories(place);
  const int64_t before = live;
  allocations = 0;
  for_ever = ever;
  fail_at = at;
  const bool done = run(model, place);
  fail_at = 0;
  return {done, live - before};
}

struct Tally {
  int64_t jobs = 0, refused = 0, leaks = 0;
};

// The jobs in which an allocation from `begin` to `end` fails.
Tally run_range(const fs::path& model, const fs::path& place, int64_t begin, int64_t end, int64_t step) {
  Tally tally;
  for (int64_t at = begin; at < end; at += step)
    for (const bool ever : {false, true}) {
      attempt(model, place, at, ever);
      const Outcome again = attempt(model, place, at, ever);
      ++tally.jobs;
      tally.refused += !again.done;
      if (again.kept <= 0) continue;
      ++tally.leaks;
      std::printf("allocation %lld%s: %lld kept\n", static_cast<long long>(at), ever ? "+" : "",
                  static_cast<long long>(again.kept));
    }
  return tally;
}

// In a process of its own, since the reserve of emergency_memory.cpp, enough for one job, is not filled up
// again. A crash ends up as a leak.
Tally run_apart(const fs::path& model, const fs::path& place, int64_t begin, int64_t end, int64_t step) {
  int ends[2];
  if (pipe(ends) != 0) std::exit(3);
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    const Tally tally = run_range(model, place, begin, end, step);
    std::fflush(stdout);
    _exit(write(ends[1], &tally, sizeof tally) == sizeof tally ? 0 : 3);
  }
  close(ends[1]);
  Tally tally;
  if (read(ends[0], &tally, sizeof tally) != sizeof tally) {
    std::printf("allocations %lld to %lld: the process ended\n", static_cast<long long>(begin),
                static_cast<long long>(end));
    tally.leaks = 1;
  }
  close(ends[0]);
  waitpid(child, nullptr, 0);
  return tally;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const fs::path model = argv[1], place = argv[2];
  const int64_t step = argc > 3 ? std::atoll(argv[3]) : 1, chunk = 4 * step;
  awq::set_threads(1);
  attempt(model, place, 0, false);
  const Outcome whole = attempt(model, place, 0, false);
  const int64_t total = allocations;
  std::printf("%lld allocations in one job, %lld kept\n", static_cast<long long>(total),
              static_cast<long long>(whole.kept));
  Tally sum;
  sum.leaks = whole.done && whole.kept == 0 ? 0 : 1;
  for (int64_t at = 1; at <= total; at += chunk) {
    const Tally tally = run_apart(model, place, at, std::min(total + 1, at + chunk), step);
    sum.jobs += tally.jobs;
    sum.refused += tally.refused;
    sum.leaks += tally.leaks;
  }
  std::printf("%lld jobs, %lld refused, %lld with a leak or a crash\n", static_cast<long long>(sum.jobs),
              static_cast<long long>(sum.refused), static_cast<long long>(sum.leaks));
  return sum.leaks == 0 ? 0 : 1;
}
