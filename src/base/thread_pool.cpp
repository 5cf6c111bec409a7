#include "base/thread_pool.h"

#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace awq {
namespace {

// One loop being run; lives on the caller's stack.
struct Job {
  Job(Borrowed<int64_t> each, int64_t count) : body(each), n(count) {}

  const Borrowed<int64_t> body;
  const int64_t n;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  std::mutex error_mutex;

  void work() {
    while (!failed.load(std::memory_order_relaxed)) {
      const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= n) return;
      try {
        body(i);
      } catch (...) {
        std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
        failed = true;
      }
    }
  }
};

thread_local bool inside_loop = false;

// Both sides of a loop spin before they sleep: a decode step runs hundreds of loops of a few microseconds,
// and a futex wake costs more than most of them. About 100 us; hardly at all where threads outnumber the
// cores and a spinning one keeps the one it waits for from running.
constexpr int kSpins = 3000, kSpinsWhenCrowded = 20;

class Pool {
 public:
  explicit Pool(int workers) : spins_(workers < available_cores() ? kSpins : kSpinsWhenCrowded) {
    for (int i = 0; i < workers; ++i) threads_.emplace_back([this] { worker(); });
  }
  ~Pool() {
    job_ = nullptr;
    start();
    for (auto& t : threads_) t.join();
  }
  int workers() const { return static_cast<int>(threads_.size()); }

  void run(Job& job) {
    running_.store(workers(), std::memory_order_relaxed);
    job_ = &job;
    start();
    job.work();
    for (int spin = 0; running_.load(std::memory_order_acquire) != 0; ++spin) {
      if (spin < spins_) {
        _mm_pause();
      } else if (const int left = running_.load(); left != 0) {
        waiting_.store(true);
        running_.wait(left);
        waiting_.store(false);
      }
    }
  }

 private:
  // job_ is written before and read after a change of generation_, and workers are done with it before run()
  // returns.
  void start() {
    generation_.fetch_add(1);
    if (sleeping_.load() > 0) generation_.notify_all();
  }
  void worker() {
    inside_loop = true;
    uint32_t seen = 0;
    for (;;) {
      for (int spin = 0; generation_.load(std::memory_order_acquire) == seen && spin < spins_; ++spin)
        _mm_pause();
      if (generation_.load() == seen) {
        sleeping_.fetch_add(1);
        generation_.wait(seen);  // looks once more: a start between the two lines is not missed
        sleeping_.fetch_sub(1);
      }
      seen = generation_.load(std::memory_order_acquire);
      if (job_ == nullptr) return;
      job_->work();
      running_.fetch_sub(1);
      if (waiting_.load()) running_.notify_one();
    }
  }

  const int spins_;
  std::vector<std::thread> threads_;
  // Apart, so that waiting for one does not slow writing another.
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<int> running_{0};
  alignas(64) std::atomic<int> sleeping_{0};
  std::atomic<bool> waiting_{false};
  Job* job_ = nullptr;
};

std::mutex pool_mutex;  // one loop at a time; also guards the two below
std::unique_ptr<Pool> pool;
int wanted_threads = 0;

// cgroup v2 "max 100000" or "200000 100000": quota and period in microseconds.
int cgroup_cores() {
  std::ifstream in("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (!(in >> quota >> period) || quota == "max" || period <= 0) return 1 << 20;
  return std::max(1, static_cast<int>(std::stod(quota) / period + 0.5));
}

}  // namespace

int available_cores() {
  static const int cores = [] {
    cpu_set_t set;
    CPU_ZERO(&set);
    const int affinity = sched_getaffinity(0, sizeof set, &set) == 0
                             ? CPU_COUNT(&set)
                             : static_cast<int>(std::thread::hardware_concurrency());
    return std::max(1, std::min(affinity, cgroup_cores()));
  }();
  return cores;
}

void set_threads(int n) {
  std::lock_guard lock(pool_mutex);
  wanted_threads = std::max(1, n);
  if (pool && pool->workers() != wanted_threads - 1) pool.reset();
}

int threads() {
  if (inside_loop) return 1;
  std::lock_guard lock(pool_mutex);
  return wanted_threads > 0 ? wanted_threads : available_cores();
}

void parallel_for(int64_t n, Borrowed<int64_t> body) {
  if (n <= 0) return;
  if (n == 1 || inside_loop) {
    for (int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  Job job(body, n);
  {
    std::lock_guard lock(pool_mutex);
    const int count = wanted_threads > 0 ? wanted_threads : available_cores();
    inside_loop = true;
    if (count > 1) {
      if (!pool) pool = std::make_unique<Pool>(count - 1);
      pool->run(job);
    } else {
      job.work();
    }
    inside_loop = false;
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace awq
