#include "text/text_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "base/error.h"
#include "base/sha256.h"
#include "base/system.h"
#include "text/corpus.h"

namespace awq {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

size_t bytes_of(const TextSet& set) {
  size_t total = 0;
  for (const auto& sample : set.samples) total += sample.size();
  return total;
}

// Split at line ends and behind . ! ? and their full-width forms; only what is longer than 40 bytes.
std::vector<std::string> sentences(std::string_view text) {
  std::vector<std::string> all;
  const auto add = [&](std::string_view part) {
    const size_t first = part.find_first_not_of(" \t");
    if (first == std::string_view::npos) return;
    part = part.substr(first, part.find_last_not_of(" \t") - first + 1);
    if (part.size() > 40) all.emplace_back(part);
  };
  size_t begin = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    const std::string_view rest = text.substr(at);
    size_t end = 0;
    if (rest[0] == '\n' || rest.starts_with(". ") || rest.starts_with("! ") || rest.starts_with("? "))
      end = at + 1;
    for (const char* mark : {"。", "！", "？"})
      if (rest.starts_with(mark)) end = at + 3;
    if (end == 0) continue;
    add(text.substr(begin, end - begin));
    begin = end;
  }
  add(text.substr(begin));
  return all;
}

TEST(BuiltinText, IsLargeEnough) {
  // Tokenizers of current models take three to four bytes of such text per token.
  EXPECT_GE(builtin_calibration().samples.size(), 128U);
  EXPECT_GE(bytes_of(builtin_calibration()), 40000U * 4);
  EXPECT_GE(bytes_of(builtin_heldout()), 16000U * 4);
  EXPECT_EQ(builtin_calibration().name, "builtin");
  EXPECT_NE(builtin_calibration().sha256, builtin_heldout().sha256);
}

TEST(BuiltinText, NoSentenceOccursTwice) {
  std::map<std::string, std::string> seen;  // sentence -> where
  size_t count = 0;
  for (const auto& [name, set] :
       {std::pair{"calibration", &builtin_calibration()}, {"heldout", &builtin_heldout()}})
    for (size_t i = 0; i < set->samples.size(); ++i)
      for (const std::string& sentence : sentences(set->samples[i])) {
        const std::string where = fmt::format("{} sample {}", name, i);
        const auto [at, fresh] = seen.emplace(sentence, where);
        EXPECT_TRUE(fresh) << at->second << " and " << where << ": " << sentence;
        ++count;
      }
  EXPECT_GT(count, 2000U);
}

TEST(BuiltinText, SamplesAreTrimmedAndDistinct) {
  for (const TextSet* set : {&builtin_calibration(), &builtin_heldout()}) {
    const std::set<std::string> distinct(set->samples.begin(), set->samples.end());
    EXPECT_EQ(distinct.size(), set->samples.size());
    for (const std::string& sample : set->samples) {
      EXPECT_GT(sample.size(), 100U) << sample;
      EXPECT_TRUE(sample.front() != '\n' && sample.back() != '\n') << sample;
      EXPECT_THAT(sample, Not(HasSubstr("%%%%")));
    }
  }
}

TEST(BuiltinText, EveryPrefixMixesTheFiles) {
  const auto check = [](const TextSet& set, std::span<const CorpusFile> files) {
    ASSERT_GE(files.size(), 6U);
    for (size_t i = 0; i < 3 * files.size(); ++i)
      EXPECT_NE(files[i % files.size()].text.find(set.samples[i]), std::string_view::npos) << i;
  };
  check(builtin_calibration(), calibration_files());
  check(builtin_heldout(), heldout_files());
}

TEST(BuiltinText, IsWhatTheFilesHold) {
  const std::filesystem::path root = std::filesystem::path(AWQ_TEST_DATA) / "../../src/text/corpus";
  std::set<std::string> embedded;
  for (const auto files : {calibration_files(), heldout_files()})
    for (const CorpusFile& file : files) {
      EXPECT_EQ(file.text, read_text_file(root / file.name)) << file.name;
      embedded.emplace(file.name);
    }
  std::set<std::string> stored;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root))
    if (entry.path().extension() == ".txt")
      stored.insert(std::filesystem::relative(entry.path(), root).generic_string());
  EXPECT_EQ(embedded, stored);
}

struct Parsed {
  const char* what;
  std::string bytes;
  TextFormat format;
  bool plain;
  std::vector<std::string> samples;
};

TEST(ParseText, Samples) {
  const Parsed cases[] = {
      {"a text stays whole", " a\n\nb\r\n\n", TextFormat::kPlain, true, {" a\n\nb\r\n\n"}},
      {"braces in plain text", "{\"text\": \"a\"}\n", TextFormat::kPlain, true, {"{\"text\": \"a\"}\n"}},
      {"one record per line",
       "{\"text\":\"a\\nb\"}\n{\"id\":1,\"text\":\" ü \"}",
       TextFormat::kJsonLines,
       false,
       {"a\nb", " ü "}},
      {"blank lines and empty records",
       "\n{\"text\":\"\"}\r\n  \r\n{\"text\":\"x\"}\n\n",
       TextFormat::kJsonLines,
       false,
       {"x"}},
      {"detected records", "{\"text\":\"a\"}\n{\"text\":\"b\"}\n", TextFormat::kDetect, false, {"a", "b"}},
      {"detected code", "{ int x; }\n", TextFormat::kDetect, true, {"{ int x; }\n"}},
      {"detected other JSON", "{\"name\":\"a\"}\n", TextFormat::kDetect, true, {"{\"name\":\"a\"}\n"}},
      {"detected prose", "Hello.", TextFormat::kDetect, true, {"Hello."}},
      {"the longest sequences",
       "\u00e9\u20ac\U0001f600\U0010ffff\uffff",
       TextFormat::kPlain,
       true,
       {"\u00e9\u20ac\U0001f600\U0010ffff\uffff"}},
  };
  for (const Parsed& c : cases) {
    const TextSet set = parse_text(c.bytes, "dir/f.txt", "f.txt", c.format);
    EXPECT_EQ(set.samples, c.samples) << c.what;
    EXPECT_EQ(set.plain, c.plain) << c.what;
    EXPECT_EQ(set.name, "f.txt");
    EXPECT_EQ(set.sha256, sha256_hex(c.bytes));
  }
}

