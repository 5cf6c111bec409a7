#include "text/json_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "base/error.h"
#include "text/json_pattern.h"
#include "text/json_rules.h"

namespace awq {
namespace {

using Json = nlohmann::ordered_json;
using Part = GrammarBuilder::Part;

// Keywords that restrict and are not understood: leaving one out would let through what the schema forbids.
constexpr const char* kRefused[] = {"oneOf",
                                    "not",
                                    "if",
                                    "then",
                                    "else",
                                    "dependentRequired",
                                    "dependentSchemas",
                                    "dependencies",
                                    "patternProperties",
                                    "propertyNames",
                                    "contains",
                                    "minContains",
                                    "maxContains",
                                    "multipleOf",
                                    "minProperties",
                                    "maxProperties",
                                    "unevaluatedItems",
                                    "unevaluatedProperties",
                                    "$dynamicRef",
                                    "$recursiveRef"};
constexpr const char* kTypes[] = {"object", "array", "string", "integer", "number", "boolean", "null"};

// One schema of the document, and how to name it in an error.
struct Place {
  const Json& schema;
  std::string path;  // "/properties/age"
  size_t depth;

  Place down(const Json& inner, const std::string& step) const {
    return {inner, path + "/" + step, depth + 1};
  }
  Place operator/(const char* key) const { return down(schema.at(key), key); }
  template <class... Args>
  [[noreturn]] void fail(Code code, fmt::format_string<Args...> format, Args&&... args) const {
    awq::fail(code, "the JSON schema at {}: {}", path.empty() ? "its root" : path,
              fmt::format(format, std::forward<Args>(args)...));
  }
};

class Compiler {
 public:
  Compiler(const Json& document, size_t max_states)
      : document_(document), b_(max_states), root_(b_.new_rule()), json_(b_) {}

  std::shared_ptr<const Grammar> compile() {
    b_.define(root_, value({document_, "", 0}));
    while (!pending_.empty()) {
      const auto [pointer, rule] = pending_.back();
      pending_.pop_back();
      const Json* target = find(pointer);
      b_.define(rule, value({*target, pointer, 0}));
    }
    auto grammar = std::make_shared<Grammar>(b_.finish());
    check_references(*grammar);
    return grammar;
  }

 private:
  Part value(const Place& at) {
    if (at.depth > kMaxSchemaDepth)
      at.fail(Code::kBadArgument, "schemas are nested more than {} deep", kMaxSchemaDepth);
    const Json& s = at.schema;
    if (s.is_boolean()) {
      if (!s.get<bool>()) at.fail(Code::kBadArgument, "nothing fits the schema false");
      return json_.any_value();
    }
    if (!s.is_object()) at.fail(Code::kBadArgument, "expected an object or true, got {}", s.type_name());
    for (const char* keyword : kRefused)
      if (s.contains(keyword)) at.fail(Code::kUnsupported, "the keyword '{}' is not supported", keyword);
    if (s.contains("uniqueItems") && s["uniqueItems"] != false)
      at.fail(Code::kUnsupported, "the keyword 'uniqueItems' is not supported");
    if (s.contains("$ref")) return alone(at, "$ref"), reference(at / "$ref");
    if (s.contains("anyOf")) return alone(at, "anyOf"), any_of(at / "anyOf");
    if (s.contains("allOf")) return alone(at, "allOf"), all_of(at / "allOf");
    if (s.contains("const") || s.contains("enum")) return literals(at);
    std::vector<Part> parts;
    for (const std::string& type : types_of(at)) parts.push_back(of_type(at, type));
    return parts.size() == 1 ? parts.front() : b_.choice(parts);
  }

