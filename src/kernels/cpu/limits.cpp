#include "kernels/limits.h"

#include <algorithm>
#include <cstring>

#include "base/system.h"
#include "base/thread_pool.h"
#include "kernels/cpu/int8_table.h"
#include "tensor/tensor.h"

namespace awq {
namespace {

constexpr int kRounds = 5;

// Seconds of the fastest of a few runs of `body` on all threads.
double fastest(Borrowed<int64_t> body) {
  double best = 1e9;
  for (int i = 0; i < kRounds; ++i) {
    const double start = now_seconds();
    parallel_for(threads(), body);
    best = std::min(best, now_seconds() - start);
  }
  return best;
}

}  // namespace

MachineLimits measure_limits(int64_t bytes) {
  const simd::Int8Table& table = simd::int8_table();
  MachineLimits limits;
  limits.int8_set = table.tiles ? simd::int8_avx512vnni().name : table.name;

  constexpr int64_t kLoops = 2000000;
  int64_t ops = 0;
  const double dot_seconds = fastest([&](int64_t i) {
    const int64_t done = table.dot_loop(kLoops);
    if (i == 0) ops = done;
  });
  limits.int8_ops_per_s = static_cast<double>(ops) * threads() / dot_seconds;

  const int64_t part = bytes / threads() / 4096 * 4096;
  const auto memory = allocate_aligned(part * threads());
  parallel_for(threads(),
               [&](int64_t i) { std::memset(memory.get() + i * part, 0, static_cast<size_t>(part)); });
  for (const bool streams : {false, true}) {
    const double seconds = fastest([&](int64_t i) { table.read(memory.get() + i * part, part, streams); });
    limits.read_bytes_per_s =
        std::max(limits.read_bytes_per_s, static_cast<double>(part * threads()) / seconds);
  }
  return limits;
}

}  // namespace awq
