#include "runtime/logprobs.h"

#include <algorithm>
#include <cmath>

namespace awq {

TokenLogprobs token_logprobs(std::span<const float> logits, int32_t token, int32_t top) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - largest);
  const double log_sum = std::log(sum) + largest;
  const auto entry = [&](int32_t id) {
    return TokenLogprob{id, static_cast<float>(logits[static_cast<size_t>(id)] - log_sum)};
  };
  TokenLogprobs out{entry(token), {}};
  // The smallest of the kept ones is at the front of a heap.
  const auto better = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::vector<int32_t> best;
  for (int32_t id = 0; id < static_cast<int32_t>(logits.size()) && top > 0; ++id) {
    if (static_cast<int32_t>(best.size()) == top) {
      if (!better(id, best.front())) continue;
      std::pop_heap(best.begin(), best.end(), better);
      best.pop_back();
    }
    best.push_back(id);
    std::push_heap(best.begin(), best.end(), better);
  }
  std::sort_heap(best.begin(), best.end(), better);
  for (const int32_t id : best) out.top.push_back(entry(id));
  return out;
}

}  // namespace awq