  // Keywords that restrict beside `keyword` would have to hold as well.
  void alone(const Place& at, const char* keyword) const {
    static const std::set<std::string> others = {"type",
                                                 "properties",
                                                 "required",
                                                 "items",
                                                 "prefixItems",
                                                 "minItems",
                                                 "maxItems",
                                                 "enum",
                                                 "const",
                                                 "minLength",
                                                 "maxLength",
                                                 "pattern",
                                                 "minimum",
                                                 "maximum",
                                                 "exclusiveMinimum",
                                                 "exclusiveMaximum",
                                                 "anyOf",
                                                 "allOf",
                                                 "$ref"};
    for (const auto& [key, _] : at.schema.items())
      if (key != keyword && others.count(key) != 0)
        at.fail(Code::kUnsupported, "'{}' beside '{}' is not supported", key, keyword);
    if (at.schema.contains("additionalProperties"))
      at.fail(Code::kUnsupported, "'additionalProperties' beside '{}' is not supported", keyword);
  }

  std::vector<std::string> types_of(const Place& at) const {
    const Json& s = at.schema;
    if (!s.contains("type")) return implied_types(s);
    const Json& type = s["type"];
    std::vector<std::string> out;
    for (const Json& t : type.is_array() ? type : Json::array({type})) {
      const bool known = t.is_string() && std::find(std::begin(kTypes), std::end(kTypes),
                                                    t.get<std::string>()) != std::end(kTypes);
      if (!known) at.fail(Code::kBadArgument, "expected a type of JSON, got {}", t.dump());
      out.push_back(t.get<std::string>());
    }
    if (out.empty()) at.fail(Code::kBadArgument, "'type' is an empty list: nothing fits");
    return out;
  }

  // A schema without a type accepts values of any; what it says about some types is taken as meant for those.
  static std::vector<std::string> implied_types(const Json& s) {
    const auto has = [&](std::initializer_list<const char*> keys) {
      return std::any_of(keys.begin(), keys.end(), [&](const char* key) { return s.contains(key); });
    };
    std::vector<std::string> out;
    if (has({"properties", "required", "additionalProperties"})) out.push_back("object");
    if (has({"items", "prefixItems", "minItems", "maxItems"})) out.push_back("array");
    if (has({"minLength", "maxLength", "pattern"})) out.push_back("string");
    if (has({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})) out.push_back("number");
    if (out.empty()) out.push_back("any");
    return out;
  }

  Part of_type(const Place& at, const std::string& type) {
    if (type == "object") return object(at);
    if (type == "array") return array(at);
    if (type == "string") return string(at);
    if (type == "integer") return json_.integer(range(at, true));
    if (type == "number") return json_.number(range(at, false));
    if (type == "boolean") return b_.choice({b_.text("true"), b_.text("false")});
    if (type == "null") return b_.text("null");
    return json_.any_value();
  }

  // A rule of its own: where a value stands in several places, one copy serves all.
  int32_t rule_of(const Place& at) {
    const int32_t rule = b_.new_rule();
    b_.define(rule, value(at));
    return rule;
  }

  Part object(const Place& at) {
    const Json& s = at.schema;
    struct Property {
      std::string key;
      int32_t rule;
      bool required;
    };
    std::vector<Property> all;
    if (s.contains("properties")) {
      const Place properties = at / "properties";
      if (!properties.schema.is_object()) properties.fail(Code::kBadArgument, "expected an object");
      for (const auto& [key, schema] : properties.schema.items())
        all.push_back({key, schema == false ? -1 : rule_of(properties.down(schema, key)), false});
    }
    for (const std::string& key : required(at)) {
      auto it = std::find_if(all.begin(), all.end(), [&](const Property& p) { return p.key == key; });
      if (it == all.end()) it = all.insert(all.end(), {key, additional(at, key), false});
      it->required = true;
      if (it->rule < 0) at.fail(Code::kBadArgument, "the property '{}' is required and forbidden", key);
    }
    std::erase_if(all, [](const Property& p) { return p.rule < 0; });
    if (all.empty() && !(s.contains("additionalProperties") && s["additionalProperties"] == false)) {
      const int32_t rule = additional(at, "");
      return json_.map([&] { return b_.call(rule); });
    }

    // Two rows of states: nothing written yet, and something; the second writes a comma first.
    const Part open = b_.sequence({b_.text("{"), json_.space()});
    int32_t empty = open.out, begun = b_.state();
    for (const Property& p : all) {
      const int32_t next_empty = b_.state(), next_begun = b_.state();
      const auto entry = [&] {
        return b_.sequence({b_.text(Json(p.key).dump() + ":"), json_.space(), b_.call(p.rule)});
      };
      const auto write = [&](int32_t from, Part part) {
        b_.connect(from, part.in);
        b_.connect(part.out, next_begun);
      };
      write(empty, entry());
      write(begun, b_.sequence({b_.text(","), json_.space(), entry()}));
      if (!p.required) {
        b_.connect(empty, next_empty);
        b_.connect(begun, next_begun);
      }
      empty = next_empty;
      begun = next_begun;
    }
    const Part close = b_.text("}"), spaced = b_.sequence({json_.space(), b_.text("}")});
    b_.connect(empty, close.in);
    b_.connect(begun, spaced.in);
    b_.connect(spaced.out, close.out);
    return {open.in, close.out};
  }

