// How keys and values lie in a page of an 8-bit cache. Of each key/value head:
//
//   keys    [head_dim / 32][32 lanes][2 keys][8 elements]        a byte each
//   values  [head_dim / 32][32 lanes][4 elements][4 tokens]
//   scales  fp32 [16] of the keys, then [16] of the values
//
// Lane 4 n + c of the warp that reads them has, of every 32 elements, elements 8 c .. 8 c + 7 of keys k = 4 (n / 2) + n % 2 and k + 2, and
// elements n, n + 8, n + 16, n + 24 of the values of tokens 4 c .. 4 c + 3: operands of the tensor cores (attention.cuh) from 512 bytes
// in a row. A byte b of scale s stands for (b - 128) * s, where s is the largest magnitude of the key or value over 127.
#pragma once
#include "kernels/cuda/key_parts.h"

namespace awq::cuda {

// Bytes of all keys, or all values, of a head in a page; of the whole head.
AWQ_HOST_DEVICE constexpr int int8_codes_bytes(int head_dim) { return kCachePage * head_dim; }
AWQ_HOST_DEVICE constexpr int int8_head_bytes(int head_dim) { return 2 * (int8_codes_bytes(head_dim) + kCachePage * 4); }

// Where an element's byte is among those of the keys, or of the values.
AWQ_HOST_DEVICE constexpr int int8_key_at(int token, int element) {
  const int n = token / 4 * 2 + token % 2, c = element % 32 / 8;
  return element / 32 * 512 + (4 * n + c) * 16 + token / 2 % 2 * 8 + element % 8;
}
AWQ_HOST_DEVICE constexpr int int8_value_at(int token, int element) {
  const int n = element % 8, c = token / 4;
  return element / 32 * 512 + (4 * n + c) * 16 + element % 32 / 8 * 4 + token % 4;
}

}  // namespace awq::cuda
