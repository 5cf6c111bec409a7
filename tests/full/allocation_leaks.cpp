// Loads a tiny checkpoint and quantizes it again and again in one process while allocations fail, and counts
// what stays allocated: allocation_leaks MODEL PLACE [STEP=1]. Every STEP-th allocation fails, once and for
// ever; each such job runs twice, so that what the first one leaves warm (scratch memory, caches) is no leak.
// PLACE is a folder for the outputs.
#include <malloc.h>

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
}

namespace {

std::atomic<int64_t> allocations{0}, fail_at{0};
std::atomic<bool> for_ever{false};

bool fails() {
  const int64_t n = ++allocations, at = fail_at;
  if (at == 0 || (for_ever ? n < at : n != at)) return false;
  errno = ENOMEM;
  return true;
}

}  // namespace

extern "C" {
void* malloc(size_t n) { return fails() ? nullptr : __libc_malloc(n); }
void* calloc(size_t n, size_t size) { return fails() ? nullptr : __libc_calloc(n, size); }
void* realloc(void* p, size_t n) { return fails() ? nullptr : __libc_realloc(p, n); }
void* memalign(size_t align, size_t n) { return fails() ? nullptr : __libc_memalign(align, n); }
void* aligned_alloc(size_t align, size_t n) { return memalign(align, n); }
int posix_memalign(void** out, size_t align, size_t n) {
  void* p = memalign(align, n);
  if (p == nullptr) return ENOMEM;
  *out = p;
  return 0;
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
  int64_t kept;  // bytes more in use than before
};

Outcome attempt(const fs::path& model, const fs::path& place, int64_t at, bool ever) {
  fs::remove_all(place);
  fs::create_directories(place);
  const auto before = static_cast<int64_t>(mallinfo2().uordblks + mallinfo2().hblkhd);
  allocations = 0;
  for_ever = ever;
  fail_at = at;
  const bool done = run(model, place);
  fail_at = 0;
  return {done, static_cast<int64_t>(mallinfo2().uordblks + mallinfo2().hblkhd) - before};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const fs::path model = argv[1], place = argv[2];
  const int64_t step = argc > 3 ? std::atoll(argv[3]) : 1;
  awq::set_threads(1);
  attempt(model, place, 0, false);
  const Outcome whole = attempt(model, place, 0, false);
  const int64_t total = allocations;
  std::printf("%lld allocations in one job, %lld bytes kept\n", static_cast<long long>(total),
              static_cast<long long>(whole.kept));
  int64_t jobs = 0, refused = 0, leaks = whole.done && whole.kept == 0 ? 0 : 1;
  for (int64_t at = 1; at <= total; at += step)
    for (const bool ever : {false, true}) {
      attempt(model, place, at, ever);
      const Outcome again = attempt(model, place, at, ever);
      ++jobs;
      refused += !again.done;
      if (again.kept <= 0) continue;
      ++leaks;
      std::printf("allocation %lld%s: %lld bytes kept\n", static_cast<long long>(at), ever ? "+" : "",
                  static_cast<long long>(again.kept));
    }
  std::printf("%lld jobs, %lld refused, %lld with a leak\n", static_cast<long long>(jobs),
              static_cast<long long>(refused), static_cast<long long>(leaks));
  return leaks == 0 ? 0 : 1;
}
