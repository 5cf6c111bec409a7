// Packed linears kept between runs: the same model, bit for bit, and files that do not fit.
#include "model/pack_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"
#include "unit/model/golden.h"

namespace awq::testing {
namespace {

namespace fs = std::filesystem;

class PackCacheTest : public ::testing::Test {
 protected:
  PackCacheTest() : directory_(fs::temp_directory_path() / ("awq-pack-cache-" + std::to_string(::getpid()))) { fs::remove_all(directory_); }
  ~PackCacheTest() override { fs::remove_all(directory_); }

  static std::vector<float> logits(const Model& model) {
    const std::vector<int32_t> tokens = {5, 17, 93, 3, 64}, positions = {0, 1, 2, 3, 4};
    const SpanView span{0, 5, 0, nullptr};
    Scratch scratch;
    std::vector<float> hidden, out(static_cast<size_t>(5 * model.config().vocab));
    model.forward({tokens, positions, {&span, 1}}, nullptr, scratch, hidden);
    model.logits(hidden.data(), 5, out.data());
    return out;
  }
  std::vector<float> load(const std::string& name, LoadOptions options) const {
    return logits(*Model::load(*Checkpoint::open(golden_root() / name), options));
  }
  LoadOptions cached(LoadOptions options) const {
    options.pack_cache = directory_ / "a" / "b";  // made on the way
    return options;
  }
  std::vector<fs::path> kept() const {
    std::vector<fs::path> all;
    for (const auto& entry : fs::directory_iterator(directory_ / "a" / "b")) all.push_back(entry.path());
    return all;
  }
  fs::path directory_;
};

TEST_F(PackCacheTest, TheSameBitsFromPackedLinears) {
  for (const char* name : {"llama-tied", "qwen2-tied", "phi3-plain", "autoawq/quant-config-json"})
    for (const Precision precision : {Precision::kFast, Precision::kExact})
      for (const LoadIn load_in : {LoadIn::kStored, LoadIn::kRtn, LoadIn::kInt8})
        for (const int head_bits : {0, 8}) {
          SCOPED_TRACE(std::string(name) + " " + std::to_string(static_cast<int>(load_in)) + " " + std::to_string(head_bits));
          fs::remove_all(directory_);
          LoadOptions options{precision, nullptr};
          options.load_in = load_in;
          options.head_bits = head_bits;
          const auto want = load(name, options);
          EXPECT_EQ(load(name, cached(options)), want);  // writes
          const bool any = head_bits != 0 || load_in != LoadIn::kStored || std::string(name).starts_with("autoawq");
          ASSERT_EQ(kept().size(), any ? 1u : 0u);
          EXPECT_EQ(load(name, cached(options)), want);  // reads
        }
}

// What was found is really what runs: a changed code changes the logits.
TEST_F(PackCacheTest, ReadsWhatItKept) {
  LoadOptions options{Precision::kFast, nullptr};
  options.load_in = LoadIn::kRtn;
  const auto want = load("llama-tied", cached(options));
  const fs::path file = kept().at(0);
  std::fstream out(file, std::ios::in | std::ios::out | std::ios::binary);
  const auto entries = SafetensorsFile::open(file);
  const auto& codes = entries->entries().front();
  EXPECT_EQ(codes.offset % 64, 0);
  out.seekp(codes.offset);
  const std::string ones(static_cast<size_t>(codes.bytes), '\x11');
  out.write(ones.data(), codes.bytes);
  out.close();
  EXPECT_NE(load("llama-tied", cached(options)), want);
}

TEST_F(PackCacheTest, OtherOptionsAndFilesCutOffAreMadeAnew) {
  LoadOptions options{Precision::kFast, nullptr};
  options.load_in = LoadIn::kRtn;
  const auto want = load("llama-tied", cached(options));
  options.head_bits = 8;
  load("llama-tied", cached(options));
  EXPECT_EQ(kept().size(), 2u);
  options.head_bits = 0;
  for (const fs::path& file : kept()) fs::resize_file(file, fs::file_size(file) / 2);
  EXPECT_EQ(load("llama-tied", cached(options)), want);
  EXPECT_EQ(load("llama-tied", cached(options)), want);
  EXPECT_EQ(kept().size(), 2u);  // no temporary file stays
}

TEST_F(PackCacheTest, ADirectoryThatCannotBeMadeIsAnError) {
  std::ofstream(directory_.string()) << "a file";
  LoadOptions options{Precision::kFast, nullptr};
  options.pack_cache = directory_ / "sub";
  try {
    Model::load(*Checkpoint::open(golden_root() / "llama-tied"), options);
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), ::testing::HasSubstr("cannot make the directory"));
  }
}

// A form is checked before it runs: whatever a file says, no product reads beyond its tensors.
TEST(PackedFormTest, RefusesSizesThatDoNotFit) {
  const auto weight = [] {
    QuantWeight w;
    w.scheme = {.bits = 4, .group = 32, .zero = ZeroKind::kInteger};
    w.rows = 40;
    w.cols = 96;
    w.codes.assign(40 * 96, 3);
    w.scales.assign(40 * 3, 0.5f);
    w.zeros.assign(40 * 3, 8);
    return w;
  }();
  for (const Precision precision : {Precision::kFast, Precision::kExact}) {
    const auto form = pack_linear(weight, precision)->form();
    ASSERT_TRUE(form);
    EXPECT_NE(linear_of(*form, precision, Product::kAuto, "file"), nullptr);
    for (size_t i = 0; i < form->numbers.size(); ++i)
      for (const int64_t value : {int64_t{-7}, int64_t{7}, int64_t{1} << 40}) {
        PackedForm bad = *form;
        // The kinds of zero points, of scales and of activations, and a threshold, may be others without a size changing.
        if (precision == Precision::kFast && i >= 4) continue;
        if (precision == Precision::kExact && i == 4) continue;
        bad.numbers[i] = value;
        EXPECT_THROW(linear_of(bad, precision, Product::kAuto, "file"), Error) << i << ' ' << value;
      }
    for (size_t i = 0; i < form->tensors.size(); ++i) {
      PackedForm bad = *form;
      bad.tensors[i].second = bad.tensors[i].second.rows(0, bad.tensors[i].second.dim(0) - 1);
      EXPECT_THROW(linear_of(bad, precision, Product::kAuto, "file"), Error) << i;
    }
    PackedForm bad = *form;
    bad.tensors.erase(bad.tensors.begin());
    EXPECT_THROW(linear_of(bad, precision, Product::kAuto, "file"), Error);
    bad = *form;
    bad.kind = "something/2";
    EXPECT_THROW(linear_of(bad, precision, Product::kAuto, "file"), Error);
    bad = *form;
    bad.numbers.pop_back();
    EXPECT_THROW(linear_of(bad, precision, Product::kAuto, "file"), Error);
  }
}

}  // namespace
}  // namespace awq::testing
