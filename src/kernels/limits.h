// What this machine can do at most with the threads in use, measured: what speeds are compared with.
#pragma once
#include <cstdint>
#include <string>

namespace awq {

struct MachineLimits {
  double read_bytes_per_s = 0;  // from memory: the better of a plain and a four-stream prefetching reader
  double int8_ops_per_s = 0;    // 8-bit multiply-adds in vector registers, two operations each
  std::string int8_set;         // instruction set of that product
};

// `bytes` are allocated and read by all threads; more than the caches hold, or the figure is theirs.
MachineLimits measure_limits(int64_t bytes = int64_t{1} << 30);

}  // namespace awq
