// Statistics of a calibration text kept on disk, so that a later comparison of other bits, groups or methods need not gather
// them again. The file is a text head ("name<TAB>value" lines that say what the numbers depend on, then an empty line) and one
// record a block: its bytes, then their SHA-256. Numbers are in this machine's byte order.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/mmap.h"
#include "quant/pipeline.h"
#include "quant/stats.h"

namespace awq {

// Everything the statistics depend on: names and values, in order.
using StatsIdentity = std::vector<std::pair<std::string, std::string>>;
// Reads the whole source, for its fingerprint.
StatsIdentity stats_identity(const Checkpoint& checkpoint, const QuantizeInputs& inputs);

// The file has its name only after finish(); without that nothing is left behind.
class StatsWriter {
 public:
  StatsWriter(std::filesystem::path path, const StatsIdentity& identity);
  ~StatsWriter();
  StatsWriter(const StatsWriter&) = delete;
  StatsWriter& operator=(const StatsWriter&) = delete;
  void add(const StatsObserver& stats);  // of the next block
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

class StatsReader {
 public:
  // kBadArgument naming the first property in which the file was made for something else; kBadFile for damaged files.
  StatsReader(const std::filesystem::path& path, const StatsIdentity& identity);
  void next(StatsObserver& stats);  // of the next block

 private:
  std::shared_ptr<const MappedFile> file_;
  size_t at_ = 0;
};

}  // namespace awq
