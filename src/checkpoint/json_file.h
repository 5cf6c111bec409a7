// JSON files of a checkpoint, parsed within bounds: limits on size, nesting and keys, so that a hostile file cannot
// exhaust memory, the stack or patience.
#pragma once
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace awq {

// kBadFile names `where`, line and column. The result keeps the file's key order.
nlohmann::ordered_json parse_json(std::string_view text, const std::string& where);
// The text of a file of at most 256 MiB; kNotFound when it is missing.
std::string read_json_text(const std::filesystem::path& path);
// An object; kNotFound when the file is missing.
nlohmann::ordered_json read_json_object(const std::filesystem::path& path);

}  // namespace awq
