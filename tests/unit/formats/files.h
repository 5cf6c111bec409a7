// Small files for tests: a folder that removes itself, a GGUF builder, and safetensors in one call.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "formats/ggml_types.h"
#include "formats/safetensors.h"

namespace awq::test {

class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "awq-test-XXXXXX").string();
    if (!mkdtemp(name.data())) throw std::runtime_error("mkdtemp failed");
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, std::string_view bytes) const {
    const auto file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::filesystem::remove(file);  // some file systems flush a file that is truncated and written anew
    std::ofstream(file, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return file;
  }

 private:
  std::filesystem::path path_;
};

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// The error a call throws, as "code: message"; "" when it throws none. Messages must be one line.
inline std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& e) {
    const std::string message = e.what();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return std::string(code_name(e.code())) + ": " + message;
  }
  return "";
}
inline bool throws_code(Code code, const std::function<void()>& call) {
  return error_of(call).starts_with(std::string(code_name(code)) + ":");
}

// Safetensors with an arbitrary header text, for files that break a rule.
inline std::string raw_safetensors(const std::string& json, const std::string& data) {
  uint64_t n = json.size();
  return std::string(reinterpret_cast<const char*>(&n), 8) + json + data;
}

struct NamedBytes {
  SafetensorsSpec spec;
  std::string bytes;
};
inline std::string safetensors(const std::vector<NamedBytes>& tensors) {
  std::vector<SafetensorsSpec> specs;
  for (const auto& t : tensors) specs.push_back(t.spec);
  std::string out = safetensors_header(specs);
  for (const auto& t : tensors) out += t.bytes;
  return out;
}
inline NamedBytes f32_tensor(const std::string& name, const std::vector<float>& values, Shape shape) {
  return {{name, DType::kF32, std::move(shape)}, bytes_of(values)};
}

// Builds GGUF bytes. Shapes are given as [rows, columns]; the file stores them reversed.
class GgufBuilder {
 public:
  uint32_t magic = 0x46554747, version = 3;
  int64_t alignment = 32;

  template <class T>
  GgufBuilder& scalar(const std::string& key, uint32_t kind, T value) {
    add_key(key, kind);
    put(values_, value);
    return *this;
  }
  GgufBuilder& u32(const std::string& key, uint32_t v) { return scalar(key, 4, v); }
  GgufBuilder& f32(const std::string& key, float v) { return scalar(key, 6, v); }
  GgufBuilder& boolean(const std::string& key, bool v) { return scalar(key, 7, static_cast<uint8_t>(v)); }
  GgufBuilder& text(const std::string& key, const std::string& v) {
    add_key(key, 8);
    put_text(values_, v);
    return *this;
  }
  GgufBuilder& texts(const std::string& key, const std::vector<std::string>& v) {
    add_array(key, 8, v.size());
    for (const auto& s : v) put_text(values_, s);
    return *this;
  }
  template <class T>
  GgufBuilder& array(const std::string& key, uint32_t element, const std::vector<T>& v) {
    add_array(key, element, v.size());
    values_ += bytes_of(v);
    return *this;
  }
  GgufBuilder& tensor(const std::string& name, uint32_t type, const Shape& shape, std::string bytes) {
    return tensor_at(name, type, shape, data_size_, std::move(bytes));
  }
  GgufBuilder& tensor_at(const std::string& name, uint32_t type, const Shape& shape, int64_t offset,
                         std::string bytes) {
    put_text(infos_, name);
    put(infos_, static_cast<uint32_t>(shape.size()));
    for (auto d = shape.rbegin(); d != shape.rend(); ++d) put(infos_, static_cast<uint64_t>(*d));
    put(infos_, type);
    put(infos_, static_cast<uint64_t>(offset));
    ++tensors_;
    data_ += std::string(static_cast<size_t>(data_size_) - data_.size(), '\0') + bytes;
    data_size_ = (static_cast<int64_t>(data_.size()) + alignment - 1) / alignment * alignment;
    return *this;
  }
  GgufBuilder& f32_tensor(const std::string& name, const Shape& shape, const std::vector<float>& values) {
    return tensor(name, 0, shape, bytes_of(values));
  }

  // Ends with the last tensor's bytes, without padding behind them.
  std::string build() const {
    std::string out;
    put(out, magic);
    put(out, version);
    put(out, tensors_);
    put(out, keys_);
    out += values_ + infos_;
    if (tensors_ > 0)
      out.resize((out.size() + static_cast<size_t>(alignment) - 1) / static_cast<size_t>(alignment) *
                 static_cast<size_t>(alignment));
    return out + data_;
  }

 private:
  template <class T>
  static void put(std::string& out, T v) {
    out.append(reinterpret_cast<const char*>(&v), sizeof v);
  }
  static void put_text(std::string& out, const std::string& text) {
    put(out, static_cast<uint64_t>(text.size()));
    out += text;
  }
  void add_key(const std::string& key, uint32_t kind) {
    put_text(values_, key);
    put(values_, kind);
    ++keys_;
  }
  void add_array(const std::string& key, uint32_t element, size_t count) {
    add_key(key, 9);
    put(values_, element);
    put(values_, static_cast<uint64_t>(count));
  }

  std::string values_, infos_, data_;
  uint64_t keys_ = 0, tensors_ = 0;
  int64_t data_size_ = 0;
};

}  // namespace awq::test
