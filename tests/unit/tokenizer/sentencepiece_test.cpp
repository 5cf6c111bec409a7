// SentencePiece models: ids and texts equal those of PyPI `sentencepiece`; files that are wrong; model
// directories.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "base/system.h"
#include "fixtures.h"

namespace awq {
namespace {

using fixtures::Json;
using testing::HasSubstr;

std::string from_hex(const std::string& hex) {
  std::string out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    out += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return out;
}

std::string model_named(const std::string& name) {
  for (const Json& m : fixtures::load("sentencepiece"))
    if (m["name"] == name) return from_hex(m["model"]);
  ADD_FAILURE() << name;
  return {};
}

TEST(SentencePiece, EncodesAndDecodesAsRecorded) {
  const Json models = fixtures::load("sentencepiece");
  ASSERT_EQ(models.size(), 7u);
  for (const Json& m : models) {
    SCOPED_TRACE(m["name"]);
    const auto t = Tokenizer::from_sentencepiece(from_hex(m["model"]), "tokenizer.model");
    ASSERT_GT(m["cases"].size(), 30u);
    for (const Json& c : m["cases"]) {
      SCOPED_TRACE(c["text"].dump());
      const auto ids = c["ids"].get<std::vector<int32_t>>();
      EXPECT_EQ(t->encode(c["text"].get<std::string>(), false), ids);
      EXPECT_EQ(t->encode(c["text"].get<std::string>(), true), ids);
      EXPECT_EQ(t->decode(ids, true), c["decoded"].get<std::string>());
    }
  }
}

TEST(SentencePiece, ControlPiecesAreSpecialTokens) {
  const auto t = Tokenizer::from_sentencepiece(model_named("bpe, byte fallback"), "tokenizer.model");
  EXPECT_EQ(t->id_of("<s>"), 1);
  EXPECT_TRUE(t->is_special(1));
  EXPECT_FALSE(t->is_special(0));
  auto ids = t->encode("mill", false);
  const auto alone = ids;
  ids.insert(ids.begin(), 1);
  EXPECT_EQ(t->encode("<s>mill", false), ids);
  EXPECT_EQ(t->decode(ids, true), "mill");
  EXPECT_EQ(t->token_bytes(alone[0]).substr(0, 1), " ");
  const int32_t newline = *t->id_of("<0x0A>");
  EXPECT_EQ(t->token_bytes(newline), "\n");
  // Bytes that are no characters, each as U+FFFD; those that are, as what they are.
  EXPECT_EQ(t->decode(std::vector<int32_t>{*t->id_of("<0xE4>"), *t->id_of("<0xB8>"), *t->id_of("<0xAD>"),
                                           *t->id_of("<0xE4>"), *t->id_of("<0xB8>")},
                      true),
            "中\uFFFD\uFFFD");
}

// Single-precision sums of scores tell "as t" from "a st" (0.003 apart) only near zero, and the library
// starts them anew below -100000. Pieces x (-30000), f, a, st, as, t, s; ids are those of `sentencepiece`
// 0.2.3.
TEST(SentencePiece, SumsOfScoresStartAnewWhereTheLibraryStartsThem) {
  const auto t = Tokenizer::from_sentencepiece(
      from_hex("0a0e0a053c756e6b3e150000000018020a0a0a0178150060eac618010a0a0a0166150000a0c018010a0a0a0161150"
               "000a0c018010a0b0a027374150000e0c0"
               "18010a0b0a026173150000c0c018010a0a0a0174156de7bfc018010a0a0a017315000010c1180112051801c002001"
               "a100a086964656e74697479180020002801"),
      "tokenizer.model");
  for (const int before : {0, 1, 2, 3, 4, 5, 6, 7, 8}) {
    SCOPED_TRACE(before);
    std::vector<int32_t> want(static_cast<size_t>(before), 1);
    const bool blurred = before == 3 || before == 7;
    want.insert(want.end(), {2, blurred ? 3 : 5, blurred ? 4 : 6});
    EXPECT_EQ(t->encode(std::string(static_cast<size_t>(before), 'x') + "fast", false), want);
  }
}

// Field numbers and wire types of a message by hand.
std::string field(int number, int wire, const std::string& bytes) {
  std::string out(1, static_cast<char>(number << 3 | wire));
  if (wire == 2) out += static_cast<char>(bytes.size());
  return out + bytes;
}
std::string piece(const std::string& text, int type) {
  return field(
      1, 2, field(1, 2, text) + field(2, 5, std::string(4, '\0')) + field(3, 0, {static_cast<char>(type)}));
}

// Rules for the normalizer: the byte C3, with which é begins, becomes `replacement`.
std::string charsmap(const std::string& replacement) {
  const uint32_t units[] = {0xc0u << 10, 0, 0x8000'0000u, 0xc3u | 0x100u | 1u << 10}, bytes = sizeof units;
  std::string out(reinterpret_cast<const char*>(&bytes), sizeof bytes);
  out.append(reinterpret_cast<const char*>(units), sizeof units);
  return out + replacement + '\0';
}

TEST(SentencePiece, SaysWhatIsWrong) {
  const std::string unk = piece("<unk>", 2), a = piece("a", 1);
  const std::string bytes_on = field(2, 2, "\x98\x02\1");  // field 35, byte_fallback
  const struct {
    std::string model, says;
  } rows[] = {
      {"", "got 0"},
      {a, "type 'unknown', got 0"},
      {unk + piece("?", 2), "type 'unknown', got 2"},
      {unk + piece("", 1), "an empty one"},
      {unk + piece("\xff", 1), "UTF-8"},
      {unk + piece("b", 9), "got 9"},
      {unk + a + a, "'a' again"},
      {unk + piece("<0x00>", 6), "without byte_fallback"},
      {unk + bytes_on, "256 byte pieces"},
      {unk + field(1, 2, field(2, 5, std::string("\0\0\xc0\x7f", 4)) + field(1, 2, "n")), "NaN"},
      {unk + field(1, 0, "\1"), "bytes in field 1"},
      {unk + "\x0a\x7f", "127 more bytes"},
      {unk + "\x0b", "wire type"},
      {unk + std::string(11, '\xff'), "at most 10 bytes"},
      {unk + "\x80", "got the end"},
      {unk + field(2, 2, field(3, 0, "\7")), "model_type 7"},
      {unk + a + field(3, 2, field(2, 2, "\xff\xff\xff\x7f map")), "precompiled_charsmap"},
      {unk + a + field(3, 2, field(2, 2, charsmap("x\xc3"))),
       "precompiled_charsmap: expected replacements in UTF-8"},
      {"IQ== 0\nIg== 1\n", "SentencePiece model"},
  };
  for (const auto& row : rows) {
    try {
      Tokenizer::from_sentencepiece(row.model, "dir/tokenizer.model");
      ADD_FAILURE() << "accepted, expected: " << row.says;
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("dir/tokenizer.model: "));
      EXPECT_THAT(e.what(), HasSubstr(row.says));
    }
  }
  EXPECT_EQ(Tokenizer::from_sentencepiece(unk + a, "t")->vocab_size(), 2);
}

// A rule may end inside a character; `sentencepiece` 0.2.3 reads the bytes left over as U+FFFD each.
TEST(SentencePiece, ARuleThatEndsInsideACharacter) {
  const std::string model = piece("<unk>", 2) + piece("x", 1) + piece("\uFFFD", 1) +
                            field(3, 2, field(2, 2, charsmap("x")) + field(3, 0, std::string(1, '\0')));
  const auto t = Tokenizer::from_sentencepiece(model, "t");
  EXPECT_EQ(t->encode("x", false), std::vector<int32_t>{1});
  EXPECT_EQ(t->encode("é", false), (std::vector<int32_t>{1, 2}));  // C3 A9
  EXPECT_EQ(t->encode("éx", false), (std::vector<int32_t>{1, 2, 1}));
}

TEST(SentencePiece, AModelCutOrChangedAnywhereIsReadOrRefused) {
  const std::string model = model_named("bpe, unused and user-defined pieces");
  int read = 0;
  for (size_t n = 0; n < model.size(); n += 13) {
    std::string changed = model;
    changed[n] = static_cast<char>(changed[n] ^ (1 << n % 8));
    for (const std::string& bytes : {model.substr(0, n), changed}) {
      try {
        const auto t = Tokenizer::from_sentencepiece(bytes, "t");
        t->decode(t->encode("The river ①  ﬁne <tool>ab\u3000中", true), false);
        ++read;
      } catch (const Error&) {
      }
    }
  }
  EXPECT_GT(read, 0);
}

class ModelFolder : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(testing::TempDir()) / "sentencepiece_folder";
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
    write_file_atomic(dir_ / "tokenizer.model", model_named("bpe, byte fallback"));
    plain_ = Tokenizer::from_sentencepiece(model_named("bpe, byte fallback"), "plain");
    size_ = plain_->vocab_size();
  }
  void write(const char* name, const Json& json) { write_file_atomic(dir_ / name, json.dump()); }

