// Overflow-checked arithmetic for sizes that come from files: every product or sum of such numbers goes
// through here and throws kBadFile instead of wrapping.
#pragma once
#include <concepts>
#include <cstdint>
#include <string_view>

#include "base/error.h"

namespace awq {

// `where`, which begins the message, is a string or, when it costs something to make, a function that makes it.
template <class Where>
int64_t checked_mul(int64_t a, int64_t b, const Where& where) {
  int64_t r;
  if (a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, &r)) return r;
  if constexpr (std::invocable<Where>)
    fail(Code::kBadFile, "{}: size {} x {} overflows 63 bits", where(), a, b);
  else
    fail(Code::kBadFile, "{}: size {} x {} overflows 63 bits", std::string_view(where), a, b);
}

template <class Where>
int64_t checked_add(int64_t a, int64_t b, const Where& where) {
  int64_t r;
  if (a >= 0 && b >= 0 && !__builtin_add_overflow(a, b, &r)) return r;
  if constexpr (std::invocable<Where>)
    fail(Code::kBadFile, "{}: size {} + {} overflows 63 bits", where(), a, b);
  else
    fail(Code::kBadFile, "{}: size {} + {} overflows 63 bits", std::string_view(where), a, b);
}

}  // namespace awq
