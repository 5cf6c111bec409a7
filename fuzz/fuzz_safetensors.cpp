// safetensors headers: what is accepted lies inside the file without gap or overlap, and written again it
// reads the same.
#include <algorithm>
#include <cstring>
#include <random>

#include "formats/safetensors.h"
#include "target.h"

using namespace awq;
using fuzz::require;

namespace {

void check_bounds(const SafetensorsFile& file, std::string_view bytes) {
  uint64_t header;
  std::memcpy(&header, bytes.data(), 8);
  auto end = static_cast<int64_t>(8 + header);
  for (const SafetensorsEntry& e : file.entries()) {
    require(e.offset == end && e.bytes >= 0);
    end += e.bytes;
    require(file.find(e.name) == &e);
    if (!e.dtype) continue;
    const Tensor tensor = file.tensor(e);
    require(tensor.nbytes() == e.bytes && tensor.shape() == e.shape);
    if (e.bytes > 0) {
      require(tensor.bytes()[0] == std::byte(bytes[static_cast<size_t>(e.offset)]));
      require(tensor.bytes()[e.bytes - 1] == std::byte(bytes[static_cast<size_t>(end - 1)]));
    }
  }
  require(end == static_cast<int64_t>(bytes.size()));
}

void check_round_trip(const SafetensorsFile& file) {
  std::vector<SafetensorsSpec> specs;
  int64_t data = 0;
  for (const SafetensorsEntry& e : file.entries()) {
    if (!e.dtype) return;  // nothing writes those
    specs.push_back({e.name, *e.dtype, e.shape});
    data += e.bytes;
  }
  const std::string again =
      safetensors_header(specs, file.metadata()) + std::string(static_cast<size_t>(data), '\0');
  const auto copy = SafetensorsFile::parse(fuzz::file_of(again));
  require(copy->entries().size() == file.entries().size() && copy->metadata() == file.metadata());
  for (const SafetensorsEntry& e : file.entries()) {
    const SafetensorsEntry* c = copy->find(e.name);
    require(c != nullptr && c->dtype == e.dtype && c->shape == e.shape && c->bytes == e.bytes);
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes = fuzz::text_of(data, size);
  std::shared_ptr<const SafetensorsFile> file;
  if (!fuzz::accepts([&] { file = SafetensorsFile::parse(fuzz::file_of(bytes)); })) return 0;
  check_bounds(*file, bytes);
  check_round_trip(*file);
  return 0;
}

// Changes the JSON and puts its length right most of the time, and the size of the data behind it now and
// then.
size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  std::minstd_rand rng(seed);
  if (size < 10 || max_size < 64 || rng() % 16 == 0) return LLVMFuzzerMutate(data, size, max_size);
  uint64_t length;
  std::memcpy(&length, data, 8);
  length = std::min<uint64_t>(length, size - 8);
  size_t tail = std::min<size_t>(size - 8 - length, max_size / 4);
  if (rng() % 8 == 0) {
    tail = rng() % 2 == 0 ? tail + rng() % 9 : tail / 2;
    tail = std::min(tail, max_size / 4);
  } else {
    length = fuzz::mutate_json(data + 8, length, max_size - 8 - tail, static_cast<unsigned>(rng()));
  }
  std::memcpy(data, &length, 8);
  if (8 + length + tail > max_size) tail = max_size - 8 - length;
  std::memset(data + 8 + length, 7, tail);
  return 8 + length + tail;
}
