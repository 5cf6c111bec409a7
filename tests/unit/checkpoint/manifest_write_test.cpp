#include "checkpoint/manifest.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "unit/checkpoint/write_fixture.h"

namespace awq {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::small_manifest;
using testing::TempDir;

Manifest with_files() {
  Manifest m = small_manifest();
  m.files = {{"config.json", 2, std::string(64, '0')}};
  return m;
}

TEST(Manifest, IsWrittenInTheDocumentedForm) {
  const auto json = nlohmann::ordered_json::parse(manifest_json(with_files()));
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{"schema", "tool", "source", "calibration", "method", "scheme",
                                            "format", "options", "check", "layers", "files", "digest"}));
  EXPECT_EQ(json["schema"], "awq.manifest/1");
  EXPECT_EQ(json["options"].dump(), R"({"group-size":"auto","calib":"builtin"})");
  EXPECT_EQ(json["check"]["kl"], 0.031);
  EXPECT_EQ(json["layers"][0]["relative_error"], 0.015625);
}

TEST(Manifest, ReadsBackWhatItWrote) {
  Manifest m = with_files();
  const std::string text = manifest_json(m);
  EXPECT_EQ(manifest_json(parse_manifest(text, "m")), text);
  m.calibration.reset();
  m.check.reset();
  m.options.clear();
  m.layers[0].relative_error = std::nan("");
  const std::string bare = manifest_json(m);
  const Manifest read = parse_manifest(bare, "m");
  EXPECT_FALSE(read.calibration.has_value());
  EXPECT_FALSE(read.check.has_value());
  EXPECT_TRUE(std::isnan(read.layers.at(0).relative_error));
  EXPECT_EQ(manifest_json(read), bare);
}

TEST(Manifest, ErrorsNameTheFileAndTheField) {
  const auto good = nlohmann::ordered_json::parse(manifest_json(with_files()));
  const struct {
    Code code;
    const char* text;
    std::function<void(nlohmann::ordered_json&)> damage;
  } cases[] = {
      {Code::kBadFile, "m: 'schema' is missing", [](auto& j) { j.erase("schema"); }},
      {Code::kUnsupported, "expected schema awq.manifest/1, got 'awq.manifest/2'",
       [](auto& j) { j["schema"] = "awq.manifest/2"; }},
      {Code::kBadFile, "expected schema awq.manifest/1, got 'x'", [](auto& j) { j["schema"] = "x"; }},
      {Code::kBadFile, "'tool': expected a string, got 3", [](auto& j) { j["tool"] = 3; }},
      {Code::kBadFile, "m: source: 'name' is missing", [](auto& j) { j["source"].erase("name"); }},
      {Code::kBadFile, "m: source: expected an object, got array", [](auto& j) { j["source"] = {1}; }},
      {Code::kBadFile, "m: calibration: 'tokens': expected a count, got -1",
       [](auto& j) { j["calibration"]["tokens"] = -1; }},
      {Code::kBadFile, "'tokens': expected a count, got 18446744073709551615",
       [](auto& j) { j["calibration"]["tokens"] = UINT64_MAX; }},
      {Code::kBadFile, "m: check: 'kl': expected a number or null, got \"low\"",
       [](auto& j) { j["check"]["kl"] = "low"; }},
      {Code::kBadFile, "m: options: 'calib': expected a string",
       [](auto& j) { j["options"]["calib"] = nullptr; }},
      {Code::kBadFile, "'layers': expected a list, got {}",
       [](auto& j) { j["layers"] = nlohmann::ordered_json::object(); }},
      {Code::kBadFile, "m: layers[0]: 'module' is missing", [](auto& j) { j["layers"][0].erase("module"); }},
      {Code::kBadFile, "m: files[0]: file name '../etc/passwd': expected a plain file name",
       [](auto& j) { j["files"][0]["name"] = "../etc/passwd"; }},
      {Code::kBadFile, "m: files[0]: file name '..'", [](auto& j) { j["files"][0]["name"] = ".."; }},
      {Code::kBadFile, "sha256 of 'config.json': expected 64 hexadecimal digits",
       [](auto& j) { j["files"][0]["sha256"] = "ab"; }},
  };
  for (const auto& c : cases) {
    auto json = good;
    c.damage(json);
    expect_error(c.code, c.text, [&] { parse_manifest(json.dump(), "m"); });
  }
  expect_error(Code::kBadFile, "m: invalid JSON at line 1, column 2 (offset 1): the text ends too early",
               [] { parse_manifest("{", "m"); });
  expect_error(Code::kBadFile, "m: expected an object, got array", [] { parse_manifest("[]", "m"); });
  expect_error(Code::kBadFile, "m: invalid JSON at line 1, column 3 (offset 2): unexpected '\\x00'",
               [] { parse_manifest(std::string_view("{}\0x", 4), "m"); });
  const std::string deep =
      R"({"schema":"awq.manifest/1","tool":)" + std::string(100000, '[') + std::string(100000, ']') + "}";
  expect_error(Code::kBadFile, "m: expected JSON nested at most 64 deep, got more",
               [&] { parse_manifest(deep, "m"); });
  std::string wide = "{";
  for (int i = 0; i < 30000; ++i) wide += fmt::format("{}\"{}\":0", i == 0 ? "" : ",", i);
  expect_error(Code::kBadFile, "m: expected JSON objects of at most some thousand keys, got more",
               [&] { parse_manifest(wide + "}", "m"); });
}

