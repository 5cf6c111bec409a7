// tokenizer.json: what is accepted encodes and decodes any text with ids of its vocabulary.
#include <algorithm>

#include "target.h"
#include "tokenizer/spec.h"

using namespace awq;
using fuzz::require;

namespace {

// Ids index tables; a lone high one costs a few MB each time, which is allowed but would make this slow.
bool small_ids(const TokenizerSpec& spec) {
  constexpr int32_t kHighest = 4096;
  return std::all_of(spec.model.vocab.begin(), spec.model.vocab.end(),
                     [](const auto& v) { return v.second < kHighest; }) &&
         std::all_of(spec.added_tokens.begin(), spec.added_tokens.end(),
                     [](const AddedToken& t) { return t.id < kHighest; });
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  TokenizerSpec spec;
  if (!fuzz::accepts([&] { spec = read_tokenizer_json(fuzz::text_of(data, size), "file"); }) ||
      !small_ids(spec))
    return 0;
  std::shared_ptr<const Tokenizer> tokenizer;
  if (!fuzz::accepts([&] { tokenizer = make_tokenizer(spec, "file"); })) return 0;
  for (const std::string_view text : {"Hello 12 you'll\n <s> \xe2\x96\x81x", "\xff\x80 ab\xc3\xa9"}) {
    fuzz::accepts([&] {
      const std::vector<int32_t> ids = tokenizer->encode(text, true);
      for (const int32_t id : ids) require(id >= 0 && id < tokenizer->vocab_size());
      tokenizer->decode(ids, false);
      for (const int32_t id : ids) tokenizer->token_bytes(id);
    });
  }
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return fuzz::mutate_json(data, size, max_size, seed);
}
