// Shared by the tests of the writing side: a temporary directory and small outputs.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/system.h"
#include "checkpoint/writer.h"

namespace awq::testing {

class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "awq-write-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TempDir() {
    std::error_code ec;
    std::filesystem::remove_all(path_, ec);
  }
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

// Names of everything in dir, hidden entries included.
inline std::vector<std::string> listing(const std::filesystem::path& dir) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(dir))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

inline std::map<std::string, std::string> contents(const std::filesystem::path& dir) {
  std::map<std::string, std::string> files;
  for (const std::string& name : listing(dir)) files[name] = read_text_file(dir / name);
  return files;
}

// A tensor whose bytes depend on its name, so that misplaced data is seen.
inline Tensor patterned(const OutputTensor& spec) {
  Tensor t(spec.dtype, spec.shape);
  for (int64_t i = 0; i < t.nbytes(); ++i)
    t.mutable_bytes()[i] =
        static_cast<std::byte>(i * 31 + static_cast<int64_t>(std::hash<std::string>{}(spec.name) % 251));
  return t;
}

inline OutputPlan small_plan() {
  OutputPlan plan;
  plan.tensors = {{"model.embed_tokens.weight", DType::kF16, {32, 8}},
                  {"model.layers.0.mlp.up_proj.qweight", DType::kI32, {8, 2}},
                  {"model.layers.0.mlp.up_proj.qzeros", DType::kI32, {1, 2}},
                  {"model.layers.0.mlp.up_proj.scales", DType::kF16, {1, 16}},
                  {"model.layers.0.norm.weight", DType::kBF16, {9}},
                  {"model.norm.weight", DType::kF32, {8}},
                  {"scalar", DType::kF32, {}},
                  {"empty", DType::kF16, {0, 4}}};
  return plan;
}

inline Manifest small_manifest() {
  Manifest m;
  m.tool = "awq 0.1.0";
  m.source = {"tiny", "BF16", "00ff"};
  m.calibration = {"builtin", std::string(64, 'a'), 128, 65536};
  m.method = "awq";
  m.scheme = "w4g8z";
  m.format = "gemm";
  m.options = {{"group-size", "auto"}, {"calib", "builtin"}};
  m.layers = {{"model.layers.0.mlp.up_proj", "w4g8z", 0.015625, "scale^0.45 clip"}};
  m.check = {"builtin held-out", 16384, 0.031, 0.002, 0.924, 9.71, 9.89, "model.layers.0.mlp.up_proj"};
  return m;
}

inline void expect_error(Code code, const std::string& text, const std::function<void()>& call) {
  try {
    call();
    ADD_FAILURE() << "no error, expected: " << text;
  } catch (const Error& e) {
    EXPECT_STREQ(code_name(e.code()), code_name(code)) << e.what();
    EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what() << "\nlacks: " << text;
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
  }
}

}  // namespace awq::testing
