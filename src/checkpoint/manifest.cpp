#include "checkpoint/manifest.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/sha256.h"
#include "base/system.h"
#include "checkpoint/json_file.h"
#include "base/printable.h"

namespace awq {
namespace fs = std::filesystem;
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kSchemaFamily = "awq.manifest/";
constexpr std::string_view kSchema = "awq.manifest/1";

// JSON has no NaN: a figure that was not measured is null.
ordered_json number_json(double value) {
  return std::isfinite(value) ? ordered_json(value) : ordered_json(nullptr);
}

ordered_json check_json(const Manifest::Check& c) {
  return {{"text", c.text},
          {"tokens", c.tokens},
          {"kl", number_json(c.kl)},
          {"kl_ci95", number_json(c.kl_ci95)},
          {"top1_agreement", number_json(c.top1_agreement)},
          {"perplexity_source", number_json(c.perplexity_source)},
          {"perplexity", number_json(c.perplexity)},
          {"worst", c.worst}};
}

// Typed access to an object's fields; every error names the file and the field.
class Fields {
 public:
  Fields(const ordered_json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object())
      fail(Code::kBadFile, "{}: expected an object, got {}", where_, object.type_name());
  }
  const ordered_json& get(const char* key) const {
    const auto it = object_.find(key);
    if (it == object_.end()) fail(Code::kBadFile, "{}: '{}' is missing", where_, key);
    return *it;
  }
  std::string text(const char* key) const {
    const ordered_json& v = get(key);
    if (!v.is_string()) wrong(key, "a string", v);
    return v.get<std::string>();
  }
  int64_t count(const char* key) const {
    const ordered_json& v = get(key);
    if (!v.is_number_integer() || (v.is_number_unsigned() && v.get<uint64_t>() > INT64_MAX) ||
        v.get<int64_t>() < 0)
      wrong(key, "a count", v);
    return v.get<int64_t>();
  }
  double number(const char* key) const {
    const ordered_json& v = get(key);
    if (v.is_null()) return std::nan("");
    if (!v.is_number()) wrong(key, "a number or null", v);
    return v.get<double>();
  }
  const ordered_json& list(const char* key) const {
    const ordered_json& v = get(key);
    if (!v.is_array()) wrong(key, "a list", v);
    return v;
  }
  Fields object(const char* key) const { return Fields(get(key), fmt::format("{}: {}", where_, key)); }
  const std::string& where() const { return where_; }

 private:
  [[noreturn]] void wrong(const char* key, const char* expected, const ordered_json& got) const {
    fail(Code::kBadFile, "{}: '{}': expected {}, got {}", where_, key, expected, printable(got.dump(), 60));
  }
  const ordered_json& object_;
  std::string where_;
};

Manifest::Check parse_check(const Fields& f) {
  Manifest::Check c;
  c.text = f.text("text");
  c.tokens = f.count("tokens");
  c.kl = f.number("kl");
  c.kl_ci95 = f.number("kl_ci95");
  c.top1_agreement = f.number("top1_agreement");
  c.perplexity_source = f.number("perplexity_source");
  c.perplexity = f.number("perplexity");
  c.worst = f.text("worst");
  return c;
}

// Names come from a file and are opened: nothing may lead out of the directory.
Manifest::File parse_file(const Fields& f) {
  Manifest::File file{f.text("name"), f.count("bytes"), f.text("sha256")};
  const std::string& name = file.name;
  if (name.empty() || name == "." || name == ".." || name.find('/') != name.npos ||
      name.find('\0') != name.npos)
    fail(Code::kBadFile, "{}: file name '{}': expected a plain file name", f.where(), printable(name));
  if (file.sha256.size() != 64 || file.sha256.find_first_not_of("0123456789abcdef") != std::string::npos)
    fail(Code::kBadFile, "{}: sha256 of '{}': expected 64 hexadecimal digits", f.where(), printable(name));
  return file;
}

std::string element(const std::string& where, const char* list, size_t i) {
  return fmt::format("{}: {}[{}]", where, list, i);
}

}  // namespace

