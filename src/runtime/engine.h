// Runs many requests through one model with continuous batching (Yu et al. 2022, Orca; pages after Kwon et
// al. 2023, vLLM): each step is one forward over whatever decodes and prompt chunks the scheduler chose.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/model.h"
#include "runtime/request.h"
#include "runtime/scheduler.h"

namespace awq {

struct EngineOptions {
  DType kv_dtype = DType::kF32;    // F32, F16, BF16 or I8
  int64_t kv_pages = 0;            // pages of kPageTokens tokens; 0: as many as kv_bytes hold
  int64_t kv_bytes = 0;            // 0 (and no kv_pages): one sequence as long as the model's context
  int64_t max_batch_tokens = 512;  // tokens of one forward: the chunk in which prompts are read
  int64_t max_sequences = 16;      // sequences in one forward
  // End every text whose request does not ignore them (end_ids.h); empty: those of the model's config.
  std::vector<int32_t> end_ids = {};
  // While answers are running, prompts are read in chunks that take about so long, longer ones the more requests wait; 0: in
  // those of max_batch_tokens, never in longer ones. The chunks then depend on the machine's speed, and with kernels whose last bits depend
  // on the number of tokens so do results.
  double step_seconds = 0;
  // Requests go on from pages of earlier ones that begin with the same tokens.
  bool share_prefixes = true;
  // Up to so many tokens of each sequence are guessed ahead and checked in one step (drafting.h), while few sequences decode; 0:
  // none. The text does not change. Guesses come from the text itself, or from a smaller model of the same tokens.
  int64_t draft_tokens = 0;
  std::shared_ptr<const Model> draft_model = nullptr;
};

struct EngineStats {
  int64_t waiting = 0, running = 0;   // sequences
  int64_t pages = 0, free_pages = 0;  // free: nobody uses them
  int64_t kept_pages = 0;             // of these, with content that a request may go on from
  // Since the engine was made. Of the prompt tokens so many were found in the cache.
  int64_t steps = 0, prompt_tokens = 0, generated_tokens = 0, reused_tokens = 0;
  int64_t preemptions = 0;  // times a sequence gave up its pages
  int64_t drafted = 0, drafts_right = 0;  // tokens guessed, and how many of them were drawn
};

// add(), cancel(), stats() and wake() may be called from any thread; the others from one at a time.
class Engine {
 public:
  // kBadArgument for options that cannot work, with the numbers.
  Engine(std::shared_ptr<const Model> model, const EngineOptions& options);
  // Bytes of host memory that the buffers of its largest step take, beside weights and cache.
  static int64_t step_bytes(const ModelConfig& config, const EngineOptions& options);

  // Queues a request and returns its id, 0, 1, 2, ... kBadArgument when the prompt is empty, has an id
  // outside the vocabulary, leaves no room in the model's context, or needs more pages than there are.
  int64_t add(Request request);
  // Ends a request before the next step; on_finish says kCancelled. Ids that are finished or unknown are
  // ignored.
  void cancel(int64_t id);
  // One forward, and the callbacks that follow from it. False when there was nothing to do. Logits that are
  // no numbers end their own sequence with kError. After an exception the step has not happened.
  bool step();
  // Ends everything with kError: after an exception of step() that would come again.
  void fail_all(const std::string& error);
  // Blocks until something was added or cancelled since the last step, wake() was called, or the time is
  // over.
  void wait(double seconds);
  void wake();
  // Steps until every request is finished. Throws kCancelled when the user asked to stop (base/progress.h).
  void run_until_idle();

  EngineStats stats() const;
  const Model& model() const { return *model_; }
  // Tokens, prompt and answer, that one request can have: the model's context or the whole cache.
  int64_t max_tokens() const;

 private:
  // A row of logits that a step wants: those after tokens[position].
  struct Row {
    Sequence* sequence;
    int64_t position;
    int64_t hidden;  // row of states_
    bool draw;       // else for the log-probability of the prompt's next token
    int64_t draft = 0;  // so many guesses before it
  };
  struct Drawn {
    int32_t token = 0;
    TokenLogprobs logprobs;
  };

  std::vector<Slice> schedule();
  void want_drafts();
  void make_drafts(std::vector<Slice>& slices);
  int64_t prompt_room() const;
  void forward(const std::vector<Slice>& slices);
  std::vector<Row> wanted_rows(const std::vector<Slice>& slices) const;
  void compute_rows(const std::vector<Row>& rows);
  RowDraw asked(const Row& row) const;
  std::vector<Drawn> draw(std::span<const Row> rows, const int32_t* tokens, float* logits) const;
  std::optional<Drawn> draw_one(Sequence& sequence, std::span<float> logits) const;
  void call_back(const std::vector<Slice>& slices);
  void take_drawn(Sequence& sequence, std::span<const Drawn> drawn, int64_t right);
  void learn_drafts(const Slice& slice, int64_t right);
  bool ends(const Request& request, int32_t token) const;
  void count_prompt(Sequence& sequence);
  void release_finished();

  std::shared_ptr<const Model> model_;
  EngineOptions options_;
  KvCache cache_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool has_changed_ = false;
  Scheduler scheduler_;
  std::vector<int64_t> cancelled_;
  int64_t next_id_ = 0;
  EngineStats counts_;

  // Buffers of a step, reused.
  std::vector<int32_t> tokens_, positions_;
  std::vector<std::vector<Drawn>> drawn_;  // of the slices that are last, in order: with guesses that were right more than one
  std::vector<SpanView> spans_;
  std::vector<int64_t> lengths_;
  Scratch scratch_;
  States states_;
  std::vector<RowDraw> asked_;
  DrawnRows answers_;
  std::unique_ptr<DraftModel> draft_model_;
  double seconds_per_prompt_token_ = 0;  // smoothed; 0: not measured yet
};

}  // namespace awq
