#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "fixtures.h"
#include "tokenizer/gguf_pre.h"

namespace awq {
namespace {

using fixtures::Json;
using testing::HasSubstr;

template <class Call>
void expect_error(Code code, const std::vector<std::string>& parts, Call call) {
  try {
    call();
    ADD_FAILURE() << "expected an error with " << parts[0];
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    for (const std::string& part : parts) EXPECT_THAT(e.what(), HasSubstr(part));
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << "one line";
  }
}

struct Row {
  const char *family, *pre;
  bool bos;
};
class GgufFamily : public testing::TestWithParam<Row> {};

TEST_P(GgufFamily, EqualsTheTokenizerItWasMadeFrom) {
  const Json recorded = fixtures::load(GetParam().family);
  GgufVocab vocab = fixtures::gguf_vocab(recorded["tokenizer"], GetParam().pre);
  vocab.bos = 0;
  vocab.eos = 1;
  const auto direct = Tokenizer::from_gguf(vocab, "model.gguf");
  const auto files = tokenizer_files_from_gguf(vocab, 2048, "model.gguf");
  const auto written = Tokenizer::from_json(files.tokenizer_json, "tokenizer.json");
  EXPECT_EQ(direct->vocab_size(), static_cast<int32_t>(vocab.tokens.size()));
  for (const auto& t : {direct, written}) {
    for (const Json& c : recorded["cases"]) {
      SCOPED_TRACE(c["text"].dump());
      const auto ids = c["ids"].get<std::vector<int32_t>>();
      auto special = ids;
      if (GetParam().bos) special.insert(special.begin(), 0);
      EXPECT_EQ(t->encode(c["text"].get<std::string>(), false), ids);
      EXPECT_EQ(t->encode(c["text"].get<std::string>(), true), special);
      EXPECT_EQ(t->decode(ids, true), c["decoded_skip"].get<std::string>());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Recorded, GgufFamily,
                         testing::Values(Row{"gpt2", "gpt-2", false}, Row{"llama3", "llama-bpe", true},
                                         Row{"qwen2", "qwen2", false}, Row{"smollm", "smollm", false}),
                         [](const auto& p) { return std::string(p.param.family); });

TEST(Gguf, EveryKnownPreTokenizerRoundTrips) {
  const Json recorded = fixtures::load("gpt2");
  ASSERT_GT(gguf_pre_names().size(), 60u);
  for (const std::string& pre : gguf_pre_names()) {
    SCOPED_TRACE(pre);
    const GgufVocab vocab = fixtures::gguf_vocab(recorded["tokenizer"], pre);
    const auto direct = Tokenizer::from_gguf(vocab, "model.gguf");
    const auto written = Tokenizer::from_json(tokenizer_files_from_gguf(vocab, 1, "m").tokenizer_json, "t");
    for (const Json& c : recorded["cases"]) {
      const std::string text = c["text"];
      EXPECT_EQ(direct->encode(text, true), written->encode(text, true)) << text;
    }
    const std::string plain = "Digits 123 and 'words', don't split bytes: 中文!\n";
    EXPECT_EQ(direct->decode(direct->encode(plain, false), false), plain);
  }
}

TEST(Gguf, FilesNameTheSpecialTokens) {
  GgufVocab vocab = fixtures::gguf_vocab(fixtures::load("smollm")["tokenizer"], "smollm");
  vocab.bos = 0;
  vocab.eos = vocab.pad = 1;
  vocab.unk = 0;
  vocab.add_bos = vocab.add_eos = true;
  vocab.chat_template = "{{ messages }}";
  const auto files = tokenizer_files_from_gguf(vocab, 8192, "model.gguf");
  EXPECT_EQ(files.chat_template_jinja, "{{ messages }}");
  const Json config = Json::parse(files.tokenizer_config_json);
  EXPECT_EQ(config["tokenizer_class"], "PreTrainedTokenizerFast");
  EXPECT_EQ(config["model_max_length"], 8192);
  EXPECT_EQ(config["bos_token"], "<|begin|>");
  EXPECT_EQ(config["eos_token"], "<|end|>");
  EXPECT_EQ(config["pad_token"], "<|end|>");
  EXPECT_EQ(config["unk_token"], "<|begin|>");
  EXPECT_EQ(config["added_tokens_decoder"]["1"]["content"], "<|end|>");
  EXPECT_EQ(config["added_tokens_decoder"]["1"]["special"], true);
  const std::string tool = std::to_string(vocab.tokens.size() - 1);
  EXPECT_EQ(config["added_tokens_decoder"][tool]["content"], "<tool>");
  EXPECT_EQ(config["added_tokens_decoder"][tool]["special"], false);
  EXPECT_EQ(Json::parse(files.tokenizer_json)["post_processor"]["type"], "TemplateProcessing");
  const auto t = Tokenizer::from_json(files.tokenizer_json, "t");
  auto ids = t->encode("x", false);
  ids.insert(ids.begin(), 0);
  ids.push_back(1);
  EXPECT_EQ(t->encode("x", true), ids);
}

TEST(Gguf, SaysWhatItDoesNotSupport) {
  const GgufVocab good = fixtures::gguf_vocab(fixtures::load("gpt2")["tokenizer"], "gpt-2");
  const auto load = [](const GgufVocab& v) { return [&v] { Tokenizer::from_gguf(v, "model.gguf"); }; };
  GgufVocab v = good;
  v.pre = "jabberwock";
  expect_error(Code::kUnsupported, {"model.gguf", "tokenizer.ggml.pre 'jabberwock'", "smollm", "qwen2"},
               load(v));
  v = good;
  v.model = "rwkv";
  expect_error(Code::kUnsupported, {"model.gguf", "tokenizer.ggml.model 'rwkv'", "gpt2, llama"}, load(v));
  v.model = "llama";
  expect_error(Code::kBadFile, {"tokenizer.ggml.scores", "got none"}, load(v));
  v.scores.assign(v.tokens.size() - 1, 0.0f);
  expect_error(Code::kBadFile, {"tokenizer.ggml.scores", "one per token"}, load(v));
  v = good;
  v.tokens.clear();
  v.token_type.clear();
  expect_error(Code::kBadFile, {"tokenizer.ggml.tokens"}, load(v));
  v = good;
  v.token_type.pop_back();
  expect_error(Code::kBadFile, {"tokenizer.ggml.token_type", "one per token"}, load(v));
  v = good;
  v.tokens[300] = v.tokens[299];
  expect_error(Code::kBadFile, {"tokenizer.ggml.tokens[300]", "like token 299"}, load(v));
  v = good;
  v.tokens[300] = "\xff";
  expect_error(Code::kBadFile, {"tokenizer.ggml.tokens[300]", "UTF-8"}, load(v));
  v = good;
  v.merges[3] = "nospace";
  expect_error(Code::kBadFile, {"tokenizer.ggml.merges[3]", "'nospace'"}, load(v));
  v = good;
  v.merges[3] = "a \xff";
  expect_error(Code::kBadFile, {"tokenizer.ggml.merges[3]", "expected UTF-8"}, load(v));
  v.merges[3] = "a 中";
  expect_error(Code::kBadFile, {"merge 3", "'中'"}, load(v));
  v = good;
  v.add_bos = true;
  expect_error(Code::kBadFile, {"bos_token_id", "got none"}, load(v));
  v.bos = 1 << 20;
  expect_error(Code::kBadFile, {"bos_token_id", "got 1048576"}, load(v));
}

}  // namespace
}  // namespace awq
