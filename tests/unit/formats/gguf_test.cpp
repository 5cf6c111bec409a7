#include "formats/gguf.h"

#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "unit/formats/files.h"

namespace awq {
namespace {

using namespace test;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string open_error(const TempDir& dir, const std::string& bytes) {
  const auto path = dir.write("t.gguf", bytes);
  return error_of([&] { GgufFile::open(path); });
}

GgufBuilder small_file() {
  GgufBuilder b;
  b.text("general.architecture", "llama").u32("llama.block_count", 2).f32("eps", 1e-5f).boolean("flag", true);
  b.texts("words", {"a", "", "ccc"}).array<int32_t>("ids", 5, {1, -2, 3});
  b.f32_tensor("one", {2, 3}, {1, 2, 3, 4, 5, 6}).f32_tensor("two", {2}, {7, 8});
  return b;
}

TEST(Gguf, ReadsKeysAndTensors) {
  TempDir dir;
  for (const uint32_t version : {2u, 3u}) {
    GgufBuilder b = small_file();
    b.version = version;
    const auto file = GgufFile::open(dir.write("t.gguf", b.build()));
    EXPECT_EQ(file->version(), static_cast<int>(version));
    EXPECT_EQ(file->text("general.architecture"), "llama");
    EXPECT_EQ(file->integer("llama.block_count"), 2);
    EXPECT_EQ(file->real("eps"), 1e-5);  // the shortest decimal, not the float's expansion
    EXPECT_EQ(file->boolean("flag"), true);
    EXPECT_THAT(file->texts("words"), ElementsAre("a", "", "ccc"));
    EXPECT_THAT(file->integers("ids"), ElementsAre(1, -2, 3));
    EXPECT_EQ(file->integer("absent"), std::nullopt);
    ASSERT_EQ(file->tensors().size(), 2u);
    const GgufTensor* one = file->find("one");
    ASSERT_NE(one, nullptr);
    EXPECT_EQ(one->shape, (Shape{2, 3}));
    EXPECT_STREQ(one->type->name, "F32");
    float values[6];
    std::memcpy(values, file->bytes(*one).data(), sizeof values);
    EXPECT_THAT(values, ElementsAre(1, 2, 3, 4, 5, 6));
  }
}

TEST(Gguf, ReadsEveryKindOfScalar) {
  GgufBuilder b;
  b.scalar<uint8_t>("u8", 0, 200)
      .scalar<int8_t>("i8", 1, -3)
      .scalar<uint16_t>("u16", 2, 60000)
      .scalar<int16_t>("i16", 3, -300);
  b.scalar<uint32_t>("u32", 4, 4000000000u)
      .scalar<int32_t>("i32", 5, -5)
      .scalar<uint64_t>("u64", 10, 1ull << 40);
  b.scalar<int64_t>("i64", 11, -(1ll << 40))
      .scalar<double>("f64", 12, 0.25)
      .scalar<uint64_t>("huge", 10, UINT64_MAX);
  b.array<double>("reals", 12, {0.5, 1.5});
  TempDir dir;
  const auto file = GgufFile::open(dir.write("t.gguf", b.build()));
  const std::pair<const char*, int64_t> expected[] = {
      {"u8", 200},         {"i8", -3},  {"u16", 60000},     {"i16", -300},
      {"u32", 4000000000}, {"i32", -5}, {"u64", 1ll << 40}, {"i64", -(1ll << 40)}};
  for (const auto& [key, value] : expected) EXPECT_EQ(file->integer(key), value) << key;
  EXPECT_EQ(file->real("f64"), 0.25);
  EXPECT_THAT(file->reals("reals"), ElementsAre(0.5f, 1.5f));
  EXPECT_THAT(error_of([&] { file->integer("huge"); }), HasSubstr("'huge'"));
}

TEST(Gguf, WrongKindNamesKeyAndBothKinds) {
  TempDir dir;
  const auto file = GgufFile::open(dir.write("t.gguf", small_file().build()));
  EXPECT_THAT(error_of([&] { file->integer("eps"); }),
              AllOf(HasSubstr("bad_file"), HasSubstr("'eps'"), HasSubstr("got f32")));
  EXPECT_THAT(error_of([&] { file->text("ids"); }), HasSubstr("expected string, got array of i32"));
  EXPECT_THAT(error_of([&] { file->texts("flag"); }), HasSubstr("got bool"));
  EXPECT_THAT(error_of([&] { file->integer("flag"); }), HasSubstr("got bool"));
}

TEST(Gguf, RejectsWhatTheFormatForbids) {
  const std::string f32x1 = bytes_of<float>({1}), name64(64, 'n');
  const auto with = [](const std::function<void(GgufBuilder&)>& change) {
    GgufBuilder b;
    change(b);
    return b.build();
  };
  const struct {
    const char* what;
    std::string bytes;
    const char *code, *expected;
  } cases[] = {
      {"magic", with([](auto& b) { b.magic = 0x12345678; }), "bad_file", "magic"},
      {"version 1", with([](auto& b) { b.version = 1; }), "unsupported", "got 1"},
      {"big-endian", with([](auto& b) { b.version = 0x03000000; }), "unsupported", "little-endian"},
      {"empty key", with([](auto& b) { b.u32("", 1); }), "bad_file", "empty"},
      {"key twice", with([](auto& b) { b.u32("k", 1).u32("k", 2); }), "bad_file", "twice"},
      {"unknown kind", with([](auto& b) { b.scalar("k", 13, uint32_t{1}); }), "bad_file", "got 13"},
      {"nested array", with([](auto& b) { b.template array<uint8_t>("k", 9, {}); }), "bad_file", "nested"},
      {"alignment 0", with([](auto& b) { b.u32("general.alignment", 0); }), "bad_file", "power of two"},
      {"alignment 48", with([](auto& b) { b.u32("general.alignment", 48); }), "bad_file", "power of two"},
      {"alignment of another kind", with([](auto& b) { b.boolean("general.alignment", true); }), "bad_file",
       "u32"},
      {"empty tensor name", with([&](auto& b) { b.tensor("", 0, {1}, f32x1); }), "bad_file", "1 to 63"},
      {"long tensor name", with([&](auto& b) { b.tensor(name64, 0, {1}, f32x1); }), "bad_file", "got 64"},
      {"five dimensions", with([&](auto& b) {
         b.tensor("t", 0, {1, 1, 1, 1, 1}, f32x1);
       }),
       "bad_file", "at most 4"},
      {"dimension of 64 bits", with([&](auto& b) { b.tensor("t", 0, {-1}, f32x1); }), "bad_file",
       "below 2^63"},
      {"overflowing shape with a zero", with([&](auto& b) {
         b.tensor("t", 0, {0, 1ll << 32, 1ll << 32}, "");
       }),
       "bad_file", "overflows"},
      {"overflowing shape", with([&](auto& b) {
         b.tensor("t", 0, {1ll << 32, 1ll << 32}, f32x1);
       }),
       "bad_file", "overflows"},
      {"unknown type", with([&](auto& b) { b.tensor("t", 99, {1}, f32x1); }), "unsupported",
       "'t': unknown ggml type 99"},
      {"row not of whole blocks", with([&](auto& b) {
         b.tensor("t", 3, {2, 33}, f32x1);
       }),
       "bad_file", "multiple of 32"},
      {"tensor twice", with([&](auto& b) { b.tensor("t", 0, {1}, f32x1).tensor("t", 0, {1}, f32x1); }),
       "bad_file", "twice"},
      {"gap", with([&](auto& b) { b.tensor_at("t", 0, {1}, 32, f32x1); }), "bad_file", "expected offset 0"},
      {"overlap", with([&](auto& b) { b.tensor("s", 0, {1}, f32x1).tensor_at("t", 0, {1}, 0, f32x1); }),
       "bad_file", "expected offset 32"},
      {"offset of 64 bits", with([&](auto& b) { b.tensor_at("t", 0, {1}, -1, f32x1); }), "bad_file",
       "below 2^63"},
      {"data missing", with([&](auto& b) { b.tensor("t", 0, {9}, f32x1); }), "bad_file", "truncated"},
  };
  TempDir dir;
  for (const auto& c : cases)
    EXPECT_THAT(open_error(dir, c.bytes),
                AllOf(HasSubstr(c.code), HasSubstr("t.gguf"), HasSubstr(c.expected)))
        << c.what;
}

TEST(Gguf, CountsAreBoundedByTheFile) {
  TempDir dir;
  const auto header = [](uint64_t tensors, uint64_t keys) {
    return bytes_of<uint32_t>({0x46554747, 3}) + bytes_of<uint64_t>({tensors, keys});
  };
  EXPECT_THAT(open_error(dir, header(UINT64_MAX, 0)), HasSubstr("tensor count"));
  EXPECT_THAT(open_error(dir, header(0, UINT64_MAX)), HasSubstr("key count"));
  // A string and an array that claim more than the file has.
  EXPECT_THAT(open_error(dir, header(0, 1) + bytes_of<uint64_t>({1ull << 62}) + std::string(64, 'x')),
              HasSubstr("at offset 24"));
  GgufBuilder b;
  b.array<uint8_t>("k", 12, {}).u32("tail", 0);
  std::string bytes = b.build();
  const size_t count_at = 24 + 8 + 1 + 4 + 4;
  const uint64_t huge = 1ull << 60;
  std::memcpy(bytes.data() + count_at, &huge, 8);
  EXPECT_THAT(open_error(dir, bytes), HasSubstr("array length"));
}

TEST(Gguf, TruncationAnywhereIsABadFile) {
  TempDir dir;
  const std::string whole = small_file().build();
  ASSERT_EQ(open_error(dir, whole), "");
  for (size_t n = 0; n < whole.size(); ++n)
    EXPECT_THAT(open_error(dir, whole.substr(0, n)), HasSubstr("bad_file")) << n;
}

TEST(Gguf, AnyChangedByteOpensOrIsRefused) {
  TempDir dir;
  const std::string whole = small_file().build();
  for (size_t i = 0; i < whole.size(); ++i)
    for (const char c : {'\0', '\xff', '\x7f', '\x01'}) {
      std::string changed = whole;
      changed[i] = c;
      const std::string error = open_error(dir, changed);
      EXPECT_TRUE(error.empty() || error.starts_with("bad_file") || error.starts_with("unsupported"))
          << error;
    }
}

TEST(Gguf, NamesAreUtf8) {
  TempDir dir;
  EXPECT_THAT(open_error(dir, GgufBuilder().u32("k\xff", 1).build()),
              HasSubstr("key at offset 24: expected UTF-8, got 'k\\xff'"));
  EXPECT_THAT(open_error(dir, GgufBuilder().f32_tensor("t\xc3", {1}, {1}).build()),
              HasSubstr("tensor name at offset 24: expected UTF-8"));
}

TEST(Gguf, OtherAlignments) {
  TempDir dir;
  GgufBuilder b;
  b.alignment = 8;
  b.u32("general.alignment", 8).f32_tensor("a", {1}, {1}).f32_tensor("b", {1}, {2});
  const auto file = GgufFile::open(dir.write("t.gguf", b.build()));
  EXPECT_EQ(file->find("b")->offset - file->find("a")->offset, 8);
}

TEST(Gguf, SplitSetIsOneFile) {
  TempDir dir;
  for (uint32_t no = 0; no < 2; ++no) {
    GgufBuilder b;
    if (no == 0) b.text("general.architecture", "llama");
    b.scalar<uint16_t>("split.no", 2, static_cast<uint16_t>(no)).scalar<uint16_t>("split.count", 2, 2);
    b.scalar<int32_t>("split.tensors.count", 5, 2)
        .f32_tensor("t" + std::to_string(no), {1}, {static_cast<float>(no)});
    dir.write("m-0000" + std::to_string(no + 1) + "-of-00002.gguf", b.build());
  }
  for (const char* name : {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}) {
    const auto file = GgufFile::open(dir.path() / name);
    EXPECT_EQ(file->text("general.architecture"), "llama");
    EXPECT_EQ(file->files().size(), 2u);
    float value = 0;
    std::memcpy(&value, file->bytes(*file->find("t1")).data(), 4);
    EXPECT_EQ(value, 1.0f);
  }
  std::filesystem::remove(dir.path() / "m-00002-of-00002.gguf");
  EXPECT_THAT(error_of([&] { GgufFile::open(dir.path() / "m-00001-of-00002.gguf"); }),
              AllOf(HasSubstr("not_found"), HasSubstr("m-00002-of-00002.gguf")));
}

TEST(Gguf, SplitCountsMustAgree) {
  TempDir dir;
  GgufBuilder b;
  b.scalar<uint16_t>("split.no", 2, 0).scalar<uint16_t>("split.count", 2, 3).f32_tensor("t", {1}, {1});
  EXPECT_THAT(open_error(dir, b.build()), HasSubstr("split.count"));
}

std::string from_hex(const std::string& hex) {
  std::string out;
  for (size_t i = 0; i < hex.size(); i += 2)
    out += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return out;
}

// Recorded from the `gguf` Python package by tests/data/formats/make_ggml_blocks.py.
TEST(GgmlTypes, DequantizesAsRecorded) {
  std::ifstream in(AWQ_TEST_DATA "/formats/ggml_blocks.json");
  const auto recorded = nlohmann::json::parse(in);
  ASSERT_EQ(recorded.size(), 17u);
  for (const auto& [name, pair] : recorded.items()) {
    const GgmlType* type = find_ggml_type(name);
    ASSERT_NE(type, nullptr) << name;
    const std::string bytes = from_hex(pair[0]), weights = from_hex(pair[1]);
    const auto n = static_cast<int64_t>(weights.size() / 4);
    ASSERT_EQ(static_cast<int64_t>(bytes.size()), n / type->block * type->block_bytes) << name;
    std::vector<float> expected(static_cast<size_t>(n)), got(static_cast<size_t>(n));
    std::memcpy(expected.data(), weights.data(), weights.size());
    dequantize_block_type(*type, reinterpret_cast<const std::byte*>(bytes.data()), got.data(), n, name);
    EXPECT_EQ(got, expected) << name;
  }
}

TEST(GgmlTypes, UnreadableTypeNamesTensorTypeAndReadableOnes) {
  const GgmlType* type = find_ggml_type("IQ3_S");
  ASSERT_NE(type, nullptr);
  EXPECT_EQ(type->bits_per_weight(), 3.4375);
  EXPECT_THAT(
      error_of(
          [&] { dequantize_block_type(*type, nullptr, nullptr, 0, "f.gguf: tensor 'blk.0.attn_q.weight'"); }),
      AllOf(HasSubstr("unsupported"), HasSubstr("blk.0.attn_q"), HasSubstr("IQ3_S"), HasSubstr("Q4_1, ")));
}

}  // namespace
}  // namespace awq