  std::vector<std::string> required(const Place& at) const {
    std::vector<std::string> keys;
    if (!at.schema.contains("required")) return keys;
    const Place list = at / "required";
    if (!list.schema.is_array()) list.fail(Code::kBadArgument, "expected a list of names");
    for (const Json& key : list.schema) {
      if (!key.is_string()) list.fail(Code::kBadArgument, "expected a list of names, got {}", key.dump());
      keys.push_back(key.get<std::string>());
    }
    return keys;
  }

  // The rule of a property that is not listed.
  int32_t additional(const Place& at, const std::string& key) {
    if (!at.schema.contains("additionalProperties")) {
      static const Json any = true;
      return rule_of({any, at.path, at.depth});
    }
    const Place schema = at / "additionalProperties";
    if (schema.schema == false)
      at.fail(Code::kBadArgument, "the property '{}' is required, but additionalProperties is false", key);
    return rule_of(schema);
  }

  Part array(const Place& at) {
    const Json& s = at.schema;
    const int64_t least = count(at, "minItems", 0);
    int64_t most = count(at, "maxItems", -1);
    std::vector<Part> first;
    if (s.contains("prefixItems")) {
      const Place list = at / "prefixItems";
      if (!list.schema.is_array()) list.fail(Code::kBadArgument, "expected a list of schemas");
      for (size_t i = 0; i < list.schema.size(); ++i)
        first.push_back(value(list.down(list.schema[i], std::to_string(i))));
    }
    GrammarBuilder::Maker more = [this] { return json_.any_value(); };
    if (s.contains("items")) {
      const Place items = at / "items";
      if (items.schema == false) {
        more = nullptr;
        const auto fixed = static_cast<int64_t>(first.size());
        most = most < 0 ? fixed : std::min(most, fixed);
      } else {
        const int32_t rule = rule_of(items);
        more = [this, rule] { return b_.call(rule); };
      }
    }
    if (most >= 0 && least > most)
      at.fail(Code::kBadArgument, "at least {} items and at most {}: nothing fits", least, most);
    return json_.array(first, more, least, most);
  }

  Part string(const Place& at) {
    const int64_t least = count(at, "minLength", 0), most = count(at, "maxLength", -1);
    if (most >= 0 && least > most)
      at.fail(Code::kBadArgument, "at least {} characters and at most {}: nothing fits", least, most);
    if (!at.schema.contains("pattern")) return json_.string(least, most);
    const Place pattern = at / "pattern";
    if (least > 0 || most >= 0)
      at.fail(Code::kUnsupported, "'pattern' beside 'minLength' or 'maxLength' is not supported");
    if (!pattern.schema.is_string()) pattern.fail(Code::kBadArgument, "expected a string");
    try {
      return b_.sequence(
          {b_.text("\""), json_pattern(b_, json_, pattern.schema.get<std::string>()), b_.text("\"")});
    } catch (const Error& error) {
      pattern.fail(error.code(), "{}", error.what());
    }
  }

