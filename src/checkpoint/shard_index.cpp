#include "checkpoint/shard_index.h"

#include <simdjson.h>

#include "base/error.h"
#include "base/printable.h"

namespace awq {
namespace {

// A shard is a file of this very directory: a name with a separator or ".." could reach anywhere.
void check_shard_name(const std::string& where, std::string_view tensor, std::string_view shard) {
  const bool plain = shard.find_first_of("/\\") == std::string::npos &&
                     shard.find("..") == std::string::npos && shard.find('\0') == std::string::npos;
  if (!plain || !shard.ends_with(".safetensors"))
    fail(Code::kBadFile, "{}: weight_map of '{}': expected the plain name of a .safetensors file, got '{}'",
         where, printable(tensor), printable(shard));
}

}  // namespace

ShardIndex parse_shard_index(std::string_view text, const std::string& where) {
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  if (const auto error = parser.parse(text.data(), text.size(), true).get(root))
    fail(Code::kBadFile, "{}: expected JSON, got {}", where, simdjson::error_message(error));
  simdjson::dom::object map;
  if (root["weight_map"].get(map))
    fail(Code::kBadFile, "{}: expected an object 'weight_map' from tensors to files", where);
  ShardIndex out;
  int64_t size = 0;
  if (root["metadata"]["total_size"].get(size) == simdjson::SUCCESS) out.total_size = size;
  for (const auto& [tensor, value] : map) {
    std::string_view shard;
    if (value.get(shard))
      fail(Code::kBadFile, "{}: weight_map of '{}': expected a file name", where, printable(tensor));
    check_shard_name(where, tensor, shard);
    if (!out.weight_map.emplace(tensor, shard).second)
      fail(Code::kBadFile, "{}: weight_map: tensor '{}' occurs twice", where, printable(tensor));
  }
  return out;
}

}  // namespace awq
