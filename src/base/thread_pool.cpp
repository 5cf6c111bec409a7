#include "base/thread_pool.h"

#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
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
  const std::function<void(int64_t)>* body = nullptr;
  int64_t n = 0;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  std::mutex error_mutex;

  void work() {
    while (!failed.load(std::memory_order_relaxed)) {
      const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= n) return;
      try {
        (*body)(i);
      } catch (...) {
        std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
        failed = true;
      }
    }
  }
};

thread_local bool inside_loop = false;

// Workers spin briefly before they sleep: a decode step runs hundreds of short loops, and a futex wake costs
// more than most of them.
constexpr int kSpins = 4000;

class Pool {
 public:
  explicit Pool(int workers) {
    for (int i = 0; i < workers; ++i) threads_.emplace_back([this] { worker(); });
  }
  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    for (auto& t : threads_) t.join();
  }
  int workers() const { return static_cast<int>(threads_.size()); }

  void run(Job& job) {
    running_.store(workers());
    {
      std::lock_guard lock(mutex_);
      job_ = &job;
      generation_.fetch_add(1);
    }
    if (sleeping_.load() > 0) wake_.notify_all();
    job.work();
    for (int spin = 0; running_.load(std::memory_order_acquire) != 0; ++spin) {
      if (spin < kSpins) {
        _mm_pause();
      } else {
        std::unique_lock lock(mutex_);
        done_.wait(lock, [this] { return running_.load() == 0; });
      }
    }
  }

 private:
  void worker() {
    inside_loop = true;
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; generation_.load(std::memory_order_acquire) == seen && spin < kSpins; ++spin) _mm_pause();
      Job* job;
      {
        std::unique_lock lock(mutex_);
        sleeping_.fetch_add(1);
        wake_.wait(lock, [&] { return generation_.load() != seen; });
        sleeping_.fetch_sub(1);
        seen = generation_.load();
        if (stop_) return;
        job = job_;
      }
      job->work();
      if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard lock(mutex_);
        done_.notify_all();
      }
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> running_{0}, sleeping_{0};
  Job* job_ = nullptr;
  bool stop_ = false;
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
    const int affinity = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
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
  std::lock_guard lock(pool_mutex);
  return wanted_threads > 0 ? wanted_threads : available_cores();
}

void parallel_for(int64_t n, const std::function<void(int64_t)>& body) {
  if (n <= 0) return;
  if (n == 1 || inside_loop) {
    for (int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  Job job;
  job.body = &body;
  job.n = n;
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