std::string manifest_json(const Manifest& m) {
  ordered_json json = {
      {"schema", kSchema},
      {"tool", m.tool},
      {"source",
       {{"name", m.source.name}, {"format", m.source.format}, {"fingerprint", m.source.fingerprint}}}};
  json["calibration"] = nullptr;
  if (const auto& c = m.calibration)
    json["calibration"] = {
        {"name", c->name}, {"sha256", c->sha256}, {"samples", c->samples}, {"tokens", c->tokens}};
  json["method"] = m.method;
  json["scheme"] = m.scheme;
  json["format"] = m.format;
  json["options"] = ordered_json::object();
  for (const auto& [key, value] : m.options) json["options"][key] = value;
  json["check"] = m.check ? check_json(*m.check) : ordered_json(nullptr);
  json["layers"] = ordered_json::array();
  for (const Manifest::Layer& l : m.layers)
    json["layers"].push_back({{"module", l.module},
                              {"scheme", l.scheme},
                              {"relative_error", number_json(l.relative_error)},
                              {"chosen", l.chosen}});
  json["files"] = ordered_json::array();
  for (const Manifest::File& f : m.files)
    json["files"].push_back({{"name", f.name}, {"bytes", f.bytes}, {"sha256", f.sha256}});
  const auto text = [&] { return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n"; };
  json["digest"] = sha256_hex(text());
  return text();
}

Manifest parse_manifest(std::string_view text, const std::string& where) {
  const ordered_json json = parse_json(text, where);
  const Fields f(json, where);
  const std::string schema = f.text("schema");
  if (schema != kSchema)
    fail(schema.starts_with(kSchemaFamily) ? Code::kUnsupported : Code::kBadFile,
         "{}: expected schema {}, got '{}'", where, kSchema, printable(schema));

  Manifest m;
  m.tool = f.text("tool");
  const Fields source = f.object("source");
  m.source = {source.text("name"), source.text("format"), source.text("fingerprint")};
  if (!f.get("calibration").is_null()) {
    const Fields c = f.object("calibration");
    m.calibration = {c.text("name"), c.text("sha256"), c.count("samples"), c.count("tokens")};
  }
  m.method = f.text("method");
  m.scheme = f.text("scheme");
  m.format = f.text("format");
  const Fields options = f.object("options");
  for (const auto& [key, value] : f.get("options").items())
    m.options.emplace_back(key, options.text(key.c_str()));
  if (!f.get("check").is_null()) m.check = parse_check(f.object("check"));
  const ordered_json& layers = f.list("layers");
  for (size_t i = 0; i < layers.size(); ++i) {
    const Fields l(layers[i], element(where, "layers", i));
    m.layers.push_back({l.text("module"), l.text("scheme"), l.number("relative_error"), l.text("chosen")});
  }
  const ordered_json& files = f.list("files");
  for (size_t i = 0; i < files.size(); ++i)
    m.files.push_back(parse_file(Fields(files[i], element(where, "files", i))));
  return m;
}

Manifest read_manifest(const fs::path& dir) {
  const fs::path path = dir / kManifestFile;
  return parse_manifest(read_json_text(path), path.string());
}

bool holds_manifest(const fs::path& dir) {
  std::error_code ec;
  const fs::path path = dir / kManifestFile;
  if (!fs::is_regular_file(path, ec)) return false;
  try {
    const ordered_json json = read_json_object(path);
    const auto schema = json.find("schema");
    return schema != json.end() && schema->is_string() && schema->get<std::string>().starts_with(kSchemaFamily);
  } catch (const Error& error) {
    if (error.code() != Code::kBadFile) throw;
    return false;
  }
}

std::vector<FileFinding> verify_files(const fs::path& dir) {
  using Kind = FileFinding::Kind;
  const Manifest manifest = read_manifest(dir);
  std::vector<FileFinding> findings;
  std::set<std::string> listed{kManifestFile};
  for (const Manifest::File& f : manifest.files) {
    listed.insert(f.name);
    const fs::path path = dir / f.name;
    std::error_code ec;
    if (!fs::is_regular_file(path, ec)) {
      findings.push_back({Kind::kMissing, f.name, "the file is missing"});
      continue;
    }
    const auto bytes = static_cast<int64_t>(fs::file_size(path, ec));
    if (ec) fail(Code::kIo, "{}: cannot read its size: {}", path.string(), ec.message());
    if (bytes != f.bytes) {
      findings.push_back({Kind::kSize, f.name, fmt::format("expected {} bytes, got {}", f.bytes, bytes)});
    } else if (const std::string digest = sha256_file(path); digest != f.sha256) {
      findings.push_back(
          {Kind::kContent, f.name, fmt::format("expected SHA-256 {}, got {}", f.sha256, digest)});
    }
  }
  std::set<std::string> unlisted;
  std::error_code ec;
  for (fs::directory_iterator it(dir, ec), end; !ec && it != end; it.increment(ec)) {
    std::string name = it->path().filename().string();
    if (!listed.contains(name)) unlisted.insert(std::move(name));
  }
  if (ec) fail(Code::kIo, "{}: cannot list it: {}", dir.string(), ec.message());
  for (const std::string& name : unlisted)
    findings.push_back({Kind::kUnlisted, name, "the manifest does not name it"});
  return findings;
}

}  // namespace awq