struct Refused {
  std::string bytes;
  TextFormat format;
  Code code;
  const char* message;
};

TEST(ParseText, Errors) {
  const auto bad_byte = [](const std::string& bytes, const char* message) {
    return Refused{"ab" + bytes + "c", TextFormat::kPlain, Code::kBadFile, message};
  };
  const Refused cases[] = {
      {"", TextFormat::kPlain, Code::kBadFile, "d/f: expected text, got an empty file"},
      {" \n\t\n", TextFormat::kDetect, Code::kBadFile, "d/f: expected text, got only white space"},
      {"{\"text\":\"\"}", TextFormat::kJsonLines, Code::kBadFile,
       "d/f: expected text, got only empty records"},
      {"{\"text\":\"a\"}\n\n{\"text\":", TextFormat::kJsonLines, Code::kBadFile,
       "d/f: line 3: expected a JSON object"},
      {"{\"text\":\"\\ud800\"}", TextFormat::kJsonLines, Code::kBadFile, "got invalid JSON (column"},
      {"[1]", TextFormat::kJsonLines, Code::kBadFile,
       "line 1: expected a JSON object {\"text\": ...}, got array"},
      {"{\"content\":1}", TextFormat::kJsonLines, Code::kBadFile, "got an object without \"text\""},
      {"{\"text\":7}", TextFormat::kJsonLines, Code::kBadFile,
       "line 1: expected \"text\" to be a string, got number"},
      {"{\"messages\":[]}", TextFormat::kJsonLines, Code::kUnsupported, "line 1: conversations"},
      {"{\"messages\":[]}", TextFormat::kDetect, Code::kUnsupported, "line 1: conversations"},
      bad_byte("\x80", "expected UTF-8 text, got byte 0x80 at offset 2"),
      bad_byte("\xc0\xaf", "0xc0 at offset 2"),          // overlong
      bad_byte("\xe0\x9f\xbf", "0xe0 at offset 2"),      // overlong
      bad_byte("\xed\xa0\x80", "0xed at offset 2"),      // a surrogate
      bad_byte("\xf0\x8f\xbf\xbf", "0xf0 at offset 2"),  // overlong
      bad_byte("\xf4\x90\x80\x80", "0xf4 at offset 2"),  // beyond U+10FFFF
      bad_byte("\xc3\xa9\xe2\x82", "0xe2 at offset 4"),  // cut short
  };
  for (const Refused& c : cases) try {
      parse_text(c.bytes, "d/f", "f", c.format);
      ADD_FAILURE() << "accepted: " << c.bytes;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), c.code) << error.what();
      EXPECT_THAT(error.what(), HasSubstr(c.message));
      EXPECT_THAT(error.what(), Not(HasSubstr("\n")));
    }
}

class LoadText : public ::testing::Test {
 protected:
  LoadText() { std::filesystem::create_directories(dir_); }
  ~LoadText() override { std::filesystem::remove_all(dir_); }
  std::string file(const std::string& name, const std::string& bytes) {
    std::ofstream(dir_ / name, std::ios::binary) << bytes;
    return (dir_ / name).string();
  }
  const std::filesystem::path dir_ =
      std::filesystem::path(::testing::TempDir()) / fmt::format("awq-text-{}", ::getpid());
};

TEST_F(LoadText, ByEnding) {
  const std::string record = "{\"text\":\"a\"}\n";
  EXPECT_THAT(load_text(file("x.txt", record)).samples, ElementsAre(record));
  EXPECT_THAT(load_text(file("x.raw", record)).samples, ElementsAre(record));
  EXPECT_THAT(load_text(file("x.jsonl", record)).samples, ElementsAre("a"));
  EXPECT_THAT(load_text(file("x.json", record)).samples, ElementsAre("a"));
  EXPECT_EQ(load_text(file("x.jsonl", record)).name, "x.jsonl");
}

TEST_F(LoadText, Builtin) {
  EXPECT_EQ(load_text("builtin").sha256, builtin_calibration().sha256);
  EXPECT_EQ(load_text("builtin", Builtin::kHeldout).sha256, builtin_heldout().sha256);
}

TEST_F(LoadText, Errors) {
  const auto code_of = [](const std::string& spec) {
    try {
      load_text(spec);
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(spec));
      return error.code();
    }
    return Code::kInternal;
  };
  EXPECT_EQ(code_of((dir_ / "missing.txt").string()), Code::kNotFound);
  EXPECT_EQ(code_of(dir_.string()), Code::kBadFile);
  EXPECT_EQ(code_of(file("empty.txt", "")), Code::kBadFile);
}

}  // namespace
}  // namespace awq
