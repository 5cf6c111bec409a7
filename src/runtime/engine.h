// Runs many requests through one model with continuous batching (Yu et al. 2022, Orca; pages after Kwon et
// al. 2023, vLLM): each step is one forward over whatever decodes and prompt chunks the scheduler chose.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "model/model.h"
#include "runtime/request.h"
#include "runtime/scheduler.h"

namespace awq {

struct EngineOptions {
  DType kv_dtype = DType::kF32;    // F32, F16 or BF16
  int64_t kv_pages = 0;            // pages of kPageTokens tokens; 0: as many as kv_bytes hold
  int64_t kv_bytes = 0;            // 0 (and no kv_pages): one sequence as long as the model's context
  int64_t max_batch_tokens = 512;  // tokens of one forward: the chunk in which prompts are read
  int64_t max_sequences = 16;      // sequences in one forward
  // End every text whose request does not ignore them (end_ids.h); empty: those of the model's config.
  std::vector<int32_t> end_ids = {};
};

struct EngineStats {
  int64_t waiting = 0, running = 0;  // sequences
  int64_t pages = 0, free_pages = 0;
  int64_t steps = 0, prompt_tokens = 0, generated_tokens = 0;  // since the engine was made
};

// add(), cancel() and stats() may be called from any thread; step() and run_until_idle() from one at a time.
class Engine {
 public:
  // kBadArgument for options that cannot work, with the numbers.
  Engine(std::shared_ptr<const Model> model, const EngineOptions& options);

  // Queues a request and returns its id, 0, 1, 2, ... kBadArgument when the prompt is empty, has an id
  // outside the vocabulary, leaves no room in the model's context, or needs more pages than there are.
  int64_t add(Request request);
  // Ends a request before the next step; on_finish says kCancelled. Ids that are finished or unknown are
  // ignored.
  void cancel(int64_t id);
  // One forward, and the callbacks that follow from it. False when there was nothing to do.
  bool step();
  // Steps until every request is finished. Throws kCancelled when the user asked to stop (base/progress.h).
  void run_until_idle();

  EngineStats stats() const;
  const Model& model() const { return *model_; }

 private:
  std::vector<Slice> schedule();
  void forward(const std::vector<Slice>& slices);
  void sample(const std::vector<Slice>& slices);
  void call_back(const std::vector<Slice>& slices);
  bool ends(const Request& request, int32_t token) const;
  void release_finished();

  std::shared_ptr<const Model> model_;
  EngineOptions options_;
  KvCache cache_;

  mutable std::mutex mutex_;  // guards what follows
  Scheduler scheduler_;
  std::vector<int64_t> cancelled_;
  int64_t next_id_ = 0;
  EngineStats counts_;

  // Buffers of a step, reused.
  std::vector<int32_t> tokens_, positions_, drawn_;
  std::vector<SpanView> spans_;
  std::vector<int64_t> lengths_;
  Scratch scratch_;
  std::vector<float> hidden_, last_hidden_, logits_;
};

}  // namespace awq
