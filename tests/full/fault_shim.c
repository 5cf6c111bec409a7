// Preloaded into awq by faults.py: makes the n-th allocation fail (FAULT_ALLOCATION=n, or n+ for it and all after it), or
// makes every write short (FAULT_SHORT=bytes). FAULT_COUNT=file receives the number of allocations at exit.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);

static atomic_long allocations;
static long fail_at;
static int for_ever;
static size_t longest = (size_t)-1;

__attribute__((constructor)) static void start(void) {
  const char* at = getenv("FAULT_ALLOCATION");
  const char* bytes = getenv("FAULT_SHORT");
  if (bytes) longest = strtoul(bytes, NULL, 10);
  if (!at) return;
  char* end;
  for_ever = 0;
  const long n = strtol(at, &end, 10);
  for_ever = *end == '+';
  fail_at = n;
}

__attribute__((destructor)) static void stop(void) {
  const char* path = getenv("FAULT_COUNT");
  if (!path) return;
  const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
  char text[32];
  const int n = snprintf(text, sizeof text, "%ld\n", atomic_load(&allocations));
  if (write(fd, text, (size_t)n) != n) _exit(99);
  close(fd);
}

static int fails(void) {
  const long n = atomic_fetch_add(&allocations, 1) + 1;
  if (fail_at == 0 || (for_ever ? n < fail_at : n != fail_at)) return 0;
  errno = ENOMEM;
  return 1;
}

void* malloc(size_t n) { return fails() ? NULL : __libc_malloc(n); }
void* calloc(size_t n, size_t size) { return fails() ? NULL : __libc_calloc(n, size); }
void* realloc(void* p, size_t n) { return fails() ? NULL : __libc_realloc(p, n); }
void* memalign(size_t align, size_t n) { return fails() ? NULL : __libc_memalign(align, n); }
void* aligned_alloc(size_t align, size_t n) { return memalign(align, n); }
int posix_memalign(void** out, size_t align, size_t n) {
  void* p = memalign(align, n);
  if (p == NULL) return ENOMEM;
  *out = p;
  return 0;
}

ssize_t pwrite(int fd, const void* data, size_t n, off_t offset) {
  static ssize_t (*next)(int, const void*, size_t, off_t);
  if (!next) next = (ssize_t(*)(int, const void*, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
  return next(fd, data, n < longest ? n : longest, offset);
}
ssize_t pwrite64(int fd, const void* data, size_t n, off_t offset) { return pwrite(fd, data, n, offset); }
ssize_t write(int fd, const void* data, size_t n) {
  static ssize_t (*next)(int, const void*, size_t);
  if (!next) next = (ssize_t(*)(int, const void*, size_t))dlsym(RTLD_NEXT, "write");
  return next(fd, data, n < longest ? n : longest);
}
