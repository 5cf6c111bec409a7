#include "quant/mixed_plan.h"

#include <nlohmann/json.hpp>
#include <set>

#include "base/printable.h"
#include "checkpoint/json_file.h"

namespace awq {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kSchema = "awq.plan/1";
constexpr int kLargestGroup = 1 << 24;

class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) : where_(path.string()), root_(read_json_object(path)) {}

  MixedPlan read() const {
    if (const Json& schema = at(root_, "schema", where_); schema != kSchema)
      fail(Code::kBadFile, "{}: schema: expected \"{}\", got {}", where_, kSchema, shown(schema));
    MixedPlan plan;
    plan.where = where_;
    if (const auto model = root_.find("model"); model != root_.end() && model->is_string())
      plan.model = model->get<std::string>();
    plan.base = scheme(at(root_, "base", where_), where_ + ": base");
    if (plan.base.bits == kDenseBits) fail(Code::kBadFile, "{}: base: expected 2 to 8 bits, got 16", where_);
    const Json& units = at(root_, "units", where_);
    if (!units.is_array()) fail(Code::kBadFile, "{}: units: expected an array, got {}", where_, shown(units));
    std::set<std::string> named;
    for (size_t i = 0; i < units.size(); ++i) {
      const std::string place = fmt::format("{}: units[{}]", where_, i);
      plan.units.push_back({modules(units[i], place, named), scheme(units[i], place)});
    }
    return plan;
  }

 private:
  static std::string shown(const Json& value) {
    return printable(value.dump(-1, ' ', true, Json::error_handler_t::replace), 60);
  }

  static const Json& at(const Json& object, const char* key, const std::string& place) {
    if (!object.is_object()) fail(Code::kBadFile, "{}: expected an object, got {}", place, shown(object));
    const auto found = object.find(key);
    if (found == object.end())
      fail(Code::kBadFile, "{}: expected the key \"{}\", which is missing", place, key);
    return *found;
  }

  static int64_t integer(const Json& object, const char* key, const std::string& place) {
    const Json& value = at(object, key, place);
    if (!value.is_number_integer())
      fail(Code::kBadFile, "{}: {}: expected a whole number, got {}", place, key, shown(value));
    return value.get<int64_t>();
  }

  static Scheme scheme(const Json& object, const std::string& place) {
    const int64_t bits = integer(object, "bits", place);
    if (bits != kDenseBits && (bits < 2 || bits > 8))
      fail(Code::kBadFile, "{}: bits: expected 2 to 8 or 16, got {}", place, bits);
    if (bits == kDenseBits) return mixed_scheme(kDenseBits, -1, true);
    const int64_t group = integer(object, "group_size", place);
    if (group != -1 && (group < 8 || group > kLargestGroup))
      fail(Code::kBadFile, "{}: group_size: expected -1 (one group per output) or at least 8, got {}", place,
           group);
    bool symmetric = false;
    if (const auto found = object.find("symmetric"); found != object.end()) {
      if (!found->is_boolean())
        fail(Code::kBadFile, "{}: symmetric: expected true or false, got {}", place, shown(*found));
      symmetric = found->get<bool>();
    }
    return mixed_scheme(static_cast<int>(bits), static_cast<int>(group), symmetric);
  }

  static std::vector<std::string> modules(const Json& unit, const std::string& place,
                                          std::set<std::string>& named) {
    const Json& list = at(unit, "modules", place);
    if (!list.is_array() || list.empty())
      fail(Code::kBadFile, "{}: modules: expected a list of names, got {}", place, shown(list));
    std::vector<std::string> out;
    for (const Json& name : list) {
      if (!name.is_string()) fail(Code::kBadFile, "{}: modules: expected names, got {}", place, shown(name));
      out.push_back(name.get<std::string>());
      if (!named.insert(out.back()).second)
        fail(Code::kBadFile, "{}: {} is in two units", place, printable(out.back(), 100));
    }
    return out;
  }

  std::string where_;
  Json root_;
};

Json scheme_json(const Scheme& s) {
  if (s.bits == kDenseBits) return {{"bits", kDenseBits}};
  Json out = {{"bits", s.bits}, {"group_size", s.group}};
  if (s.zero == ZeroKind::kNone) out["symmetric"] = true;
  return out;
}

}  // namespace

Scheme mixed_scheme(int bits, int group, bool symmetric) {
  return {CodeKind::kAffine, bits, group, symmetric || bits >= 8 ? ZeroKind::kNone : ZeroKind::kInteger};
}

MixedPlan read_mixed_plan(const std::filesystem::path& path) { return Reader(path).read(); }

Json mixed_plan_json(const MixedPlan& plan) {
  Json units = Json::array();
  for (const MixedUnit& u : plan.units) {
    Json unit = {{"modules", u.modules}};
    unit.update(scheme_json(u.scheme));
    units.push_back(std::move(unit));
  }
  return {{"schema", kSchema},
          {"model", plan.model},
          {"base", scheme_json(plan.base)},
          {"units", std::move(units)}};
}

}  // namespace awq