  std::filesystem::path dir_;
  std::shared_ptr<const Tokenizer> plain_;
  int32_t size_ = 0;
};

TEST_F(ModelFolder, WithoutNeighboursItIsALlamaTokenizer) {
  auto ids = plain_->encode("The mill", false);
  const auto t = Tokenizer::from_dir(dir_);
  EXPECT_EQ(t->encode("The mill", false), ids);
  ids.insert(ids.begin(), 1);
  EXPECT_EQ(t->encode("The mill", true), ids);
}

TEST_F(ModelFolder, NeighboursAddTokensAndEnds) {
  write("added_tokens.json", {{"<tool>", size_}});
  write("special_tokens_map.json", {{"pad_token", "<pad>"}, {"unk_token", {{"content", "<unk>"}}}});
  write("tokenizer_config.json",
        {{"tokenizer_class", "LlamaTokenizer"},
         {"add_bos_token", false},
         {"add_eos_token", true},
         {"eos_token", "</s>"},
         {"additional_special_tokens", {"<|im|>"}},
         {"added_tokens_decoder", {{std::to_string(size_ + 1), {{"content", "<x>"}, {"special", true}}}}}});
  const auto t = Tokenizer::from_dir(dir_);
  EXPECT_EQ(t->vocab_size(), size_ + 4);
  EXPECT_EQ(t->id_of("<tool>"), size_);
  EXPECT_EQ(t->id_of("<x>"), size_ + 1);
  EXPECT_FALSE(t->is_special(size_));
  for (const char* token : {"<x>", "<pad>", "<|im|>", "<unk>"})
    EXPECT_TRUE(t->is_special(*t->id_of(token))) << token;
  auto ids = plain_->encode("mill", false);
  ids.insert(ids.begin(), size_);
  ids.push_back(0);
  ids.push_back(2);
  EXPECT_EQ(t->encode("<tool>mill<unk>", true), ids);
}

