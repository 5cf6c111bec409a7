#include "checkpoint/hub_cache.h"

#include <gmock/gmock.h>

#include <cstdlib>

#include "unit/formats/files.h"

namespace awq {
namespace {

using namespace test;
using ::testing::AllOf;
using ::testing::HasSubstr;

// Clears the variables that name the cache and sets some, until the end of the test.
class Environment {
 public:
  explicit Environment(const std::vector<std::pair<std::string, std::string>>& set) {
    for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"}) {
      const char* old = std::getenv(name);
      old_.emplace_back(name, old ? std::optional<std::string>(old) : std::nullopt);
      unsetenv(name);
    }
    for (const auto& [name, value] : set) setenv(name.c_str(), value.c_str(), 1);
  }
  ~Environment() {
    for (const auto& [name, value] : old_)
      value ? setenv(name.c_str(), value->c_str(), 1) : unsetenv(name.c_str());
  }

 private:
  std::vector<std::pair<std::string, std::optional<std::string>>> old_;
};

TEST(HubCache, FollowsTheStandardVariables) {
  const struct {
    std::vector<std::pair<std::string, std::string>> set;
    const char* expected;
  } cases[] = {
      {{{"HOME", "/h"}}, "/h/.cache/huggingface/hub"},
      {{{"HOME", "/h"}, {"XDG_CACHE_HOME", "/x"}}, "/x/huggingface/hub"},
      {{{"HOME", "/h"}, {"XDG_CACHE_HOME", "/x"}, {"HF_HOME", "/y"}}, "/y/hub"},
      {{{"HOME", "/h"}, {"HF_HOME", "~/y"}}, "/h/y/hub"},
      {{{"HF_HOME", "/y"}, {"HUGGINGFACE_HUB_CACHE", "/z"}}, "/z"},
      {{{"HF_HOME", "/y"}, {"HUGGINGFACE_HUB_CACHE", "/z"}, {"HF_HUB_CACHE", "/c"}}, "/c"},
  };
  for (const auto& c : cases) {
    Environment environment(c.set);
    EXPECT_EQ(hub_cache_dir(), c.expected);
  }
}

TEST(HubCache, NameIsResolvedThroughRefsMain) {
  TempDir cache;
  Environment environment({{"HF_HUB_CACHE", cache.path().string()}});
  EXPECT_THAT(error_of([] { resolve_model("org/name-1.5B"); }),
              AllOf(HasSubstr("not_found"), HasSubstr("hf download org/name-1.5B"),
                    HasSubstr(cache.path().string())));
  cache.write("models--org--name-1.5B/refs/main", "abc123\n");
  EXPECT_THAT(error_of([] { resolve_model("org/name-1.5B"); }), HasSubstr("not_found"));
  cache.write("models--org--name-1.5B/snapshots/abc123/config.json", "{}");
  EXPECT_EQ(resolve_model("org/name-1.5B"), cache.path() / "models--org--name-1.5B/snapshots/abc123");
  cache.write("models--org--name-1.5B/refs/main", "../../../etc");
  EXPECT_THAT(error_of([] { resolve_model("org/name-1.5B"); }), HasSubstr("not_found"));
}

TEST(HubCache, PathsAreTakenAsTheyAre) {
  TempDir dir;
  const auto file = dir.write("m.gguf", "x");
  EXPECT_EQ(resolve_model(dir.path().string()), dir.path());
  EXPECT_EQ(resolve_model(file.string()), file);
  for (const std::string missing :
       {"./nowhere", "/nowhere/at/all", "a/b/c", "folder/m.gguf", "../x", "name", "a--b/c", "a/..b"})
    EXPECT_THAT(error_of([&] { resolve_model(missing); }),
                AllOf(HasSubstr("not_found"), HasSubstr("no such file")))
        << missing;
  EXPECT_THAT(error_of([] { resolve_model(""); }), HasSubstr("bad_argument"));
}

}  // namespace
}  // namespace awq
