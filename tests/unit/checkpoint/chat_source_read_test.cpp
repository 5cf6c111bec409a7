#include "checkpoint/chat_source.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "unit/formats/files.h"

namespace awq {
namespace {

using namespace test;
using ::testing::AllOf;
using ::testing::HasSubstr;

using Json = nlohmann::ordered_json;

// A folder with the least that opens, and these files.
ChatSource source_of(const TempDir& dir, const std::vector<std::pair<std::string, std::string>>& files) {
  dir.write("config.json", R"({"model_type": "llama"})");
  dir.write("model.safetensors", safetensors({f32_tensor("w", {1, 2}, {2})}));
  for (const auto& [name, text] : files) {
    std::filesystem::create_directories((dir.path() / name).parent_path());
    dir.write(name, text);
  }
  return chat_source(*Checkpoint::open(dir.path()));
}

std::vector<std::pair<std::string, std::string>> named(const ChatSource& source) {
  std::vector<std::pair<std::string, std::string>> out;
  for (const auto& t : source.templates) out.emplace_back(t.name, t.source);
  return out;
}
using Named = std::vector<std::pair<std::string, std::string>>;

TEST(ChatSourceRead, TheFilesInTheirOrder) {
  const std::pair<std::string, std::string> jinja{"chat_template.jinja", "from jinja"},
      rag{"additional_chat_templates/rag.jinja", "from rag"},
      tool{"additional_chat_templates/tool_use.jinja", "from tool"},
      stray{"additional_chat_templates/notes.txt", "no template"},
      config{"tokenizer_config.json", R"({"chat_template": "from config"})"},
      legacy{"chat_template.json", R"({"chat_template": "from legacy"})"};
  EXPECT_EQ(named(source_of(TempDir(), {jinja, tool, rag, stray, config, legacy})),
            (Named{{"default", "from jinja"}, {"rag", "from rag"}, {"tool_use", "from tool"}}));
  EXPECT_EQ(named(source_of(TempDir(), {config, legacy})), (Named{{"default", "from config"}}));
  EXPECT_EQ(named(source_of(TempDir(), {legacy})), (Named{{"default", "from legacy"}}));
  EXPECT_TRUE(source_of(TempDir(), {}).templates.empty());
}

TEST(ChatSourceRead, SeveralTemplatesInOneFile) {
  const auto source = source_of(
      TempDir(),
      {{"tokenizer_config.json",
        R"({"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]})"}});
  EXPECT_EQ(named(source), (Named{{"default", "a"}, {"tool_use", "b"}}));
  EXPECT_THAT(source.templates[1].where, AllOf(HasSubstr("tokenizer_config.json"), HasSubstr("'tool_use'")));
}

TEST(ChatSourceRead, BrokenFilesAreNamed) {
  for (const char* bad :
       {R"({"chat_template": 7})", R"({"chat_template": [{"name": "default"}]})",
        R"({"chat_template": [{"name": 1, "template": "a"}]})", R"({"chat_template": ["a"]})", "[]", "{"}) {
    TempDir dir;
    EXPECT_THAT(error_of([&] {
                  source_of(dir, {{"tokenizer_config.json", bad}});
                }),
                AllOf(HasSubstr("bad_file"), HasSubstr("tokenizer_config.json")))
        << bad;
  }
}

TEST(ChatSourceRead, SpecialTokens) {
  const auto source = source_of(
      TempDir(),
      {{"tokenizer_config.json",
        R"({"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "pad_token": null,
            "additional_special_tokens": ["<a>", {"content": "<b>"}]})"},
       {"special_tokens_map.json",
        R"({"eos_token": "<other>", "unk_token": "<unk>", "additional_special_tokens": ["<c>"]})"}});
  EXPECT_EQ(Json::parse(source.special_tokens), Json({{"bos_token", "<s>"},
                                                      {"eos_token", "</s>"},
                                                      {"additional_special_tokens", {"<a>", "<b>"}},
                                                      {"unk_token", "<unk>"}}));
}

GgufBuilder gguf() {
  GgufBuilder b;
  b.text("general.architecture", "llama")
      .text("tokenizer.ggml.model", "gpt2")
      .text("tokenizer.ggml.pre", "qwen2");
  b.texts("tokenizer.ggml.tokens", {"a", "b", "ab", "<s>", "</s>"}).texts("tokenizer.ggml.merges", {"a b"});
  b.array<int32_t>("tokenizer.ggml.token_type", 5, {1, 1, 1, 3, 3});
  b.u32("llama.block_count", 1).u32("llama.context_length", 128).u32("llama.embedding_length", 32);
  b.u32("llama.feed_forward_length", 64)
      .u32("llama.attention.head_count", 4)
      .f32("llama.attention.layer_norm_rms_epsilon", 1e-6f);
  b.u32("tokenizer.ggml.bos_token_id", 3).u32("tokenizer.ggml.eos_token_id", 4);
  b.f32_tensor("token_embd.weight", {5, 32}, std::vector<float>(160));
  return b;
}

TEST(ChatSourceRead, GgufTemplatesWithNames) {
  TempDir dir;
  GgufBuilder b = gguf();
  b.text("tokenizer.chat_template", "plain").text("tokenizer.chat_template.tool_use", "with tools");
  b.texts("tokenizer.chat_templates", {"tool_use"});
  const auto source = chat_source(*Checkpoint::open(dir.write("m.gguf", b.build())));
  EXPECT_EQ(named(source), (Named{{"default", "plain"}, {"tool_use", "with tools"}}));
  EXPECT_THAT(source.templates[1].where,
              AllOf(HasSubstr("m.gguf"), HasSubstr("tokenizer.chat_template.tool_use")));
  EXPECT_EQ(Json::parse(source.special_tokens), Json({{"bos_token", "<s>"}, {"eos_token", "</s>"}}));
}

TEST(ChatSourceRead, GgufWithoutTemplates) {
  TempDir dir;
  EXPECT_TRUE(chat_source(*Checkpoint::open(dir.write("m.gguf", gguf().build()))).templates.empty());
}

}  // namespace
}  // namespace awq