TEST_F(ModelFolder, TheDummyPrefixCanBelongToTheStartAlone) {
  write("tokenizer_config.json", {{"legacy", false}});
  const auto t = Tokenizer::from_dir(dir_);
  const auto after = t->encode("<s>mill", false);
  EXPECT_EQ(t->decode(after, true), "mill");
  EXPECT_NE(after, plain_->encode("<s>mill", false));
  EXPECT_EQ(t->encode("mill", false), plain_->encode("mill", false));
}

TEST_F(ModelFolder, ClassesThatChangeIdsAreRefused) {
  write("tokenizer_config.json", {{"tokenizer_class", "XLMRobertaTokenizer"}});
  try {
    Tokenizer::from_dir(dir_);
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Code::kUnsupported);
    EXPECT_THAT(e.what(), HasSubstr("XLMRobertaTokenizer"));
  }
  write("tokenizer_config.json", {{"added_tokens_decoder", {{"x", {{"content", "<x>"}}}}}});
  EXPECT_THROW(Tokenizer::from_dir(dir_), Error);
  write("tokenizer_config.json",
        {{"added_tokens_decoder", {{"3", {{"content", "<x>"}}}}}});  // 3 is another piece
  EXPECT_THROW(Tokenizer::from_dir(dir_), Error);
}

// The vocabulary of a GGUF file with scores gives the ids of the model it was made from, and so does what we
// write.
TEST(SentencePiece, TheSameVocabularyInGguf) {
  for (const Json& m : fixtures::load("sentencepiece")) {
    if (m["name"] != "bpe, byte fallback") continue;
    const std::string model = from_hex(m["model"]);
    const auto original = Tokenizer::from_sentencepiece(model, "m");
    GgufVocab v;
    v.model = "llama";
    for (int32_t id = 0; id < original->vocab_size(); ++id) {
      std::string token = m["pieces"][id][0];
      v.tokens.push_back(std::move(token));
      v.scores.push_back(m["pieces"][id][1]);
      v.token_type.push_back(m["pieces"][id][2]);
    }
    v.unk = 0;
    v.bos = 1;
    v.eos = 2;
    const auto direct = Tokenizer::from_gguf(v, "m.gguf");
    const auto files = tokenizer_files_from_gguf(v, 2048, "m.gguf");
    const auto written = Tokenizer::from_json(files.tokenizer_json, "tokenizer.json");
    for (const Json& c : m["cases"]) {
      SCOPED_TRACE(c["text"].dump());
      const auto ids = c["ids"].get<std::vector<int32_t>>();
      auto with_bos = ids;
      with_bos.insert(with_bos.begin(), 1);
      for (const auto& t : {direct, written}) {
        EXPECT_EQ(t->encode(c["text"].get<std::string>(), false), ids);
        EXPECT_EQ(t->encode(c["text"].get<std::string>(), true), with_bos);
        EXPECT_EQ(t->decode(ids, true), c["decoded"].get<std::string>());
      }
    }
    v.add_space_prefix = false;
    EXPECT_EQ(Tokenizer::from_gguf(v, "m")->decode(Tokenizer::from_gguf(v, "m")->encode("mill", false), true),
              "mill");
  }
}

}  // namespace
}  // namespace awq
