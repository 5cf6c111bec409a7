// Overflow-checked arithmetic for sizes that come from files: every product or sum of such numbers goes
// through here and throws kBadFile instead of wrapping.
#pragma once
#include <cstdint>
#include <string_view>

#include "base/error.h"

namespace awq {

inline int64_t checked_mul(int64_t a, int64_t b, std::string_view where) {
  int64_t r;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &r))
    fail(Code::kBadFile, "{}: size {} x {} overflows 63 bits", where, a, b);
  return r;
}

inline int64_t checked_add(int64_t a, int64_t b, std::string_view where) {
  int64_t r;
  if (a < 0 || b < 0 || __builtin_add_overflow(a, b, &r))
    fail(Code::kBadFile, "{}: size {} + {} overflows 63 bits", where, a, b);
  return r;
}

}  // namespace awq
