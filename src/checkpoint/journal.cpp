#include "checkpoint/journal.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/sha256.h"
#include "base/thread_pool.h"
#include "checkpoint/json_file.h"
#include "base/printable.h"

namespace awq {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kFamily = "awq.journal/";
constexpr std::string_view kSchema = "awq.journal/1";
constexpr size_t kDigestSize = 64;
constexpr size_t kPiece = size_t{4} << 20;

const ordered_json& field(const ordered_json& object, const char* key, const std::string& where) {
  if (!object.is_object()) fail(Code::kBadFile, "{}: expected an object, got {}", where, object.type_name());
  const auto it = object.find(key);
  if (it == object.end()) fail(Code::kBadFile, "{}: '{}' is missing", where, key);
  return *it;
}

const ordered_json& list_field(const ordered_json& object, const char* key, const std::string& where) {
  const ordered_json& v = field(object, key, where);
  if (!v.is_array()) fail(Code::kBadFile, "{}: '{}': expected a list, got {}", where, key, v.type_name());
  return v;
}

std::string text_field(const ordered_json& object, const char* key, const std::string& where) {
  const ordered_json& v = field(object, key, where);
  if (!v.is_string()) fail(Code::kBadFile, "{}: '{}': expected a string, got {}", where, key, v.type_name());
  return v.get<std::string>();
}

int64_t count_field(const ordered_json& object, const char* key, const std::string& where) {
  const ordered_json& v = field(object, key, where);
  if (!v.is_number_integer() || (v.is_number_unsigned() && v.get<uint64_t>() > INT64_MAX) || v.get<int64_t>() < 0)
    fail(Code::kBadFile, "{}: '{}': expected a count, got {}", where, key, printable(v.dump(), 60));
  return v.get<int64_t>();
}

// Digests become file names: nothing but hexadecimal digits may pass.
std::string digest_field(const ordered_json& object, const std::string& where) {
  std::string digest = text_field(object, "digest", where);
  if (digest.size() != kDigestSize || digest.find_first_not_of("0123456789abcdef") != std::string::npos)
    fail(Code::kBadFile, "{}: 'digest': expected {} hexadecimal digits, got '{}'", where, kDigestSize, printable(digest, 80));
  return digest;
}

// The JSON below a first line that vouches for it.
std::string_view checked_body(std::string_view text, const std::string& where) {
  const size_t line = text.find('\n');
  const std::string_view first = text.substr(0, line);
  const size_t space = first.find(' ');
  if (line == text.npos || space == first.npos || !first.starts_with(kFamily))
    fail(Code::kBadFile, "{}: expected a first line '{} <SHA-256>', got '{}'", where, kSchema, printable(std::string(first), 80));
  if (first.substr(0, space) != kSchema)
    fail(Code::kUnsupported, "{}: expected version {}, got '{}'", where, kSchema, printable(std::string(first.substr(0, space)), 40));
  const std::string_view body = text.substr(line + 1);
  const std::string digest = sha256_hex(body);
  if (first.substr(space + 1) != digest)
    fail(Code::kBadFile, "{}: expected content with SHA-256 {}, got {}", where, printable(std::string(first.substr(space + 1)), 80), digest);
  return body;
}

const std::string* value_of(const JobIdentity& identity, const std::string& name) {
  const auto it = std::find_if(identity.begin(), identity.end(), [&](const auto& f) { return f.first == name; });
  return it == identity.end() ? nullptr : &it->second;
}

}  // namespace

std::string identity_difference(const JobIdentity& begun, const JobIdentity& now) {
  std::string out;
  const auto differ = [&](const std::string& name, const std::string& old_value, const std::string& new_value) {
    out += fmt::format("{}{}: begun with {}, now {}", out.empty() ? "" : "; ", printable(name, 40), printable(old_value, 80),
                       printable(new_value, 80));
  };
  for (const auto& [name, value] : now) {
    const std::string* old_value = value_of(begun, name);
    if (old_value == nullptr || *old_value != value) differ(name, old_value != nullptr ? *old_value : "nothing", value);
  }
  for (const auto& [name, value] : begun)
    if (value_of(now, name) == nullptr) differ(name, value, "nothing");
  return out;
}

std::string journal_text(const JournalRecord& record) {
  ordered_json json = {{"done", record.done}, {"total", record.total}};
  json["identity"] = ordered_json::array();
  for (const auto& [name, value] : record.identity) json["identity"].push_back({{"name", name}, {"value", value}});
  json["tensors"] = ordered_json::array();
  for (const WrittenTensor& t : record.tensors) json["tensors"].push_back({{"name", t.name}, {"digest", t.digest}});
  json["states"] = ordered_json::array();
  for (const StateFile& s : record.states) json["states"].push_back({{"role", s.role}, {"digest", s.digest}, {"bytes", s.bytes}});
  json["report"] = record.report;
  const std::string body = json.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
  return fmt::format("{} {}\n{}", kSchema, sha256_hex(body), body);
}

JournalRecord parse_journal(std::string_view text, const std::string& where) {
  const ordered_json json = parse_json(checked_body(text, where), where);
  JournalRecord record;
  record.done = count_field(json, "done", where);
  record.total = count_field(json, "total", where);
  if (record.total == INT64_MAX || record.done - 1 > record.total)  // neither side can overflow
    fail(Code::kBadFile, "{}: expected at most {} blocks done, got {}", where, record.total, record.done);
  for (const ordered_json& f : list_field(json, "identity", where))
    record.identity.emplace_back(text_field(f, "name", where), text_field(f, "value", where));
  for (const ordered_json& t : list_field(json, "tensors", where))
    record.tensors.push_back({text_field(t, "name", where), digest_field(t, where)});
  for (const ordered_json& s : list_field(json, "states", where))
    record.states.push_back({text_field(s, "role", where), digest_field(s, where), count_field(s, "bytes", where)});
  record.report = text_field(json, "report", where);
  return record;
}

std::string content_digest(std::span<const std::byte> bytes) {
  const size_t pieces = (bytes.size() + kPiece - 1) / kPiece;
  std::vector<std::string> digests(pieces);
  parallel_for(static_cast<int64_t>(pieces), [&](int64_t i) {
    const size_t begin = static_cast<size_t>(i) * kPiece;
    Sha256 hash;
    hash.update(bytes.subspan(begin, std::min(kPiece, bytes.size() - begin)));
    digests[static_cast<size_t>(i)] = hash.hex();
  });
  Sha256 all;
  for (const std::string& digest : digests) all.update(digest);
  return all.hex();
}

}  // namespace awq
