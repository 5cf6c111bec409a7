#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "checkpoint/finite_scan.h"
#include "checkpoint/json_file.h"
#include "checkpoint/sources.h"
#include "unit/formats/files.h"

namespace awq {
namespace {

using namespace test;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kConfig = R"({"model_type": "llama", "hidden_size": 2})";

std::string open_error(const TempDir& dir) {
  return error_of([&] { Checkpoint::open(dir.path()); });
}

std::string index_of(const std::vector<std::pair<std::string, std::string>>& map) {
  nlohmann::ordered_json json;
  for (const auto& [tensor, file] : map) json["weight_map"][tensor] = file;
  return json.dump();
}

TEST(HfRead, SingleFile) {
  TempDir dir;
  dir.write("config.json", kConfig);
  dir.write("model.safetensors", safetensors({f32_tensor("model.norm.weight", {1, 2}, {2}),
                                              {{"model.layers.0.mlp.up_proj.weight", DType::kBF16, {1, 2}},
                                               bytes_of<uint16_t>({0x3f80, 0x4000})}}));
  const auto c = Checkpoint::open(dir.path());
  EXPECT_FALSE(c->is_gguf());
  EXPECT_EQ(c->config()["hidden_size"], 2);
  EXPECT_EQ(c->tensors().size(), 2u);
  EXPECT_TRUE(c->has("model.norm.weight"));
  EXPECT_FALSE(c->has("lm_head.weight"));
  EXPECT_FALSE(c->awq());
  const Tensor up = c->load_f32("model.layers.0.mlp.up_proj.weight", {1, 2});
  EXPECT_EQ(up.f32()[1], 2.0f);
  const SourceFormat format = c->format();
  EXPECT_EQ(format.name, "BF16");
  EXPECT_EQ(format.bits_per_weight, 16);
  EXPECT_FALSE(format.quantized);
}

TEST(HfRead, ErrorsNameFileTensorAndOffset) {
  TempDir dir;
  dir.write("config.json", kConfig);
  dir.write("model.safetensors",
            safetensors({f32_tensor("w", {1, 2}, {2}), {{"i", DType::kI32, {1}}, bytes_of<int32_t>({1})}}));
  const auto c = Checkpoint::open(dir.path());
  EXPECT_THAT(error_of([&] { c->load("x"); }), AllOf(HasSubstr("not_found"), HasSubstr("'x'")));
  EXPECT_THAT(error_of([&] {
                c->load_f32("w", {2, 1});
              }),
              AllOf(HasSubstr("bad_file"), HasSubstr("model.safetensors"), HasSubstr("'w' at offset"),
                    HasSubstr("expected shape [2, 1], got [2]")));
  EXPECT_THAT(error_of([&] { c->load_f32("i", {1}); }), HasSubstr("got I32"));
}

TEST(HfRead, NotFiniteNamesElementAndValue) {
  TempDir dir;
  dir.write("config.json", kConfig);
  std::vector<float> w(5000, 1.0f);
  w[4321] = -std::numeric_limits<float>::infinity();
  dir.write("model.safetensors", safetensors({f32_tensor("w", w, {5000})}));
  const auto c = Checkpoint::open(dir.path());
  EXPECT_THAT(error_of([&] { c->load("w"); }), AllOf(HasSubstr("bad_file"), HasSubstr("'w' at offset"),
                                                     HasSubstr("got -inf at element 4321")));
  EXPECT_EQ(error_of([&] { c->load("w", false); }), "");
}

TEST(HfRead, Shards) {
  TempDir dir;
  dir.write("config.json", kConfig);
  dir.write("model-00001-of-00002.safetensors", safetensors({f32_tensor("a", {1}, {1})}));
  dir.write("model-00002-of-00002.safetensors", safetensors({f32_tensor("b", {2}, {1})}));
  const std::string index = "model.safetensors.index.json";
  dir.write(index,
            index_of({{"a", "model-00001-of-00002.safetensors"}, {"b", "model-00002-of-00002.safetensors"}}));
  const auto c = Checkpoint::open(dir.path());
  EXPECT_EQ(c->load("a").data<float>()[0], 1.0f);
  EXPECT_EQ(c->load("b").data<float>()[0], 2.0f);
  EXPECT_EQ(c->find("b")->file.filename(), "model-00002-of-00002.safetensors");

  const std::string in_one_file = [&] {
    TempDir other;
    other.write("config.json", kConfig);
    other.write("model.safetensors", safetensors({f32_tensor("b", {2}, {1}), f32_tensor("a", {1}, {1})}));
    return Checkpoint::open(other.path())->fingerprint();
  }();
  EXPECT_EQ(c->fingerprint(), in_one_file);
}

TEST(HfRead, BrokenIndexes) {
  const std::string shard = "model-00001-of-00001.safetensors";
  const struct {
    const char* what;
    std::string index;
    const char *code, *expected;
  } cases[] = {
      {"not JSON", "{", "bad_file", "index.json"},
      {"no map", "{}", "bad_file", "weight_map"},
      {"number", R"({"weight_map":{"a":1}})", "bad_file", "'a'"},
      {"climbs out", index_of({{"a", "../x.safetensors"}}), "bad_file", "../x.safetensors"},
      {"dots", index_of({{"a", "...safetensors"}}), "bad_file", "plain name"},
      {"absolute", index_of({{"a", "/x.safetensors"}}), "bad_file", "plain name"},
      {"backslash", index_of({{"a", "..\\x.safetensors"}}), "bad_file", "plain name"},
      {"another kind of file", index_of({{"a", "x.bin"}}), "bad_file", "x.bin"},
      {"missing shard", index_of({{"a", shard}, {"b", "other.safetensors"}}), "not_found",
       "other.safetensors"},
      {"missing tensor", index_of({{"a", shard}, {"zz", shard}}), "bad_file", "'zz'"},
      {"tensor twice", R"({"weight_map":{"a":"x.safetensors","a":"y.safetensors"}})", "bad_file", "twice"},
  };
  for (const auto& c : cases) {
    TempDir dir;
    dir.write("config.json", kConfig);
    dir.write(shard, safetensors({f32_tensor("a", {1}, {1})}));
    dir.write("model.safetensors.index.json", c.index);
    EXPECT_THAT(open_error(dir), AllOf(HasSubstr(c.code), HasSubstr(c.expected))) << c.what;
  }
}

TEST(HfRead, DirectoriesWithoutSafetensors) {
  TempDir dir;
  EXPECT_THAT(open_error(dir), AllOf(HasSubstr("not_found"), HasSubstr("config.json")));
  dir.write("config.json", kConfig);
  EXPECT_THAT(open_error(dir), AllOf(HasSubstr("not_found"), HasSubstr("model.safetensors")));
  dir.write("m.gguf", "x");
  EXPECT_THAT(open_error(dir), AllOf(HasSubstr("not_found"), HasSubstr("m.gguf")));
  for (const char* pickle : {"weights.pth", "model.pt", "a.bin"}) {
    dir.write(pickle, "x");
    EXPECT_THAT(open_error(dir), AllOf(HasSubstr("unsupported"), HasSubstr(pickle), HasSubstr("python -c")));
  }
  EXPECT_THAT(error_of([&] { Checkpoint::open(dir.path() / "nowhere"); }), HasSubstr("not_found"));
  EXPECT_THAT(error_of([&] { Checkpoint::open(dir.path() / "a.bin"); }), HasSubstr("unsupported"));
}

TEST(HfRead, ConfigErrorsNamePosition) {
  EXPECT_THAT(error_of([] { parse_json("{\n  \"a\": 1,\n  \"b\": x}", "config.json"); }),
              AllOf(HasSubstr("bad_file"), HasSubstr("config.json"), HasSubstr("line 3, column 8"),
                    HasSubstr("unexpected 'x")));
  EXPECT_THAT(error_of([] { parse_json("{", "config.json"); }), HasSubstr("ends too early"));
  EXPECT_THAT(error_of([] { parse_json(std::string(100000, '['), "config.json"); }), HasSubstr("nested"));
  EXPECT_THAT(error_of([] { parse_json("\"\xff\"", "config.json"); }), HasSubstr("bad_file"));
  EXPECT_THAT(error_of([] { parse_json("1e999", "config.json"); }), HasSubstr("bad_file"));
  const std::string whole = R"({"a": [1, {"b": "c\u00fc"}], "d": null})";
  EXPECT_EQ(error_of([&] { parse_json(whole, "c"); }), "");
  for (size_t n = 0; n < whole.size(); ++n)
    EXPECT_THAT(error_of([&] { parse_json(whole.substr(0, n), "c"); }), HasSubstr("bad_file")) << n;
  TempDir dir;
  dir.write("config.json", "[]");
  EXPECT_THAT(open_error(dir), AllOf(HasSubstr("bad_file"), HasSubstr("object")));
}

TEST(HfRead, SideFilesAreVerbatimAndNeverWeights) {
  TempDir dir;
  const std::string crlf = "{\"a\":\r\n1}\n\n";
  for (const char* name : {"config.json", "model.safetensors.index.json", "x.bin", "manifest.json",
                           "notes.txt", "quant_config.json"})
    dir.write(name, "{}");
  dir.write("model.safetensors", safetensors({f32_tensor("a", {1}, {1})}));
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json",
                           "chat_template.jinja", "LICENSE", "preprocessor_config.json", "qwen.tiktoken"})
    dir.write(name, crlf);
  dir.write("README.md", "---\ntags: [x]\nlicense: apache-2.0\n---\n# Model\n");
  const auto c = Checkpoint::open(dir.path());
  std::vector<std::string> names;
  for (const auto& f : c->side_files()) {
    names.push_back(f.name);
    if (f.name != "README.source.md") {
      EXPECT_EQ(f.contents, crlf);
    }
  }
  EXPECT_THAT(names, ElementsAre("LICENSE", "README.source.md", "chat_template.jinja",
                                 "generation_config.json", "preprocessor_config.json", "qwen.tiktoken",
                                 "tokenizer.json", "tokenizer_config.json"));
  EXPECT_EQ(c->license(), "apache-2.0");
  // The card a quantized folder carries is the original one, not awq's own.
  dir.write("README.source.md", "original");
  for (const auto& f : c->side_files())
    if (f.name == "README.source.md") {
      EXPECT_EQ(f.contents, "original");
    }
}

