// Writes a checkpoint directory: safetensors shards, side files, manifest.json. Streaming (one tensor in
// memory at a time), and atomic: everything is written under a temporary name beside the target, synced, and
// renamed into place, so that a directory under the final name is always complete.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/journal.h"
#include "checkpoint/manifest.h"
#include "formats/safetensors.h"
#include "tensor/tensor.h"

namespace awq {

using OutputTensor = SafetensorsSpec;  // name, dtype, shape

// All tensors of the output, known before any of them is computed. Tied tensors stand in it once.
struct OutputPlan {
  std::vector<OutputTensor> tensors;
};

inline constexpr int64_t kDefaultShardBytes = 5'000'000'000;

// One shard: a file of at most the limit, unless a single tensor alone is larger.
struct OutputShard {
  std::string file;                   // "model.safetensors", or "model-00001-of-00003.safetensors"
  std::vector<OutputTensor> tensors;  // in file order
};

// Fills shards in the plan's order; inside a shard tensors are sorted as safetensors writers do. Throws
// kBadArgument on duplicate names or a limit below 1.
std::vector<OutputShard> plan_shards(const OutputPlan& plan, int64_t shard_bytes = kDefaultShardBytes);

// model.safetensors.index.json for more than one shard, else "".
std::string shard_index(const std::vector<OutputShard>& shards);

// Exact number of bytes of all shards and the index.
int64_t planned_bytes(const OutputPlan& plan, int64_t shard_bytes = kDefaultShardBytes);

struct WriterOptions {
  int64_t shard_bytes = kDefaultShardBytes;
  int64_t side_bytes = 0;  // expected size of what add_file() will bring, for the check of free disk
  bool force = false;      // replace a finished output of awq; anything else under the name is never touched
  // Where to write instead of a temporary directory of the writer's own: the caller holds it locked (JobDirectory), it
  // stays when the writer fails, and shards that an earlier run left in it are continued.
  std::filesystem::path working_dir = {};
};

// What the writer would refuse about `dir` (kExists, kNoSpace, kIo), said before any work is done. Writes nothing.
void check_output(const std::filesystem::path& dir, const OutputPlan& plan, const WriterOptions& options = {});

// Not thread-safe.
class CheckpointWriter {
 public:
  // Creates `.<name>.tmp-<pid>` beside `dir` (and missing parents), or uses options.working_dir, and reserves the disk space of all shards.
  // Throws
  //   kExists   dir is a file, holds files awq did not write, or holds a finished output and force is not
  //   set;
  //             another process is writing to the same temporary directory
  //   kNoSpace  with the bytes needed and free
  //   kIo       the operating system refused
  CheckpointWriter(const std::filesystem::path& dir, const OutputPlan& plan,
                   const WriterOptions& options = {});
  // Without finish() everything written is removed, unless it lies in options.working_dir.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // In any order, each planned tensor once; dtype and shape must be the planned ones (else kInternal). Throws
  // kNoSpace or kIo naming the file.
  void add(std::string_view name, const Tensor& tensor);
  // A small file beside the weights. `name` is a plain file name, new in this output (else kBadArgument).
  void add_file(std::string_view name, std::string_view contents);

  // Where the files lie until finish(). Once all tensors and config.json are added it can be opened as a
  // checkpoint, which is how the result is checked before it is published; open mappings survive finish().
  const std::filesystem::path& working_dir() const;
  int64_t bytes_written() const;

  // Whether the tensor is there; all that are, in file order (digests only with working_dir).
  bool has(std::string_view name) const;
  std::vector<WrittenTensor> written() const;
  // Takes tensors of an earlier run for written once their bytes have been compared with the digests; kBadFile, and
  // nothing taken, when one differs.
  void adopt(const std::vector<WrittenTensor>& tensors);

  // Fills manifest.files, writes manifest.json last, syncs, renames. Throws kInternal when a tensor is
  // missing, kExists when something else has taken the name meanwhile. Returns the completed manifest.
  Manifest finish(Manifest manifest);
  // The two halves of finish(): everything complete and synced under the working name; the name changed.
  Manifest seal(Manifest manifest);
  void publish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace awq