  NumberRange range(const Place& at, bool whole) const {
    NumberRange r;
    const auto take = [&](const char* key, bool is_low, bool exclusive) {
      if (!at.schema.contains(key)) return;
      const Place limit = at / key;
      if (!limit.schema.is_number())
        limit.fail(Code::kBadArgument, "expected a number, got {}", limit.schema.dump());
      const double x = limit.schema.get<double>();
      const bool is_whole = x == std::floor(x);
      if (!is_whole && !whole)
        limit.fail(Code::kUnsupported, "limits of numbers must be whole, got {}", limit.schema.dump());
      const double rounded = std::clamp(is_low ? std::ceil(x) : std::floor(x), -1e18, 1e18);
      const auto n = limit.schema.is_number_integer() && std::abs(x) < 1e18 ? limit.schema.get<int64_t>()
                                                                            : static_cast<int64_t>(rounded);
      const bool out = exclusive && is_whole;
      auto& bound = is_low ? r.low : r.high;
      bool& open = is_low ? r.above_low : r.below_high;
      const bool tighter = !bound || (is_low ? n > *bound : n < *bound);
      if (tighter || n == *bound) open = tighter ? out : open || out;
      if (tighter) bound = n;
    };
    take("minimum", true, false);
    take("exclusiveMinimum", true, true);
    take("maximum", false, false);
    take("exclusiveMaximum", false, true);
    return r;
  }

  int64_t count(const Place& at, const char* key, int64_t otherwise) const {
    if (!at.schema.contains(key)) return otherwise;
    const Place n = at / key;
    const double x = n.schema.is_number() ? n.schema.get<double>() : -1;
    if (x < 0 || x != std::floor(x) || x > static_cast<double>(GrammarBuilder::kMaxStates))
      n.fail(Code::kBadArgument, "expected a whole number from 0 to {}, got {}", GrammarBuilder::kMaxStates,
             n.schema.dump());
    return static_cast<int64_t>(x);
  }

  Part any_of(const Place& at) {
    if (!at.schema.is_array() || at.schema.empty()) at.fail(Code::kBadArgument, "expected a list of schemas");
    std::vector<Part> parts;
    for (size_t i = 0; i < at.schema.size(); ++i)
      parts.push_back(value(at.down(at.schema[i], std::to_string(i))));
    return b_.choice(parts);
  }

  Part all_of(const Place& at) {
    if (!at.schema.is_array() || at.schema.empty()) at.fail(Code::kBadArgument, "expected a list of schemas");
    if (at.schema.size() > 1) at.fail(Code::kUnsupported, "'allOf' of more than one schema is not supported");
    return value(at.down(at.schema[0], "0"));
  }

  // The values that are listed, of those types that are.
  Part literals(const Place& at) {
    const Json& s = at.schema;
    static const std::set<std::string> beside = {
        "properties", "required",         "items",           "prefixItems", "minItems",
        "maxItems",   "minLength",        "maxLength",       "pattern",     "minimum",
        "maximum",    "exclusiveMinimum", "exclusiveMaximum"};
    for (const auto& [key, _] : s.items())
      if (beside.count(key) != 0)
        at.fail(Code::kUnsupported, "'{}' beside 'enum' or 'const' is not supported", key);
    Json values = Json::array();
    if (s.contains("const")) values.push_back(s["const"]);
    if (s.contains("enum")) {
      const Place list = at / "enum";
      if (!list.schema.is_array()) list.fail(Code::kBadArgument, "expected a list of values");
      if (!s.contains("const")) values = list.schema;
      if (s.contains("const") &&
          std::find(list.schema.begin(), list.schema.end(), s["const"]) == list.schema.end())
        values.clear();
    }
    std::vector<Part> parts;
    const std::vector<std::string> types = s.contains("type") ? types_of(at) : std::vector<std::string>();
    for (const Json& v : values)
      if (types.empty() ||
          std::any_of(types.begin(), types.end(), [&](const auto& t) { return is_of_type(v, t); }))
        parts.push_back(b_.text(v.dump()));
    if (parts.empty()) at.fail(Code::kBadArgument, "no value fits");
    return b_.choice(parts);
  }