TEST(HfRead, LicenseOfReadme) {
  EXPECT_EQ(license_of_readme("---\nlicense: mit\n---\n"), "mit");
  EXPECT_EQ(license_of_readme("---\r\nlicense: \"mit\"\r\n---\r\n"), "mit");
  EXPECT_EQ(license_of_readme("---\ntags: x\n---\nlicense: mit\n"), "");
  EXPECT_EQ(license_of_readme("license: mit"), "");
  EXPECT_EQ(license_of_readme("---\nlicense:\n---\n"), "");
}

TEST(HfRead, FingerprintSeesEveryChange) {
  const auto fingerprint = [](const char* config, const std::string& name, float value, Shape shape) {
    TempDir dir;
    dir.write("config.json", config);
    dir.write("model.safetensors", safetensors({f32_tensor(name, {value, 2}, std::move(shape))}));
    return Checkpoint::open(dir.path())->fingerprint();
  };
  const std::string base = fingerprint(kConfig, "a", 1, {2});
  EXPECT_EQ(base.size(), 64u);
  EXPECT_EQ(base, fingerprint(kConfig, "a", 1, {2}));
  EXPECT_NE(base, fingerprint("{}", "a", 1, {2}));
  EXPECT_NE(base, fingerprint(kConfig, "b", 1, {2}));
  EXPECT_NE(base, fingerprint(kConfig, "a", 3, {2}));
  EXPECT_NE(base, fingerprint(kConfig, "a", 1, {1, 2}));
}

