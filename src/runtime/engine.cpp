#include "runtime/engine.h"

#include <algorithm>
#include <cstring>

#include "base/progress.h"
#include "base/system.h"
#include "base/thread_pool.h"

namespace awq {
namespace {

// Logits are computed for so many sequences at a time: 64 rows of a vocabulary of 150,000 are 38 MB.
constexpr int64_t kLogitRows = 64;

EngineOptions checked(EngineOptions o, const ModelConfig& config) {
  if (o.kv_dtype != DType::kF32 && o.kv_dtype != DType::kF16 && o.kv_dtype != DType::kBF16)
    fail(Code::kBadArgument, "key/value cache: expected F32, F16 or BF16, got {}", dtype_name(o.kv_dtype));
  if (o.max_sequences < 1 || o.max_batch_tokens < o.max_sequences)
    fail(Code::kBadArgument,
         "max_batch_tokens: expected at least max_sequences, and that at least 1, got {} and {}",
         o.max_batch_tokens, o.max_sequences);
  const int64_t page_bytes = KvCache::page_bytes(config, o.kv_dtype);
  if (o.kv_pages == 0) {
    o.kv_pages = o.kv_bytes > 0 ? o.kv_bytes / page_bytes : PageAllocator::pages_for(config.max_position);
    if (o.kv_pages == 0)
      fail(Code::kBadArgument, "key/value cache: {} bytes hold no page: one takes {} bytes", o.kv_bytes,
           page_bytes);
  }
  if (o.end_ids.empty()) o.end_ids = config.eos;
  if (o.kv_pages < 1 || o.kv_pages > INT32_MAX)
    fail(Code::kBadArgument, "key/value cache: expected 1 to {} pages, got {}", INT32_MAX, o.kv_pages);
  return o;
}

void check_prompt(const std::vector<int32_t>& prompt, const ModelConfig& config) {
  if (prompt.empty()) fail(Code::kBadArgument, "the prompt is empty: expected at least 1 token");
  for (const int32_t id : prompt)
    if (id < 0 || id >= config.vocab)
      fail(Code::kBadArgument, "the prompt holds token id {}: the model's vocabulary ends at {}", id,
           config.vocab - 1);
  const auto size = static_cast<int64_t>(prompt.size());
  if (size >= config.max_position)
    fail(Code::kBadArgument,
         "the prompt has {} tokens: the model's context of {} leaves no room for an answer", size,
         config.max_position);
}

}  // namespace

Engine::Engine(std::shared_ptr<const Model> model, const EngineOptions& options)
    : model_(std::move(model)),
      options_(checked(options, model_->config())),
      cache_(model_->config(), options_.kv_pages, options_.kv_dtype),
      scheduler_(options_.kv_pages, options_.max_batch_tokens, options_.max_sequences) {}

int64_t Engine::add(Request request) {
  const ModelConfig& config = model_->config();
  check_prompt(request.prompt, config);
  if (request.max_tokens < 1)
    fail(Code::kBadArgument, "max_tokens: expected at least 1, got {}", request.max_tokens);
  const auto size = static_cast<int64_t>(request.prompt.size());
  const int64_t limit = std::min(request.max_tokens, config.max_position - size);
  const int64_t pages = PageAllocator::pages_for(size + limit);
  if (pages > options_.kv_pages)
    fail(Code::kBadArgument,
         "{} prompt tokens and {} to generate need {} pages of {} tokens: the key/value cache has {}", size,
         limit, pages, kPageTokens, options_.kv_pages);
  auto sequence = std::make_unique<Sequence>(0, std::move(request), limit, config.vocab);
  sequence->added_at = now_seconds();
  const std::lock_guard lock(mutex_);
  const int64_t id = sequence->id = next_id_++;
  scheduler_.submit(std::move(sequence));
  return id;
}

void Engine::cancel(int64_t id) {
  const std::lock_guard lock(mutex_);
  cancelled_.push_back(id);
}

bool Engine::step() {
  const std::vector<Slice> slices = schedule();
  if (slices.empty()) return false;
  forward(slices);
  sample(slices);
  call_back(slices);
  release_finished();
  return true;
}

void Engine::run_until_idle() {
  while (step()) check_cancelled();
}

EngineStats Engine::stats() const {
  const std::lock_guard lock(mutex_);
  EngineStats s = counts_;
  s.waiting = scheduler_.waiting();
  s.running = scheduler_.running();
  s.pages = scheduler_.pages().pages();
  s.free_pages = scheduler_.pages().available();
  return s;
}

std::vector<Slice> Engine::schedule() {
  {
    const std::lock_guard lock(mutex_);
    for (const int64_t id : cancelled_)
      if (Sequence* sequence = scheduler_.find(id)) sequence->finished = FinishReason::kCancelled;
    cancelled_.clear();
  }
  release_finished();
  const std::lock_guard lock(mutex_);
  return scheduler_.plan();
}

void Engine::forward(const std::vector<Slice>& slices) {
  tokens_.clear();
  positions_.clear();
  spans_.clear();
  lengths_.clear();
  for (const Slice& slice : slices) {
    const Sequence& s = *slice.sequence;
    spans_.push_back({static_cast<int64_t>(tokens_.size()), slice.tokens, s.past, s.pages.data()});
    lengths_.push_back(static_cast<int64_t>(s.request.prompt.size()) + s.max_tokens);
    for (int64_t i = s.past; i < s.past + slice.tokens; ++i) {
      tokens_.push_back(s.tokens[static_cast<size_t>(i)]);
      positions_.push_back(static_cast<int32_t>(i));
    }
  }
  model_->forward({tokens_, positions_, spans_, lengths_}, &cache_, scratch_, hidden_);
}

// Draws the next token of every sequence whose pending tokens were all run; a chunk of a prompt needs no
// logits.
void Engine::sample(const std::vector<Slice>& slices) {
  const int64_t dim = model_->config().hidden, vocab = model_->config().vocab;
  std::vector<Sequence*> due;
  last_hidden_.clear();
  for (size_t i = 0; i < slices.size(); ++i) {
    if (!slices[i].last()) continue;
    due.push_back(slices[i].sequence);
    const float* row = hidden_.data() + (spans_[i].first + spans_[i].tokens - 1) * dim;
    last_hidden_.insert(last_hidden_.end(), row, row + dim);
  }
  const auto count = static_cast<int64_t>(due.size());
  drawn_.resize(due.size());
  for (int64_t begin = 0; begin < count; begin += kLogitRows) {
    const int64_t rows = std::min(kLogitRows, count - begin);
    if (static_cast<int64_t>(logits_.size()) < rows * vocab)
      logits_.resize(static_cast<size_t>(rows * vocab));
    model_->logits(last_hidden_.data() + begin * dim, rows, logits_.data());
    const auto row = [&](int64_t i) {
      return std::span(logits_.data() + i * vocab, static_cast<size_t>(vocab));
    };
    for (int64_t i = 0; i < rows; ++i)
      if (const Sequence& s = *due[begin + i]; s.request.adjust_logits)
        s.request.adjust_logits(s.tokens, row(i));
    parallel_for(rows, [&](int64_t i) { drawn_[begin + i] = due[begin + i]->sampler.draw(row(i)); });
  }
}

void Engine::call_back(const std::vector<Slice>& slices) {
  const double now = now_seconds();
  int64_t prompt_tokens = 0, generated = 0;
  size_t next = 0;
  for (const Slice& slice : slices) {
    Sequence& s = *slice.sequence;
    const bool due = slice.last();
    prompt_tokens +=
        std::clamp<int64_t>(static_cast<int64_t>(s.request.prompt.size()) - s.past, 0, slice.tokens);
    s.past += slice.tokens;
    if (!due) continue;
    const int32_t token = drawn_[next++];
    if (s.first_token_at == 0) s.first_token_at = now;
    s.last_token_at = now;
    if (ends(s.request, token)) {
      s.stop_id = token;
      s.finished = FinishReason::kStop;
      continue;
    }
    s.tokens.push_back(token);
    s.sampler.accept({&token, 1});
    ++generated;
    const bool go_on = !s.request.on_token || s.request.on_token({s.id, token, s.generated() - 1});
    if (!go_on)
      s.finished = FinishReason::kCancelled;
    else if (s.generated() == s.max_tokens)
      s.finished = FinishReason::kLength;
  }
  const std::lock_guard lock(mutex_);
  ++counts_.steps;
  counts_.prompt_tokens += prompt_tokens;
  counts_.generated_tokens += generated;
}

bool Engine::ends(const Request& request, int32_t token) const {
  const auto holds = [token](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  return holds(request.stop_ids) || (!request.ignore_eos && holds(options_.end_ids));
}

// Pages are free before on_finish is called, so that a request added there finds them.
void Engine::release_finished() {
  std::vector<std::unique_ptr<Sequence>> done;
  {
    const std::lock_guard lock(mutex_);
    done = scheduler_.take_finished();
  }
  for (const auto& s : done) {
    if (!s->request.on_finish) continue;
    FinishEvent e{
        s->id, *s->finished, s->stop_id, static_cast<int64_t>(s->request.prompt.size()), s->generated(), 0, 0,
        0};
    const double started = s->started_at > 0 ? s->started_at : now_seconds();
    e.waiting_seconds = started - s->added_at;
    if (s->first_token_at > 0) {
      e.prefill_seconds = s->first_token_at - started;
      e.decode_seconds = s->last_token_at - s->first_token_at;
    }
    s->request.on_finish(e);
  }
}

}  // namespace awq
