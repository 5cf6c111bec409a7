// SentencePiece .model files: what is accepted encodes and decodes any text with ids of its vocabulary.
#include <algorithm>
#include <random>
#include <vector>

#include "target.h"
#include "tokenizer/spec.h"

using namespace awq;
using fuzz::require;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::shared_ptr<const Tokenizer> tokenizer;
  if (!fuzz::accepts([&] {
        tokenizer = make_tokenizer(spec_from_sentencepiece(fuzz::text_of(data, size), "file"), "file");
      }))
    return 0;
  for (const std::string_view text : {"a  ab b<s>", "\xff \xc3\xa9\xe2\x96\x81\xef\xac\x81"}) {
    fuzz::accepts([&] {
      const std::vector<int32_t> ids = tokenizer->encode(text, true);
      for (const int32_t id : ids) require(id >= 0 && id < tokenizer->vocab_size());
      tokenizer->decode(ids, false);
      for (const int32_t id : ids) tokenizer->token_bytes(id);
    });
  }
  return 0;
}

namespace {

// The fields of a protocol buffer message with payloads of known length; bytes that are none stay as they
// are.
struct Field {
  size_t begin, payload, end;
};

std::vector<Field> fields_of(const uint8_t* data, size_t size) {
  std::vector<Field> out;
  for (size_t at = 0; at + 1 < size;) {
    const size_t begin = at, length = data[at + 1];
    if ((data[at] & 7) != 2 || length >= 128 || at + 2 + length > size) break;
    at += 2 + length;
    out.push_back({begin, begin + 2, at});
  }
  return out;
}

}  // namespace

// Changes the inside of one top-level field and puts its length right, or copies or drops one.
size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  std::minstd_rand rng(seed);
  const std::vector<Field> fields = fields_of(data, size);
  if (fields.empty() || rng() % 4 == 0) return LLVMFuzzerMutate(data, size, max_size);
  const Field f = fields[rng() % fields.size()], other = fields[rng() % fields.size()];
  std::vector<uint8_t> piece(data + f.begin, data + f.end);
  size_t from = f.begin, to = f.end;  // what `piece` takes the place of
  switch (rng() % 4) {
    case 0:
      piece.clear();
      break;
    case 1:
      from = to = other.begin;
      break;
    default: {
      const size_t length = piece.size() - 2;
      piece.resize(2 + 127);
      const size_t changed = LLVMFuzzerMutate(piece.data() + 2, length, 127);
      piece.resize(2 + changed);
      piece[1] = static_cast<uint8_t>(changed);
    }
  }
  std::vector<uint8_t> out(data, data + from);
  out.insert(out.end(), piece.begin(), piece.end());
  out.insert(out.end(), data + to, data + size);
  if (out.size() > max_size) return size;
  std::copy(out.begin(), out.end(), data);
  return out.size();
}