TEST(Manifest, VerifyFindsEveryKindOfDamage) {
  TempDir tmp;
  const fs::path dir = tmp / "out";
  OutputPlan plan = testing::small_plan();
  {
    CheckpointWriter writer(dir, plan);
    for (const auto& t : plan.tensors) writer.add(t.name, testing::patterned(t));
    for (const char* name : {"a.json", "b.json", "c.json"}) writer.add_file(name, "content");
    writer.finish(small_manifest());
  }
  ASSERT_TRUE(verify_files(dir).empty());

  std::ofstream(dir / "a.json") << "CONTENT";
  std::ofstream(dir / "b.json") << "cont";
  fs::remove(dir / "c.json");
  std::ofstream(dir / "extra.txt") << "x";
  const auto findings = verify_files(dir);
  ASSERT_EQ(findings.size(), 4u);
  EXPECT_EQ(findings[0].file, "a.json");
  EXPECT_EQ(findings[0].kind, FileFinding::Kind::kContent);
  EXPECT_EQ(findings[1].file, "b.json");
  EXPECT_EQ(findings[1].kind, FileFinding::Kind::kSize);
  EXPECT_EQ(findings[1].text, "expected 7 bytes, got 4");
  EXPECT_EQ(findings[2].file, "c.json");
  EXPECT_EQ(findings[2].kind, FileFinding::Kind::kMissing);
  EXPECT_EQ(findings[3].file, "extra.txt");
  EXPECT_EQ(findings[3].kind, FileFinding::Kind::kUnlisted);
}

TEST(Manifest, VerifySeesEverySingleFlippedBitOfTheWeights) {
  TempDir tmp;
  const fs::path dir = tmp / "out";
  OutputPlan plan;
  plan.tensors = {{"w", DType::kF16, {4, 8}}};
  {
    CheckpointWriter writer(dir, plan);
    writer.add("w", testing::patterned(plan.tensors[0]));
    writer.finish(small_manifest());
  }
  const std::string intact = read_text_file(dir / "model.safetensors");
  for (size_t bit = 0; bit < 8 * intact.size(); bit += 7) {
    std::string damaged = intact;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    std::ofstream(dir / "model.safetensors", std::ios::binary) << damaged;
    EXPECT_EQ(verify_files(dir).size(), 1u) << bit;
  }
}

TEST(Manifest, IsRecognisedOnlyByItsSchema) {
  TempDir tmp;
  EXPECT_FALSE(holds_manifest(tmp.path()));
  const struct {
    const char* text;
    bool ours;
  } cases[] = {{"", false},
               {"[]", false},
               {"{}", false},
               {R"({"schema":1})", false},
               {R"({"schema":"x"})", false},
               {R"({"schema":"awq.manifest/1"})", true},
               {R"({"schema":"awq.manifest/9"})", true}};
  for (const auto& c : cases) {
    std::ofstream(tmp / "manifest.json") << c.text;
    EXPECT_EQ(holds_manifest(tmp.path()), c.ours) << c.text;
  }
  fs::remove(tmp / "manifest.json");
  fs::create_directory(tmp / "manifest.json");
  EXPECT_FALSE(holds_manifest(tmp.path()));
  expect_error(Code::kNotFound, "manifest.json", [&] { read_manifest(tmp / "nowhere"); });
}

TEST(PublicName, ShowsNoPlaceOnThisMachine) {
  const struct {
    const char *path, *shown;
  } cases[] = {
      {"/home/ann/models/Qwen2-0.5B", "Qwen2-0.5B"},
      {"/home/ann/models/Qwen2-0.5B/", "Qwen2-0.5B"},
      {"/home/ann/models/x/..//Qwen2-0.5B/.", "Qwen2-0.5B"},
      {"model.gguf", "model.gguf"},
      {"../../ann/model.gguf", "model.gguf"},
      {"/home/ann/.cache/huggingface/hub/models--Qwen--Qwen2-0.5B/snapshots/c540970f", "Qwen/Qwen2-0.5B"},
      {"/home/ann/.cache/huggingface/hub/models--gpt2/snapshots/607a30d7", "gpt2"},
  };
  for (const auto& c : cases) EXPECT_EQ(public_name(c.path), c.shown) << c.path;
  EXPECT_EQ(public_name("."), fs::current_path().filename().string());
}

TEST(PublicName, SanitisesACommandAndKeepsItRunnable) {
  EXPECT_EQ(
      public_command({"/opt/build/awq", "quantize", "/home/ann/Qwen2", "-o", "../out/qwen-awq/",
                      "--calib=/home/ann/c.txt", "-o/home/ann/x", "--group-size", "64", "--quality=best",
                      "org/name", "--skip", "it's", "~/m", "a/b/c", "--plan=plans/p.json", "-"}),
      "awq quantize Qwen2 -o qwen-awq --calib=c.txt -ox --group-size 64 --quality=best org/name --skip "
      "'it'\\''s' m "
      "c --plan=plans/p.json -");
}

}  // namespace
}  // namespace awq
