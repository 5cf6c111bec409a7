// What the readers say about many small files, without starting a process for each (parsers_differential.py,
// json_suite.py).
//
//   standard input   for each case: one letter, u32 size, so many bytes. s: safetensors, g: GGUF; JSON: c
//   (config.json, manifest,
//                    journal), i (index, safetensors header, tokenizer.json), t (the values given to a chat
//                    template)
//   standard output  for each case: u32 length (0: accepted), the error's message
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/json_file.h"
#include "checkpoint/shard_index.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "tokenizer/chat_template.h"

using namespace awq;

namespace {

std::string verdict(char format, const std::vector<char>& bytes) {
  const auto file = MappedFile::in_memory("case", std::as_bytes(std::span(bytes)));
  const std::string_view text(bytes.data(), bytes.size());
  try {
    switch (format) {
      case 's':
        SafetensorsFile::parse(file);
        break;
      case 'g':
        GgufFile::parse({file});
        break;
      case 'c':
        parse_json(text, "case");
        break;
      case 'i':
        parse_shard_index(text, "case");
        break;
      case 't':
        ChatTemplate::parse("", "case")->render("{\"value\":" + std::string(text) + "}");
        break;
      default:
        return "unknown letter";
    }
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

int main() {
  char format;
  uint32_t size;
  std::vector<char> bytes;
  while (std::fread(&format, 1, 1, stdin) == 1 && std::fread(&size, 4, 1, stdin) == 1) {
    bytes.resize(size);
    if (size > 0 && std::fread(bytes.data(), size, 1, stdin) != 1) return 1;
    const std::string message = verdict(format, bytes);
    const auto length = static_cast<uint32_t>(message.size());
    std::fwrite(&length, 4, 1, stdout);
    std::fwrite(message.data(), 1, length, stdout);
    if (std::fflush(stdout) != 0) return 1;
  }
  return 0;
}
