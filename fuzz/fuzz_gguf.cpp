// GGUF: keys and tensors lie inside the file; what is made from them (configuration, vocabulary, weights)
// either works or is refused.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>

#include "checkpoint/gguf_config.h"
#include "checkpoint/gguf_vocab.h"
#include "formats/gguf.h"
#include "model/config.h"
#include "target.h"
#include "tokenizer/spec.h"

using namespace awq;
using fuzz::require;

namespace {

void read_value(const GgufFile& file, const std::string& key, const GgufValue& value) {
  require(file.value(key) == &value);
  fuzz::accepts([&] {
    switch (value.kind) {
      case GgufKind::kString:
        require(file.text(key)->size() == value.text.size());
        break;
      case GgufKind::kBool:
        file.boolean(key);
        break;
      case GgufKind::kF32:
      case GgufKind::kF64:
        file.real(key);
        break;
      case GgufKind::kArray:
        require(value.count >= 0);
        if (value.element == GgufKind::kString)
          require(file.texts(key).size() == static_cast<size_t>(value.count));
        else if (value.element == GgufKind::kF32 || value.element == GgufKind::kF64)
          require(file.reals(key).size() == static_cast<size_t>(value.count));
        else
          require(file.integers(key).size() == static_cast<size_t>(value.count));
        break;
      default:
        file.integer(key);
    }
  });
}

void read_tensor(const GgufFile& file, const GgufTensor& t, size_t size) {
  require(t.offset >= 0 && t.bytes >= 0 && t.bytes <= static_cast<int64_t>(size) &&
          t.offset <= static_cast<int64_t>(size) - t.bytes);
  require(file.find(t.name) == &t);
  const auto bytes = file.bytes(t);
  const int64_t n = numel(t.shape);
  require(n / t.type->block * t.type->block_bytes == t.bytes);
  if (n == 0 || n > 4096 || t.type->plain() || t.type->dequantize == nullptr) return;
  std::vector<float> weights(static_cast<size_t>(n));
  dequantize_block_type(*t.type, bytes.data(), weights.data(), n, "file");
}

void read_model(const GgufFile& file) {
  const GgufValue* name = file.value("general.architecture");
  const GgufArch* arch = name != nullptr ? find_gguf_arch(name->text) : nullptr;
  if (arch == nullptr) return;
  for (const GgufTensor& t : file.tensors()) hf_tensor_name(*arch, t.name);
  nlohmann::ordered_json config;
  if (fuzz::accepts([&] { config = config_from_gguf(file, *arch); }))
    fuzz::accepts([&] { parse_model_config(config, "file"); });
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::shared_ptr<const GgufFile> file;
  if (!fuzz::accepts([&] { file = GgufFile::parse({fuzz::file_of(fuzz::text_of(data, size))}); })) return 0;
  for (const auto& [key, value] : file->values()) read_value(*file, key, value);
  for (const GgufTensor& t : file->tensors()) read_tensor(*file, t, size);
  // What is made from the header costs most: an eighth of the files, always the same ones, go on.
  if (std::hash<std::string_view>{}(fuzz::text_of(data, size)) % 8 != 0) return 0;
  read_model(*file);
  std::optional<GgufVocab> vocab;
  if (fuzz::accepts([&] { vocab = gguf_vocab(*file); }) && vocab)
    fuzz::accepts(
        [&] { read_tokenizer_json(tokenizer_files_from_gguf(*vocab, 64, "file").tokenizer_json, "file"); });
  return 0;
}

namespace {

struct Piece {
  size_t begin, end;  // one key and value, or one tensor's line
};

// The pieces of a header, as far as it makes sense.
class Walk {
 public:
  Walk(const uint8_t* data, size_t size) : data_(data), size_(size) {
    at_ = 24;
    const uint64_t tensors = number(8, 8), values = number(16, 8);
    for (uint64_t i = 0; i < values && i < 256 && at_ < size_; ++i) {
      const size_t begin = at_;
      skip_string();
      const uint64_t kind = number(at_, 4);
      at_ += 4;
      skip_value(kind);
      if (at_ > size_) return;
      values_.push_back({begin, at_});
    }
    for (uint64_t i = 0; i < tensors && i < 256 && at_ < size_; ++i) {
      const size_t begin = at_;
      skip_string();
      const uint64_t dims = number(at_, 4);
      at_ += 4 + 8 * std::min<uint64_t>(dims, 8) + 12;
      if (at_ > size_) return;
      tensors_.push_back({begin, at_});
    }
  }
  const std::vector<Piece>& values() const { return values_; }
  const std::vector<Piece>& tensors() const { return tensors_; }
  const std::vector<size_t>& lengths() const {
    return lengths_;
  }  // where u64 lengths of strings and arrays stand

