// Ids and texts equal those of PyPI `tokenizers`.
#include <gtest/gtest.h>

#include <thread>

#include "fixtures.h"

namespace awq {
namespace {

using fixtures::Json;

class Family : public testing::TestWithParam<const char*> {};

TEST_P(Family, EncodesAndDecodesAsRecorded) {
  const Json recorded = fixtures::load(GetParam());
  const auto t = fixtures::tokenizer(recorded["tokenizer"]);
  ASSERT_GT(recorded["cases"].size(), 30u);
  for (const Json& c : recorded["cases"]) {
    SCOPED_TRACE(c["text"].dump());
    const auto ids = c["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(t->encode(c["text"].get<std::string>(), false), ids);
    EXPECT_EQ(t->encode(c["text"].get<std::string>(), true), c["special_ids"].get<std::vector<int32_t>>());
    EXPECT_EQ(t->decode(ids, false), c["decoded"].get<std::string>());
    EXPECT_EQ(t->decode(ids, true), c["decoded_skip"].get<std::string>());
    std::string bytes;
    for (const int32_t id : ids) bytes += t->token_bytes(id);
    EXPECT_EQ(bytes, c["decoded"].get<std::string>());
  }
}

TEST_P(Family, KnowsItsVocabulary) {
  const Json json = fixtures::load(GetParam())["tokenizer"];
  const auto t = fixtures::tokenizer(json);
  EXPECT_EQ(t->vocab_size(), static_cast<int32_t>(json["model"]["vocab"].size()) + 1);  // and <tool>
  EXPECT_EQ(t->id_of("<|begin|>"), 0);
  EXPECT_EQ(t->id_of("<|end|>"), 1);
  EXPECT_EQ(t->id_of("<tool>"), t->vocab_size() - 1);
  EXPECT_EQ(t->id_of("no such token"), std::nullopt);
  EXPECT_TRUE(t->is_special(0));
  EXPECT_FALSE(t->is_special(t->vocab_size() - 1));
  for (const int32_t outside : {-1, t->vocab_size(), INT32_MAX, INT32_MIN}) {
    EXPECT_FALSE(t->is_special(outside));
    EXPECT_EQ(t->token_bytes(outside), "");
  }
  EXPECT_EQ(t->decode(std::vector<int32_t>{-5, 1 << 30}, false), "");
}

INSTANTIATE_TEST_SUITE_P(Recorded, Family, testing::Values("gpt2", "llama3", "qwen2", "smollm"),
                         [](const auto& p) { return std::string(p.param); });

class OtherFamily : public testing::TestWithParam<const char*> {};

TEST_P(OtherFamily, EncodesAndDecodesAsRecorded) {
  const Json recorded = fixtures::load(GetParam());
  const auto t = fixtures::tokenizer(recorded["tokenizer"]);
  ASSERT_GT(recorded["cases"].size(), 30u);
  for (const Json& c : recorded["cases"]) {
    SCOPED_TRACE(c["text"].dump());
    const auto ids = c["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(t->encode(c["text"].get<std::string>(), false), ids);
    EXPECT_EQ(t->encode(c["text"].get<std::string>(), true), c["special_ids"].get<std::vector<int32_t>>());
    EXPECT_EQ(t->decode(ids, false), c["decoded"].get<std::string>());
    EXPECT_EQ(t->decode(ids, true), c["decoded_skip"].get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(Recorded, OtherFamily,
                         testing::Values("unigram", "bert", "word_level", "word_suffix", "subword_prefix"),
                         [](const auto& p) { return std::string(p.param); });

class Variants : public testing::TestWithParam<const char*> {};

TEST_P(Variants, EncodeAsRecorded) {
  const Json recorded = fixtures::load(GetParam());
  ASSERT_FALSE(recorded["variants"].empty());
  for (const Json& variant : recorded["variants"]) {
    SCOPED_TRACE(variant["name"]);
    const auto t = fixtures::tokenizer(fixtures::patched(recorded["tokenizer"], variant["patch"]));
    for (size_t i = 0; i < recorded["texts"].size(); ++i) {
      SCOPED_TRACE(recorded["texts"][i].dump());
      const auto ids = variant["ids"][i].get<std::vector<int32_t>>();
      EXPECT_EQ(t->encode(recorded["texts"][i].get<std::string>(), false), ids);
      if (variant.contains("decoded")) {
        EXPECT_EQ(t->decode(ids, false), variant["decoded"][i].get<std::string>());
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Recorded, Variants, testing::Values("pre_tokenizers", "other_parts", "characters"),
                         [](const auto& p) { return std::string(p.param); });

TEST(Tokenizer, InvalidUtf8IsReadAsReplacementCharacters) {
  const auto t = fixtures::tokenizer(fixtures::load("gpt2")["tokenizer"]);
  EXPECT_EQ(t->encode("a\xff\xe4\xb8z", false), t->encode("a\uFFFD\uFFFDz", false));
}

TEST(Tokenizer, SameIdsFromManyThreads) {
  const Json recorded = fixtures::load("smollm");
  const auto t = fixtures::tokenizer(recorded["tokenizer"]);
  std::vector<int> wrong(8, 0);
  std::vector<std::thread> threads;
  for (size_t n = 0; n < wrong.size(); ++n) {
    threads.emplace_back([&, n] {
      for (int round = 0; round < 20; ++round)
        for (const Json& c : recorded["cases"])
          wrong[n] += t->encode(c["text"].get_ref<const std::string&>(), false) !=
                      c["ids"].get<std::vector<int32_t>>();
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(8, 0));
}

// Time must grow with the length, not with its square: a square would take minutes here.
TEST(Tokenizer, AMegabyteOfOneCharacter) {
  for (const char* family : {"gpt2", "llama3", "unigram", "word_suffix", "characters"}) {
    SCOPED_TRACE(family);
    const auto t = fixtures::tokenizer(fixtures::load(family)["tokenizer"]);
    for (const std::string part : {"a", " ", "\n", "0", "<", "<|end|", "\u200d"}) {
      std::string text;
      while (text.size() < 1'000'000) text += part;
      const auto ids = t->encode(text, false);
      if (family == std::string("gpt2") || family == std::string("llama3")) {
        EXPECT_EQ(t->decode(ids, false), text);
      }
    }
  }
}

}  // namespace
}  // namespace awq
