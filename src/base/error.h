// The one exception type of the library. Messages follow "where: expected X, got Y" and name file, tensor and
// offset where there are any. The library never prints and never aborts; cli/ and server/ turn an Error into
// an exit status or an HTTP status.
#pragma once
#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace awq {

// Stable: users and tests match on these names (see code_name).
enum class Code {
  kBadFile,      // a file's content is not what its format demands
  kBadArgument,  // the caller asked for something impossible (a group size that does not divide, ...)
  kUnsupported,  // valid, but not supported here (an architecture, a tensor type)
  kNotFound,     // a file, tensor or key is missing
  kExists,       // would overwrite something
  kIo,           // the operating system refused a read or write
  kNoSpace,      // too little disk
  kNoMemory,     // too little memory
  kCancelled,    // stopped by the user
  kInternal,     // a bug in awq
};
const char* code_name(Code code);

class Error : public std::runtime_error {
 public:
  Error(Code code, std::string message) : std::runtime_error(std::move(message)), code_(code) {}
  Code code() const { return code_; }

 private:
  Code code_;
};

template <class... Args>
[[noreturn]] void fail(Code code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

// Throws kInternal: for states only a bug in awq can reach. Input data is never checked with this.
void check_internal(bool ok, const char* what);

}  // namespace awq
