#include "formats/safetensors.h"

#include <gmock/gmock.h>

#include "base/printable.h"
#include "unit/formats/files.h"

namespace awq {
namespace {

using namespace test;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string open_error(const TempDir& dir, const std::string& bytes) {
  const auto path = dir.write("t.safetensors", bytes);
  return error_of([&] { SafetensorsFile::open(path); });
}

TEST(Safetensors, FromMemoryAsFromAFile) {
  TempDir dir;
  const std::string bytes = safetensors({f32_tensor("a", {1, 2, 3, 4}, {2, 2}), f32_tensor("b", {5}, {1})});
  const auto memory = MappedFile::in_memory("name", std::as_bytes(std::span(bytes)));
  memory->done_with(0, bytes.size());  // nothing is mapped: nothing to give back
  const auto parsed = SafetensorsFile::parse(memory), opened = SafetensorsFile::open(dir.write("t.safetensors", bytes));
  EXPECT_EQ(parsed->path(), "name");
  ASSERT_EQ(parsed->entries().size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(parsed->entries()[i].name, opened->entries()[i].name);
    EXPECT_EQ(parsed->entries()[i].offset, opened->entries()[i].offset);
  }
  const Tensor a = parsed->tensor(*parsed->find("a"));
  EXPECT_EQ(a.f32()[3], 4.0f);
}

TEST(Safetensors, ReadsWhatTheHeaderBuilderWrites) {
  TempDir dir;
  const std::vector<NamedBytes> tensors = {
      f32_tensor("a.weight", {1, 2, 3, 4, 5, 6}, {2, 3}),
      {{"b \"quoted\" ünï", DType::kBF16, {3}}, bytes_of<uint16_t>({0x3f80, 0x4000, 0xbf80})},
      {{"scalar", DType::kI32, {}}, bytes_of<int32_t>({-7})},
      {{"none", DType::kU8, {0, 5}}, ""},
  };
  const std::string bytes = safetensors(tensors);
  std::vector<SafetensorsSpec> specs;
  for (const auto& t : tensors) specs.push_back(t.spec);
  EXPECT_EQ(safetensors_file_size(specs), static_cast<int64_t>(bytes.size()));
  EXPECT_EQ(safetensors_header(specs).size() % 8, 0u);

  const auto file = SafetensorsFile::open(dir.write("t.safetensors", bytes));
  EXPECT_EQ(file->metadata().at("format"), "pt");
  ASSERT_EQ(file->entries().size(), 4u);
  for (const auto& t : tensors) {
    const SafetensorsEntry* e = file->find(t.spec.name);
    ASSERT_NE(e, nullptr) << t.spec.name;
    EXPECT_EQ(e->dtype, t.spec.dtype);
    EXPECT_EQ(e->shape, t.spec.shape);
    const Tensor tensor = file->tensor(*e);
    EXPECT_EQ(
        std::string(reinterpret_cast<const char*>(tensor.bytes()), static_cast<size_t>(tensor.nbytes())),
        t.bytes);
  }
  EXPECT_EQ(file->find("absent"), nullptr);
}

TEST(Safetensors, WriterOrderKeepsEveryTensorAligned) {
  std::vector<SafetensorsSpec> specs = {
      {"b", DType::kF16, {3}}, {"c", DType::kI32, {1}}, {"a", DType::kF16, {1}}};
  sort_for_safetensors(specs);
  EXPECT_EQ(specs[0].name, "c");
  EXPECT_EQ(specs[1].name, "a");
  EXPECT_EQ(specs[2].name, "b");
}

TEST(Safetensors, WriterRefusesNamesNobodyCanRead) {
  EXPECT_TRUE(throws_code(Code::kBadArgument, [] {
    safetensors_header({{"x", DType::kU8, {}}, {"x", DType::kU8, {}}});
  }));
  EXPECT_TRUE(throws_code(Code::kBadArgument, [] {
    safetensors_header({{"__metadata__", DType::kU8, {}}});
  }));
  EXPECT_TRUE(throws_code(Code::kBadArgument, [] { safetensors_header({{"\xff", DType::kU8, {}}}); }));
}

TEST(Safetensors, AcceptsWhatTheReferenceAccepts) {
  const struct {
    const char* what;
    std::string json;
    size_t data;
  } cases[] = {
      {"empty object", "{}", 0},
      {"spaces around", "  {}   ", 0},
      {"unknown keys in an entry", R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":{"y":[1]}}})",
       1},
      {"zero-size dimension", R"({"a":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]}})", 0},
      {"zero-size tensor between others",
       R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"z":{"dtype":"U8","shape":[0],"data_offsets":[2,2]},)"
       R"("b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
       3},
      {"misaligned float",
       R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
       5},
      {"six-bit floats", R"({"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}})", 3},
      {"four-bit floats", R"({"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}})", 2},
  };
  TempDir dir;
  for (const auto& c : cases)
    EXPECT_EQ(open_error(dir, raw_safetensors(c.json, std::string(c.data, '\0'))), "") << c.what;
}

TEST(Safetensors, MisalignedTensorIsCopied) {
  TempDir dir;
  const std::string json =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})";
  const auto file =
      SafetensorsFile::open(dir.write("t.safetensors", raw_safetensors(json, "x" + bytes_of<float>({1.5f}))));
  EXPECT_EQ(file->tensor(*file->find("b")).f32()[0], 1.5f);
}

