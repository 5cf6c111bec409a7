#include "base/error.h"

namespace awq {

const char* code_name(Code code) {
  switch (code) {
    case Code::kBadFile: return "bad_file";
    case Code::kBadArgument: return "bad_argument";
    case Code::kUnsupported: return "unsupported";
    case Code::kNotFound: return "not_found";
    case Code::kExists: return "exists";
    case Code::kIo: return "io";
    case Code::kNoSpace: return "no_space";
    case Code::kNoMemory: return "no_memory";
    case Code::kCancelled: return "cancelled";
    case Code::kInternal: return "internal";
  }
  return "internal";
}

void check_internal(bool ok, const char* what) {
  if (!ok) fail(Code::kInternal, "internal error: {} (please report this)", what);
}

}  // namespace awq
