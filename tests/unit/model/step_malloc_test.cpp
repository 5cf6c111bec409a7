// A step that was warmed up allocates nothing, on stored checkpoints: beside what allocation_test.cpp counts, calls of operator new,
// the aligned memory of the kernels' scratch, which comes from aligned_alloc.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>

#include "base/system.h"
#include "base/thread_pool.h"
#include "unit/model/golden.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && defined(__GLIBC__)

static std::atomic<int64_t> mallocs = 0;

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t n) {
  ++mallocs;
  return __libc_malloc(n);
}
void* calloc(size_t n, size_t size) {
  ++mallocs;
  return __libc_calloc(n, size);
}
void* realloc(void* p, size_t n) {
  ++mallocs;
  return __libc_realloc(p, n);
}
void* aligned_alloc(size_t alignment, size_t n) {
  ++mallocs;
  return __libc_memalign(alignment, n);
}
int posix_memalign(void** out, size_t alignment, size_t n) {
  ++mallocs;
  *out = __libc_memalign(alignment, n);
  return *out == nullptr ? ENOMEM : 0;
}
}

namespace awq::testing {
namespace {

TEST(Mallocs, AreCounted) {
  const int64_t before = mallocs;
  std::free(std::malloc(10));
  delete new volatile int(3);
  EXPECT_EQ(mallocs - before, 2);
}

// One thread: each has memory of its own, which it takes when it first gets a part of the work.
TEST(Mallocs, ADecodingStepMakesNone) {
  const int before_threads = threads();
  set_threads(1);
  for (const char* name : {"llama-tied", "autoawq/quant-config-json"})
    for (const Precision precision : {Precision::kExact, Precision::kBf16, Precision::kFast})
      for (const DType kv : {DType::kF16, DType::kI8})
        for (const int64_t batch : {1, 3}) {
          SCOPED_TRACE(::testing::Message() << name << " " << static_cast<int>(precision) << " " << dtype_name(kv) << " " << batch);
          const auto model = Model::load(*Checkpoint::open(golden_root() / name), {precision, nullptr});
          const ModelConfig& config = model->config();
          KvCache cache(*model, 2 * batch, kv);
          Scratch scratch;
          std::vector<int32_t> tokens(static_cast<size_t>(batch), 7), positions(tokens.size()), pages(2 * tokens.size());
          std::vector<SpanView> spans(tokens.size());
          std::vector<int64_t> lengths(tokens.size(), 32);
          std::vector<float> hidden, logits(tokens.size() * static_cast<size_t>(config.vocab));
          for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
          int64_t counted = 0;
          for (int32_t step = 0; step < 30; ++step) {
            for (int64_t i = 0; i < batch; ++i) {
              positions[static_cast<size_t>(i)] = step;
              spans[static_cast<size_t>(i)] = {i, 1, step, pages.data() + 2 * i};
            }
            const int64_t before = mallocs;
            model->forward({tokens, positions, spans, lengths}, &cache, scratch, hidden);
            model->logits(hidden.data(), batch, logits.data());
            if (step >= 20) counted += mallocs - before;
          }
          EXPECT_EQ(counted, 0);
        }
  set_threads(before_threads);
}

}  // namespace
}  // namespace awq::testing

#endif