 private:
  uint64_t number(size_t at, size_t bytes) const {
    uint64_t n = 0;
    if (at + bytes <= size_) std::memcpy(&n, data_ + at, bytes);
    return n;
  }
  void skip_string() {
    lengths_.push_back(at_);
    at_ += 8 + std::min<uint64_t>(number(at_, 8), size_);
  }
  void skip_value(uint64_t kind) {
    static constexpr size_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (kind == 8) return skip_string();
    if (kind != 9) {
      at_ += kind < std::size(kBytes) ? kBytes[kind] : 1;
      return;
    }
    const uint64_t element = number(at_, 4), count = number(at_ + 4, 8);
    lengths_.push_back(at_ + 4);
    at_ += 12;
    for (uint64_t i = 0; i < count && at_ < size_; ++i) skip_value(element);
  }

  const uint8_t* data_;
  size_t size_, at_;
  std::vector<Piece> values_, tensors_;
  std::vector<size_t> lengths_;
};

void add_to_count(uint8_t* data, size_t at, uint64_t by) {
  uint64_t n;
  std::memcpy(&n, data + at, 8);
  n += by;
  std::memcpy(data + at, &n, 8);
}

// Copies, removes or moves a piece of one list, and counts it.
size_t change_list(uint8_t* data, size_t size, size_t max_size, const std::vector<Piece>& list,
                   size_t count_at, std::minstd_rand& rng) {
  const Piece piece = list[rng() % list.size()];
  const size_t length = piece.end - piece.begin;
  if (rng() % 2 == 0) {
    std::memmove(data + piece.begin, data + piece.end, size - piece.end);
    add_to_count(data, count_at, ~uint64_t{0});
    return size - length;
  }
  if (size + length > max_size) return size;
  const std::vector<uint8_t> copy(data + piece.begin, data + piece.end);
  const size_t at = list[rng() % list.size()].begin;
  std::memmove(data + at + length, data + at, size - at);
  std::memcpy(data + at, copy.data(), length);
  // Keys and names must differ to be accepted: change a byte of this one.
  if (length > 8)
    data[at + 8 + rng() % std::min<size_t>(length - 8, 12)] ^= static_cast<uint8_t>(1 + rng() % 31);
  add_to_count(data, count_at, 1);
  return size + length;
}

// A string or array of another length, its bytes moved with it.
size_t change_length(uint8_t* data, size_t size, size_t max_size, size_t at, std::minstd_rand& rng) {
  uint64_t n;
  std::memcpy(&n, data + at, 8);
  if (rng() % 4 == 0 || n > size || at + 8 + n > size) {
    n = fuzz::interesting_number(rng());
    std::memcpy(data + at, &n, 8);
    return size;
  }
  const size_t begin = at + 8, tail = size - begin - n, length = rng() % 2 == 0 ? n / 2 : n + 1 + rng() % 8;
  if (begin + length + tail > max_size) return size;
  std::memmove(data + begin + length, data + begin + n, tail);
  if (length > n) std::memset(data + begin + n, static_cast<int>('a' + rng() % 26), length - n);
  const uint64_t stored = length;
  std::memcpy(data + at, &stored, 8);
  return begin + length + tail;
}

}  // namespace

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  std::minstd_rand rng(seed);
  if (size < 32 || rng() % 3 == 0) return LLVMFuzzerMutate(data, size, max_size);
  const Walk walk(data, size);
  switch (rng() % 5) {
    case 0:
      if (!walk.values().empty()) return change_list(data, size, max_size, walk.values(), 16, rng);
      break;
    case 1:
      if (!walk.tensors().empty()) return change_list(data, size, max_size, walk.tensors(), 8, rng);
      break;
    case 2:
      if (!walk.lengths().empty()) {
        const size_t at = walk.lengths()[rng() % walk.lengths().size()];
        if (at + 8 <= size) return change_length(data, size, max_size, at, rng);
      }
      break;
    case 3: {  // any field of a piece
      const auto& list = rng() % 2 == 0 ? walk.values() : walk.tensors();
      if (list.empty()) break;
      const Piece piece = list[rng() % list.size()];
      const size_t width = size_t{1} << rng() % 4;
      if (piece.end - piece.begin < width) break;
      const uint64_t n = fuzz::interesting_number(rng());
      std::memcpy(data + piece.begin + rng() % (piece.end - piece.begin - width + 1), &n, width);
      return size;
    }
    default: {  // data behind the header
      const size_t more = rng() % 64;
      if (size + more > max_size) break;
      std::memset(data + size, 1, more);
      return size + more;
    }
  }
  return LLVMFuzzerMutate(data, size, max_size);
}
