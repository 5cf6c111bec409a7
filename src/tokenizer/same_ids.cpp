#include "tokenizer/same_ids.h"

namespace awq {
namespace {

constexpr const char* kProbe =
    "The tide of 1,024 boats\n\n\tdef area(w, h): return w * h  # m\u00b2 \u2014 \u7e41\u9ad4\u4e2d\u6587, "
    "\u0440\u0443\u0441\u0441\u043a\u0438\u0439 "
    "\U0001f600 don't  <|im_start|>user\n</s>";

}  // namespace

bool same_ids(const Tokenizer& a, const Tokenizer& b) {
  return a.encode(kProbe, true) == b.encode(kProbe, true);
}

}  // namespace awq