  static bool is_of_type(const Json& v, const std::string& type) {
    if (type == "object") return v.is_object();
    if (type == "array") return v.is_array();
    if (type == "string") return v.is_string();
    if (type == "integer") return v.is_number() && v.get<double>() == std::floor(v.get<double>());
    if (type == "number") return v.is_number();
    if (type == "boolean") return v.is_boolean();
    return v.is_null();
  }

  Part reference(const Place& at) {
    if (!at.schema.is_string()) at.fail(Code::kBadArgument, "expected a string");
    const std::string ref = at.schema.get<std::string>();
    if (!ref.starts_with('#'))
      at.fail(Code::kUnsupported, "only references into this schema ('#/...') are followed, got '{}'", ref);
    const std::string pointer = ref.substr(1);
    if (pointer.empty()) return b_.call(root_);
    const auto [it, is_new] = references_.try_emplace(pointer, -1);
    if (is_new) {
      if (find(pointer) == nullptr) at.fail(Code::kBadArgument, "'{}' is not in the schema", ref);
      it->second = b_.new_rule();
      pending_.emplace_back(pointer, it->second);
    }
    return b_.call(it->second);
  }

  const Json* find(const std::string& pointer) const {
    try {
      const Json::json_pointer p(pointer);
      return document_.contains(p) ? &document_.at(p) : nullptr;
    } catch (const Json::exception&) {
      return nullptr;
    }
  }

  // A rule that comes back to itself before it has read a byte would go on for ever.
  static void check_references(const Grammar& grammar) {
    enum : uint8_t { kNew, kOpen, kDone };
    std::vector<uint8_t> marks(grammar.rules.size(), kNew);
    const std::function<void(size_t)> visit = [&](size_t rule) {
      if (marks[rule] == kDone) return;
      if (marks[rule] == kOpen)
        fail(Code::kBadArgument, "the JSON schema refers to itself without anything between");
      marks[rule] = kOpen;
      std::vector<int32_t> open = {grammar.rules[rule].start};
      std::set<int32_t> seen(open.begin(), open.end());
      while (!open.empty()) {
        const int32_t state = open.back();
        open.pop_back();
        for (const Grammar::Edge& edge : grammar.states[static_cast<size_t>(state)]) {
          if (edge.low >= 0) continue;
          if (edge.rule >= 0)
            visit(static_cast<size_t>(
                edge.rule));  // and white space may be empty, so what follows is visited too
          if (seen.insert(edge.to).second) open.push_back(edge.to);
        }
      }
      marks[rule] = kDone;
    };
    for (size_t rule = 0; rule < grammar.rules.size(); ++rule) visit(rule);
  }

  const Json& document_;
  GrammarBuilder b_;
  int32_t root_;
  JsonRules json_;
  std::map<std::string, int32_t> references_;
  std::vector<std::pair<std::string, int32_t>> pending_;
};

}  // namespace

size_t json_depth(std::string_view json) {
  size_t depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if ((c == '}' || c == ']') && depth > 0) {
      --depth;
    }
  }
  return deepest;
}

std::shared_ptr<const Grammar> json_object_grammar() {
  GrammarBuilder builder;
  const int32_t root = builder.new_rule();
  JsonRules rules(builder);
  builder.define(root, rules.any_object());
  return std::make_shared<Grammar>(builder.finish());
}

std::shared_ptr<const Grammar> json_schema_grammar(std::string_view schema, size_t max_states) {
  if (schema.size() > kMaxSchemaBytes)
    fail(Code::kBadArgument, "the JSON schema has {} bytes: expected at most {}", schema.size(),
         kMaxSchemaBytes);
  // A schema within another takes at most three levels of JSON ("properties", its name, "anyOf" and the
  // like).
  if (const size_t depth = json_depth(schema); depth > 3 * kMaxSchemaDepth)
    fail(Code::kBadArgument, "the JSON schema is nested {} deep: expected at most {}", depth,
         3 * kMaxSchemaDepth);
  Json document;
  try {
    document = Json::parse(schema);
  } catch (const Json::exception&) {
    fail(Code::kBadArgument, "the JSON schema is not JSON");
  }
  return Compiler(document, max_states).compile();
}

}  // namespace awq