// Every 16-bit pattern of both half types, and both fp8 types, against the conversion to float.
TEST(FiniteScan, AgreesWithConversionForEveryPattern) {
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kF8E5M2}) {
    const int size = dtype_size(dtype);
    for (uint32_t bits = 0; bits < 1u << (8 * size); ++bits) {
      float value = 0;
      convert_to_f32(dtype, reinterpret_cast<const std::byte*>(&bits), &value, 1);
      const int64_t at = first_non_finite(dtype, reinterpret_cast<const std::byte*>(&bits), 1);
      ASSERT_EQ(at, std::isfinite(value) ? -1 : 0) << dtype_name(dtype) << " " << bits;
    }
  }
}

TEST(FiniteScan, FindsTheFirstAtAnyPositionAndAlignment) {
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()})
    for (const size_t at : {size_t{0}, size_t{1}, size_t{1023}, size_t{1024}, size_t{2000}}) {
      std::vector<float> f(2001, std::numeric_limits<float>::max());
      std::vector<double> d(2001, -std::numeric_limits<double>::max());
      EXPECT_EQ(first_non_finite(DType::kF32, reinterpret_cast<const std::byte*>(f.data()), 2001), -1);
      EXPECT_EQ(first_non_finite(DType::kF64, reinterpret_cast<const std::byte*>(d.data()), 2001), -1);
      f[at] = static_cast<float>(bad);
      d[at] = bad;
      f.back() = d.back() = std::numeric_limits<float>::infinity();
      EXPECT_EQ(first_non_finite(DType::kF32, reinterpret_cast<const std::byte*>(f.data()), 2001),
                static_cast<int64_t>(at));
      EXPECT_EQ(first_non_finite(DType::kF64, reinterpret_cast<const std::byte*>(d.data()), 2001),
                static_cast<int64_t>(at));
      const std::string shifted = "x" + bytes_of(f);
      EXPECT_EQ(first_non_finite(DType::kF32, reinterpret_cast<const std::byte*>(shifted.data()) + 1, 2001),
                static_cast<int64_t>(at));
    }
}

}  // namespace
}  // namespace awq
