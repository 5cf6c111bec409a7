// Typed access to the members of a JSON object, with errors that name file, key and value.
#pragma once
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"

namespace awq {

class ConfigReader {
 public:
  using Json = nlohmann::ordered_json;
  ConfigReader(const Json& json, const std::string& where) : json_(json), where_(where) {}

  bool has(const char* key) const { return json_.contains(key); }  // null included
  // Null counts as absent.
  const Json* find(const char* key) const {
    const auto it = json_.find(key);
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }
  double number(const char* key, double fallback) const {
    const Json* v = find(key);
    if (v == nullptr) return fallback;
    if (!v->is_number()) wrong(key, "a number", *v);
    return v->get<double>();
  }
  int64_t size(const char* key, int64_t fallback) const {
    const double value = number(key, static_cast<double>(fallback));
    if (value != std::floor(value) || value < 0 || value > 1e12)
      fail(Code::kBadFile, "{}: '{}': expected a whole number, got {}", where_, key, value);
    return static_cast<int64_t>(value);
  }
  int64_t positive(const char* key, int64_t fallback) const {
    const int64_t value = size(key, fallback);
    if (value <= 0)
      fail(Code::kBadFile, "{}: '{}': expected a positive number, got {}", where_, key, find(key) ? "0" : "nothing");
    return value;
  }
  int64_t required(const char* key) const { return positive(key, 0); }
  bool flag(const char* key, bool fallback) const {
    const Json* v = find(key);
    if (v == nullptr) return fallback;
    if (!v->is_boolean()) wrong(key, "true or false", *v);
    return v->get<bool>();
  }
  std::string text(const char* key, const std::string& fallback) const {
    const Json* v = find(key);
    if (v == nullptr) return fallback;
    if (!v->is_string()) wrong(key, "a string", *v);
    return v->get<std::string>();
  }
  // Of positive numbers.
  std::vector<double> numbers(const char* key, size_t count) const {
    const Json* v = find(key);
    if (v == nullptr || !v->is_array() || v->size() != count)
      fail(Code::kBadFile, "{}: '{}': expected a list of {} numbers, got {}", where_, key, count,
           v == nullptr ? "nothing" : v->is_array() ? std::to_string(v->size()) : v->dump());
    std::vector<double> out;
    for (const Json& e : *v) {
      if (!e.is_number() || !(e.get<double>() > 0)) wrong(key, "positive numbers", e);
      out.push_back(e.get<double>());
    }
    return out;
  }
  [[noreturn]] void wrong(const char* key, const char* expected, const Json& got) const {
    fail(Code::kBadFile, "{}: '{}': expected {}, got {}", where_, key, expected, got.dump());
  }

 private:
  const Json& json_;
  const std::string& where_;
};

}  // namespace awq
