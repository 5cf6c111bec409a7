#include "text/protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace awq {
namespace {

using ::testing::ElementsAre;

constexpr int32_t kBos = 256;

// One token per byte; puts a BOS in front when asked to.
class ByteTokenizer : public Tokenizer {
 public:
  explicit ByteTokenizer(bool bos) : bos_(bos) {}
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const override {
    std::vector<int32_t> ids;
    if (add_special_tokens && bos_) ids.push_back(kBos);
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(std::span<const int32_t> ids, bool) const override {
    std::string text;
    for (const int32_t id : ids) text += id == kBos ? "<s>" : std::string(1, static_cast<char>(id));
    return text;
  }
  std::string token_bytes(int32_t id, bool) const override { return std::string(1, static_cast<char>(id)); }
  bool is_special(int32_t id) const override { return id == kBos; }
  std::optional<int32_t> id_of(std::string_view) const override { return std::nullopt; }
  int32_t vocab_size() const override { return 257; }

 private:
  bool bos_;
};

TextSet plain(const std::string& text) { return parse_text(text, "f", "f", TextFormat::kPlain); }

std::string under(Protocol protocol, const TextSet& text, bool bos = false) {
  const ByteTokenizer tokenizer(bos);
  return tokenizer.decode(protocol_tokens(text, tokenizer, protocol), false);
}

TEST(Protocol, Gptq2048JoinsTheRowsOfTheDataset) {
  // rows = text.split("\n") as "" if blank else row + "\n"; a last "" left out; "\n\n".join(rows)
  const std::pair<const char*, const char*> cases[] = {
      {"a", "a\n"},
      {"a\n", "a\n"},
      {"a\nb\n", "a\n\n\nb\n"},
      {" \n = T = \n \n x y \n", "\n\n = T = \n\n\n\n\n x y \n"},
      {"a\n\n", "a\n\n\n"},
      {"a\n \t\n\n", "a\n\n\n\n\n"},
      {"a\n  ", "a\n"},
      {"a\r\nb", "a\r\n\n\nb\n"},
      {"\r\na", "\n\na\n"},
      {"a\n\u00a0\u3000\x1f\nb", "a\n\n\n\n\nb\n"},
      {"a\n\u200b\nb", "a\n\n\n\u200b\n\n\nb\n"},  // a zero-width space is none
  };
  for (const auto& [text, expected] : cases)
    EXPECT_EQ(under(Protocol::kGptq2048, plain(text)), expected) << ::testing::PrintToString(text);
}

TEST(Protocol, RawAndRecordsAreTakenAsTheyAre) {
  const TextSet records =
      parse_text("{\"text\":\"a\\n\\nb\\n\"}\n{\"text\":\" c\"}\n", "f", "f", TextFormat::kJsonLines);
  EXPECT_EQ(under(Protocol::kRaw2048, plain(" a\n\nb\n"), true), " a\n\nb\n");
  for (const Protocol p : {Protocol::kRaw2048, Protocol::kGptq2048})
    EXPECT_EQ(under(p, records, true), "a\n\nb\n c");
  EXPECT_EQ(under(Protocol::kLlamacpp512, records), "a\n\nb\n c");
  const ByteTokenizer tokenizer(true);
  EXPECT_EQ(tokenizer.decode(token_stream(records, tokenizer), false), "a\n\nb\n c");
}

TEST(Protocol, Llamacpp512AddsBosAndDropsOneNewline) {
  EXPECT_EQ(under(Protocol::kLlamacpp512, plain("a\nb\n\n"), true), "<s>a\nb\n");
  EXPECT_EQ(under(Protocol::kLlamacpp512, plain("a\nb"), false), "a\nb");
}

TEST(Protocol, Windows) {
  for (const Protocol p : {Protocol::kGptq2048, Protocol::kRaw2048}) {
    const WindowSpec spec = protocol_windows(p, ByteTokenizer(true));
    EXPECT_EQ(spec.length, 2048);
    EXPECT_EQ(spec.unscored, 0);
    EXPECT_FALSE(spec.first_token);
  }
  const WindowSpec spec = protocol_windows(Protocol::kLlamacpp512, ByteTokenizer(true));
  EXPECT_EQ(spec.length, 512);
  EXPECT_EQ(spec.unscored, 256);
  EXPECT_EQ(spec.first_token, kBos);
  EXPECT_FALSE(protocol_windows(Protocol::kLlamacpp512, ByteTokenizer(false)).first_token);
}

TEST(Protocol, Names) {
  EXPECT_THAT(protocol_names(), ElementsAre(::testing::StrEq("gptq2048"), ::testing::StrEq("raw2048"),
                                            ::testing::StrEq("llamacpp512")));
  for (const char* name : protocol_names()) EXPECT_STREQ(protocol_name(protocol_named(name)), name);
  try {
    protocol_named("gptq");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kBadArgument);
    EXPECT_STREQ(error.what(), "protocol 'gptq': expected gptq2048, raw2048 or llamacpp512");
  }
}

}  // namespace
}  // namespace awq
