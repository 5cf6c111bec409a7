// Reading of tokenizer files with errors that say where something is wrong. For this room's .cpp files.
#pragma once
#include <simdjson.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace awq {

template <class Value>
struct Named {
  std::string_view name;
  Value value;
};

// One JSON value and how to reach it, so that every error can say where it is.
class JsonNode {
  using element = simdjson::dom::element;

 public:
  JsonNode(element value, std::string path, const std::string& where)
      : value_(value), path_(std::move(path)), where_(&where) {}

  [[noreturn]] void bad(std::string_view expected) const {
    fail(Code::kBadFile, "{}: {}: expected {}, got {}", *where_, path_, expected, kind());
  }
  [[noreturn]] void unsupported(std::string_view what, std::string_view supported) const {
    fail(Code::kUnsupported, "{}: {}: {} is not supported (supported: {})", *where_, path_, what, supported);
  }
  const std::string& path() const { return path_; }
  bool is_null() const { return value_.is_null(); }
  bool is_array() const { return value_.is_array(); }
  bool is_string() const { return value_.is_string(); }

  simdjson::dom::object as_object() const {
    simdjson::dom::object o;
    if (value_.get(o)) bad("an object");
    return o;
  }
  simdjson::dom::array as_array() const {
    simdjson::dom::array a;
    if (value_.get(a)) bad("an array");
    return a;
  }
  std::string as_string() const {
    std::string_view s;
    if (value_.get(s)) bad("a string");
    return std::string(s);
  }
  int64_t as_int(int64_t most = INT32_MAX) const {
    int64_t i;
    if (value_.get(i) || i < 0 || i > most) bad(fmt::format("a number from 0 to {}", most));
    return i;
  }
  double as_number() const {
    double d;
    if (value_.get(d)) bad("a number");
    return d;
  }
  JsonNode child(element value, std::string_view name) const {
    return {value, path_.empty() ? std::string(name) : fmt::format("{}.{}", path_, name), *where_};
  }
  std::vector<JsonNode> items() const {
    std::vector<JsonNode> out;
    size_t i = 0;
    for (element e : as_array()) out.push_back({e, fmt::format("{}[{}]", path_, i++), *where_});
    return out;
  }
  // Absent and null are the same here.
  std::optional<JsonNode> find(std::string_view key) const {
    element e;
    if (as_object().at_key(key).get(e) || e.is_null()) return std::nullopt;
    return child(e, key);
  }
  JsonNode at(std::string_view key) const {
    if (auto n = find(key)) return *n;
    fail(Code::kBadFile, "{}: {}: expected a field '{}', got none", *where_,
         path_.empty() ? "top level" : path_, key);
  }
  bool flag(std::string_view key, bool otherwise) const {
    const auto n = find(key);
    if (!n) return otherwise;
    bool b;
    if (n->value_.get(b)) n->bad("true or false");
    return b;
  }
  template <class Table>
  auto choose(const Table& table, std::string_view what) const {
    const std::string name = as_string();
    std::string names;
    for (const auto& row : table) {
      if (row.name == name) return row.value;
      names += names.empty() ? "" : ", ";
      names += row.name;
    }
    unsupported(fmt::format("{} '{}'", what, name), names);
  }

 private:
  std::string kind() const {
    using simdjson::dom::element_type;
    switch (value_.type()) {
      case element_type::ARRAY:
        return "an array";
      case element_type::OBJECT:
        return "an object";
      case element_type::STRING:
        return "a string";
      case element_type::BOOL:
        return "true or false";
      case element_type::NULL_VALUE:
        return "null";
      default:
        return simdjson::minify(value_);
    }
  }
  element value_;
  std::string path_;
  const std::string* where_;
};

}  // namespace awq