TEST(Safetensors, DtypeWithoutTensorTypeIsNamedOnLoad) {
  TempDir dir;
  const auto file = SafetensorsFile::open(dir.write(
      "t.safetensors", raw_safetensors(R"({"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}})", "x")));
  EXPECT_THAT(error_of([&] { file->tensor(*file->find("a")); }),
              AllOf(HasSubstr("unsupported"), HasSubstr("F4")));
}

TEST(Safetensors, RejectsWhatTheFormatForbids) {
  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  const struct {
    const char* what;
    std::string json;
    size_t data;
    const char* expected;
  } cases[] = {
      {"not JSON", "{]", 0, "offset 8"},
      {"not an object", "[]", 0, "object"},
      {"not UTF-8", "{\"\xff\":1}", 0, "offset 8"},
      {"entry not an object", R"({"a":1})", 0, "'a'"},
      {"metadata with a number", R"({"__metadata__":{"x":1}})", 0, "__metadata__"},
      {"metadata twice", R"({"__metadata__":{},"__metadata__":{}})", 0, "twice"},
      {"metadata a list", R"({"__metadata__":[]})", 0, "__metadata__"},
      {"unknown dtype", entry("F99", "[1]", "[0,1]"), 1, "F99"},
      {"missing dtype", R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1, "dtype"},
      {"missing shape", R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1, "shape"},
      {"negative dimension", entry("U8", "[-1]", "[0,1]"), 1, "shape"},
      {"fractional dimension", entry("U8", "[1.0]", "[0,1]"), 1, "shape"},
      {"dimension beyond 63 bits", entry("U8", "[9223372036854775808]", "[0,1]"), 1, "shape"},
      {"overflowing product", entry("U8", "[4294967296,4294967296]", "[0,1]"), 1, "overflows"},
      {"overflow hidden by a zero", entry("U8", "[4294967296,4294967296,0]", "[0,0]"), 0, "overflows"},
      {"size against shape", entry("F32", "[2]", "[0,4]"), 4, "needs 8 bytes"},
      {"half a byte", entry("F4", "[3]", "[0,1]"), 1, "needs 2 bytes"},
      {"offsets backwards", entry("U8", "[1]", "[1,0]"), 1, "data_offsets"},
      {"three offsets", entry("U8", "[1]", "[0,1,2]"), 1, "data_offsets"},
      {"offset overflow", entry("U8", "[0]", "[9223372036854775807,9223372036854775807]"), 0, "overflows"},
      {"first offset not 0", entry("U8", "[1]", "[1,2]"), 2, "a gap"},
      {"trailing bytes", entry("U8", "[1]", "[0,1]"), 2, "1 bytes more"},
      {"missing bytes", entry("U8", "[4]", "[0,4]"), 3, "truncated"},
      {"data without tensors", "{}", 1, "1 bytes more"},
      {"gap",
       R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
       3, "a gap"},
      {"overlap",
       R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
       3, "an overlap"},
      {"same name twice",
       R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
       2, "twice"},
  };
  TempDir dir;
  for (const auto& c : cases)
    EXPECT_THAT(open_error(dir, raw_safetensors(c.json, std::string(c.data, '\0'))),
                AllOf(HasSubstr("bad_file"), HasSubstr("t.safetensors"), HasSubstr(c.expected)))
        << c.what;
}

TEST(Safetensors, HeaderLengthIsBounded) {
  TempDir dir;
  EXPECT_THAT(open_error(dir, bytes_of<uint64_t>({100'000'001})), HasSubstr("expected at most 100000000"));
  EXPECT_THAT(open_error(dir, bytes_of<uint64_t>({UINT64_MAX})), HasSubstr("expected at most 100000000"));
  EXPECT_THAT(open_error(dir, bytes_of<uint64_t>({9, 0})), HasSubstr("got 9"));
  EXPECT_THAT(open_error(dir, bytes_of<uint64_t>({100000}) + std::string(100000, '[')),
              HasSubstr("bad_file"));
}

TEST(Safetensors, TruncationAnywhereIsABadFile) {
  TempDir dir;
  const std::string whole = safetensors({f32_tensor("a", {1, 2}, {2}), f32_tensor("b", {3}, {1})});
  ASSERT_EQ(open_error(dir, whole), "");
  for (size_t n = 0; n < whole.size(); ++n)
    EXPECT_THAT(open_error(dir, whole.substr(0, n)), HasSubstr("bad_file")) << n;
}

TEST(Safetensors, AnyChangedByteOpensOrIsABadFile) {
  TempDir dir;
  const std::string whole = safetensors({f32_tensor("a", {1}, {1})});
  for (size_t i = 0; i < whole.size(); ++i)
    for (const char c : {'\0', '\xff', '9', '"', '-'}) {
      std::string changed = whole;
      changed[i] = c;
      const std::string error = open_error(dir, changed);
      EXPECT_TRUE(error.empty() || error.starts_with("bad_file")) << error;
    }
}

TEST(Printable, EscapesWhatWouldBreakALine) {
  EXPECT_EQ(printable("blk.0"), "blk.0");
  EXPECT_EQ(printable("a\nb\x1b\x7f"), "a\\x0ab\\x1b\\x7f");
  EXPECT_EQ(printable("ü€\xf0\x9f\x98\x80"), "ü€\xf0\x9f\x98\x80");
  EXPECT_EQ(printable("\xc0\xaf\xed\xa0\x80\xff"), "\\xc0\\xaf\\xed\\xa0\\x80\\xff");
  EXPECT_EQ(printable("\xc2\x85\xe2\x80\xa8"), "\\xc2\\x85\\xe2\\x80\\xa8");
  EXPECT_EQ(printable("abcdef", 3), "abc...");
}

}  // namespace
}  // namespace awq
