// The files under src/text/corpus, compiled in by embed.cmake. Samples are separated by a line `%%%%`.
#pragma once
#include <span>
#include <string_view>

namespace awq {

struct CorpusFile {
  std::string_view name;  // "calib/01_articles.txt"
  std::string_view text;
};
// In the order of their names.
std::span<const CorpusFile> calibration_files();
std::span<const CorpusFile> heldout_files();

}  // namespace awq
