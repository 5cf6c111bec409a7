// Ids and texts of many strings at once, for tests/full/tokenizer_oracle.py.
//
//   awq_tokenizer_batch tokenizer.json | vocabulary.model | DIRECTORY | FILE.gguf-vocab.json [time]
//
// Reads strings from standard input, each a u32 length and its bytes, and answers each with: u32 count and
// i32 ids without special tokens, the same with them, and u32 length and bytes of the ids decoded with and
// without special tokens. All little-endian. With "time" it encodes the strings without answering and prints
// the seconds of each.
#include <bit>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/system.h"
#include "tokenizer/tokenizer.h"

namespace {

static_assert(std::endian::native == std::endian::little);

// A GGUF vocabulary written as JSON by the caller, so that no GGUF file has to be made.
awq::GgufVocab read_vocab(const std::string& path) {
  const auto json = nlohmann::json::parse(awq::read_text_file(path));
  awq::GgufVocab v;
  v.model = json.at("model");
  v.pre = json.value("pre", "");
  v.tokens = json.at("tokens").get<std::vector<std::string>>();
  v.token_type = json.at("token_type").get<std::vector<int32_t>>();
  v.scores = json.value("scores", std::vector<float>());
  v.merges = json.value("merges", std::vector<std::string>());
  const auto id = [&](const char* key) {
    return json.contains(key) ? std::optional<int32_t>(json[key]) : std::nullopt;
  };
  v.bos = id("bos");
  v.eos = id("eos");
  v.unk = id("unk");
  if (json.contains("add_space_prefix")) v.add_space_prefix = json["add_space_prefix"].get<bool>();
  return v;
}

std::shared_ptr<const awq::Tokenizer> open(const std::string& path) {
  if (std::filesystem::is_directory(path)) return awq::Tokenizer::from_dir(path);
  if (path.ends_with(".model")) return awq::Tokenizer::from_sentencepiece(awq::read_text_file(path), path);
  if (path.ends_with(".gguf-vocab.json")) {
    const awq::GgufVocab vocab = read_vocab(path);
    awq::write_file_atomic(path + ".tokenizer.json",
                           awq::tokenizer_files_from_gguf(vocab, 2048, path).tokenizer_json);
    return awq::Tokenizer::from_gguf(vocab, path);
  }
  return awq::Tokenizer::from_json(awq::read_text_file(path), path);
}

bool read_string(std::string& out) {
  uint32_t length = 0;
  if (std::fread(&length, sizeof length, 1, stdin) != 1) return false;
  out.resize(length);
  return std::fread(out.data(), 1, length, stdin) == length;
}

void put(std::string& out, const void* data, size_t count, size_t bytes) {
  const auto n = static_cast<uint32_t>(count);
  out.append(reinterpret_cast<const char*>(&n), sizeof n);
  out.append(static_cast<const char*>(data), bytes);
}

void answer(const awq::Tokenizer& tokenizer, const std::string& text) {
  static std::string out;
  out.clear();
  const auto ids = tokenizer.encode(text, false), special = tokenizer.encode(text, true);
  put(out, ids.data(), ids.size(), ids.size() * sizeof(int32_t));
  put(out, special.data(), special.size(), special.size() * sizeof(int32_t));
  for (const bool skip : {false, true}) {
    const std::string decoded = tokenizer.decode(ids, skip);
    put(out, decoded.data(), decoded.size(), decoded.size());
  }
  std::fwrite(out.data(), 1, out.size(), stdout);
  std::fflush(stdout);  // the caller waits for it
}

void time(const awq::Tokenizer& tokenizer, const std::string& text) {
  const auto start = std::chrono::steady_clock::now();
  const size_t count = tokenizer.encode(text, false).size();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("%.6f %zu\n", seconds.count(), count);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc < 2) awq::fail(awq::Code::kBadArgument, "usage: awq_tokenizer_batch TOKENIZER [time]");
    const auto tokenizer = open(argv[1]);
    const bool timing = argc > 2 && std::strcmp(argv[2], "time") == 0;
    std::string text;
    while (read_string(text)) timing ? time(*tokenizer, text) : answer(*tokenizer, text);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
