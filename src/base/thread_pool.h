// A persistent pool for loops over independent tiles.
//
// Determinism rule of the project: a tile's result must not depend on which thread runs it, nor on how many
// threads there are. So tiles have fixed shapes, write to disjoint memory, and sums across tiles are formed
// by the caller in a fixed order.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace awq {

// A callable that is only borrowed: unlike std::function it never allocates, and a decode step makes
// hundreds.
template <class... Args>
class Borrowed {
 public:
  template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, Borrowed>)
      Borrowed(const F& f)  // NOLINT: implicit, so that a lambda can be passed
      : object_(&f),
        call_([](const void* object, Args... args) { (*static_cast<const F*>(object))(args...); }) {}
  void operator()(Args... args) const { call_(object_, args...); }

 private:
  const void* object_;
  void (*call_)(const void*, Args...);
};

// Cores this process may use: affinity mask and cgroup v2 quota, at least 1.
int available_cores();

// Number of threads used by parallel_for, the caller included. Default: available_cores(). Within a body it is 1: nested loops
// run serially.
void set_threads(int n);
int threads();

// Calls body(i) once for every i in [0, n), in any order, on any thread; returns when all are done. The first
// exception thrown by a body is rethrown here, remaining tiles are skipped. Nested calls run serially.
void parallel_for(int64_t n, Borrowed<int64_t> body);

// body(begin, end) over chunks of [0, n) worth about 16K element operations each.
inline void parallel_chunks(int64_t n, int64_t elements_each, Borrowed<int64_t, int64_t> body) {
  const int64_t chunk = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, elements_each));
  parallel_for((n + chunk - 1) / chunk, [&](int64_t i) { body(i * chunk, std::min(n, (i + 1) * chunk)); });
}

}  // namespace awq
