// What the program does when malloc fails: its own operator new, and its own list of thread_local objects to
// destroy.
//
// Destructors may need memory too (nlohmann's JSON flattens itself while it is destroyed), and there a failed
// allocation would end the process without a word. So when malloc fails, moderate requests are served from a
// reserve and the job is told to stop at its next step; the second half of the reserve is for the way out.
#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <new>

#include "base/progress.h"

namespace {

constexpr size_t kReserve = size_t{16} << 20;  // never touched, so never resident, until it is needed
constexpr size_t kLargest = size_t{1} << 20;
constexpr size_t kAlignment = alignof(std::max_align_t);
alignas(kAlignment) char reserve[kReserve];
std::atomic<size_t> used{0};

void* from_reserve(size_t bytes) {
  if (bytes > kLargest) return nullptr;
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const size_t limit = std::uncaught_exceptions() > 0 ? kReserve : kReserve / 2;
  size_t at = used.load();
  do
    if (at + rounded > limit) return nullptr;
  while (!used.compare_exchange_weak(at, at + rounded));
  return reserve + at;
}

void* malloc_or_reserve(size_t bytes) {
  if (void* p = std::malloc(bytes > 0 ? bytes : 1)) return p;
  awq::note_out_of_memory();
  return from_reserve(bytes);
}

void give_back(void* p) {
  if (p < static_cast<void*>(reserve) || p >= static_cast<void*>(reserve + kReserve)) std::free(p);
}

// A thread_local object of the thread whose list it is in.
struct ThreadObject {
  void (*destroy)(void*);
  void* object;
  ThreadObject* made_before;
};

pthread_key_t thread_objects;  // one of the first 32 keys: setting it allocates nothing
pthread_once_t thread_objects_once = PTHREAD_ONCE_INIT;

void destroy_thread_objects(void* last) {
  for (auto* entry = static_cast<ThreadObject*>(last); entry != nullptr;) {
    ThreadObject* const before = entry->made_before;
    entry->destroy(entry->object);
    give_back(entry);
    entry = before;
  }
}

void make_thread_objects_key() {
  if (pthread_key_create(&thread_objects, destroy_thread_objects) != 0) std::terminate();
}

}  // namespace

void* operator new(size_t bytes) {
  if (void* p = malloc_or_reserve(bytes)) return p;
  throw std::bad_alloc();
}

void operator delete(void* p) noexcept { give_back(p); }
void operator delete(void* p, size_t) noexcept { give_back(p); }

// What compiled code calls when a thread_local object with a destructor has been made (Itanium C++ ABI,
// section 3.3.6.3). The C library's ends the process when it finds no 32 bytes to note the object in; here
// the object then lives as long as the process. The main thread's live that long anyway.
extern "C" int __cxa_thread_atexit(void (*destroy)(void*), void* object, void* /*library*/) noexcept {
  pthread_once(&thread_objects_once, make_thread_objects_key);
  void* const place = malloc_or_reserve(sizeof(ThreadObject));
  if (place == nullptr) return 0;
  auto* const entry = new (place)
      ThreadObject{destroy, object, static_cast<ThreadObject*>(pthread_getspecific(thread_objects))};
  if (pthread_setspecific(thread_objects, entry) != 0) give_back(entry);
  return 0;
}
