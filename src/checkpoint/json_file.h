// JSON files of a checkpoint, parsed within bounds: a limit on size and nesting, so that a hostile file
// cannot exhaust memory or the stack.
#pragma once
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace awq {

// kBadFile names `where`, line and column. The result keeps the file's key order.
nlohmann::ordered_json parse_json(std::string_view text, const std::string& where);
// An object; kNotFound when the file is missing.
nlohmann::ordered_json read_json_object(const std::filesystem::path& path);

}  // namespace awq
