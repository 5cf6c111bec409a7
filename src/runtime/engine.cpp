#include "runtime/engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>

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

// NaN anywhere in a row of logits makes its log-probability NaN. False: the sequence has ended.
bool check_prompt_logprobs(Sequence& s) {
  for (size_t i = 0; i < s.prompt_logprobs.size(); ++i)
    if (std::isnan(s.prompt_logprobs[i].token.logprob)) {
      s.finished = FinishReason::kError;
      s.error = fmt::format("the model's logits: expected numbers, got NaN after prompt token {}", i);
      return false;
    }
  return true;
}

void check_request(const Request& request, const ModelConfig& config) {
  check_prompt(request.prompt, config);
  const int64_t least = request.prompt_logprobs >= 0 ? 0 : 1;
  if (request.max_tokens < least)
    fail(Code::kBadArgument, "max_tokens: expected at least {}, got {}", least, request.max_tokens);
  if (request.n < 1 || request.n > kMaxChoices)
    fail(Code::kBadArgument, "n: expected 1 to {}, got {}", kMaxChoices, request.n);
  for (const int32_t top : {request.logprobs, request.prompt_logprobs})
    if (top < -1 || top > kMaxTopLogprobs)
      fail(Code::kBadArgument, "logprobs: expected up to {} likeliest tokens, got {}", kMaxTopLogprobs, top);
}

}  // namespace

Engine::Engine(std::shared_ptr<const Model> model, const EngineOptions& options)
    : model_(std::move(model)),
      options_(checked(options, model_->config())),
      cache_(*model_, options_.kv_pages, options_.kv_dtype),
      // Cached keys whose rotation depends on a sequence's final length belong to that sequence alone.
      scheduler_(options_.kv_pages, options_.max_batch_tokens, options_.max_sequences,
                 options_.share_prefixes && !model_->config().rope.depends_on_length()) {}

int64_t Engine::max_tokens() const {
  return std::min(model_->config().max_position, options_.kv_pages * kPageTokens);
}

int64_t Engine::add(Request request) {
  const ModelConfig& config = model_->config();
  check_request(request, config);
  const auto size = static_cast<int64_t>(request.prompt.size());
  const int64_t limit = std::min(request.max_tokens, config.max_position - size);
  const int64_t pages = PageAllocator::pages_for(size + limit);
  if (pages > options_.kv_pages)
    fail(Code::kBadArgument,
         "{} prompt tokens and {} to generate need {} pages of {} tokens: the key/value cache has {}", size,
         limit, pages, kPageTokens, options_.kv_pages);
  const auto shared = std::make_shared<const Request>(std::move(request));
  auto leader = std::make_unique<Sequence>(0, shared, limit, config.vocab);
  for (int32_t i = 1; i < shared->n; ++i)
    leader->siblings.push_back(std::make_unique<Sequence>(0, shared, limit, config.vocab, i));
  leader->added_at = now_seconds();
  const std::lock_guard lock(mutex_);
  const int64_t id = leader->id = next_id_++;
  for (const auto& sibling : leader->siblings) {
    sibling->id = id;
    sibling->added_at = leader->added_at;
  }
  scheduler_.submit(std::move(leader));
  has_changed_ = true;
  changed_.notify_one();
  return id;
}

void Engine::cancel(int64_t id) {
  const std::lock_guard lock(mutex_);
  cancelled_.push_back(id);
  has_changed_ = true;
  changed_.notify_one();
}

void Engine::wake() {
  const std::lock_guard lock(mutex_);
  has_changed_ = true;
  changed_.notify_one();
}

void Engine::wait(double seconds) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return has_changed_; });
  has_changed_ = false;
}

bool Engine::step() {
  const std::vector<Slice> slices = schedule();
  if (slices.empty()) return false;
  const double start = now_seconds();
  forward(slices);
  compute_rows(wanted_rows(slices));
  // Chunks of prompts are sized by what their tokens cost of late, the decodes beside them included.
  if (const auto tokens = static_cast<int64_t>(tokens_.size());
      tokens >= 2 * static_cast<int64_t>(slices.size())) {
    const double cost = (now_seconds() - start) / static_cast<double>(tokens);
    double& smoothed = seconds_per_prompt_token_;
    smoothed = smoothed == 0 ? cost : 0.7 * smoothed + 0.3 * cost;
  }
  call_back(slices);
  release_finished();
  return true;
}

int64_t Engine::step_bytes(const ModelConfig& c, const EngineOptions& o) {
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  // hidden_, Scratch, and what the products pack of their widest input.
  const int64_t token = 3 * c.hidden + (q + 2 * kv) + q + 3 * c.intermediate + std::max({c.hidden, q, c.intermediate});
  const int64_t rows = kLogitRows * (c.hidden + c.vocab);
  return static_cast<int64_t>(sizeof(float)) * (o.max_batch_tokens * token + rows);
}

void Engine::run_until_idle() {
  while (step()) check_cancelled();
}

void Engine::fail_all(const std::string& error) {
  {
    const std::lock_guard lock(mutex_);
    scheduler_.for_each([&](Sequence& s) {
      if (s.finished) return;
      s.finished = FinishReason::kError;
      s.error = error;
    });
  }
  release_finished();
}

EngineStats Engine::stats() const {
  const std::lock_guard lock(mutex_);
  EngineStats s = counts_;
  s.waiting = scheduler_.waiting();
  s.running = scheduler_.running();
  s.pages = scheduler_.pages().pages();
  s.free_pages = scheduler_.pages().available();
  s.kept_pages = scheduler_.pages().kept();
  s.preemptions = scheduler_.preemptions();
  return s;
}

int64_t Engine::prompt_room() const {
  if (options_.step_seconds <= 0) return options_.max_batch_tokens;
  // Before anything is measured a page's worth is a safe start.
  if (seconds_per_prompt_token_ == 0) return kPageTokens;
  return std::max<int64_t>(kPageTokens,
                           static_cast<int64_t>(options_.step_seconds / seconds_per_prompt_token_));
}

std::vector<Slice> Engine::schedule() {
  const double now = now_seconds();
  {
    const std::lock_guard lock(mutex_);
    scheduler_.for_each([&](Sequence& s) {
      const double deadline = s.request->deadline_seconds;
      if (s.finished) return;
      if (std::find(cancelled_.begin(), cancelled_.end(), s.id) != cancelled_.end())
        s.finished = FinishReason::kCancelled;
      else if (deadline > 0 && now - s.added_at >= deadline)
        s.finished = FinishReason::kDeadline;
    });
    cancelled_.clear();
  }
  release_finished();
  const std::lock_guard lock(mutex_);
  has_changed_ = false;
  std::vector<Slice> slices = scheduler_.plan(prompt_room());
  for (const Slice& slice : slices) count_prompt(*slice.sequence);
  return slices;
}

// What was found in the cache counts as read; a prompt with several answers counts once.
void Engine::count_prompt(Sequence& s) {
  if (s.choice > 0) return;
  const int64_t read = std::min(s.past, s.prompt_size());
  if (s.prompt_counted == 0) counts_.reused_tokens += s.reused.value_or(0);
  counts_.prompt_tokens += std::max<int64_t>(0, read - s.prompt_counted);
  s.prompt_counted = std::max(s.prompt_counted, read);
}

void Engine::forward(const std::vector<Slice>& slices) {
  tokens_.clear();
  positions_.clear();
  spans_.clear();
  lengths_.clear();
  for (const Slice& slice : slices) {
    const Sequence& s = *slice.sequence;
    spans_.push_back({static_cast<int64_t>(tokens_.size()), slice.tokens, s.past, s.pages.data()});
    lengths_.push_back(s.prompt_size() + s.max_tokens);
    for (int64_t i = s.past; i < s.past + slice.tokens; ++i) {
      tokens_.push_back(s.tokens[static_cast<size_t>(i)]);
      positions_.push_back(static_cast<int32_t>(i));
    }
  }
  model_->forward({tokens_, positions_, spans_, lengths_}, &cache_, scratch_, hidden_);
}

// The next token of every sequence whose pending tokens were all run; of a prompt only what was asked for.
std::vector<Engine::Row> Engine::wanted_rows(const std::vector<Slice>& slices) const {
  std::vector<Row> rows;
  for (size_t i = 0; i < slices.size(); ++i) {
    Sequence& s = *slices[i].sequence;
    const auto add = [&](int64_t position, bool draw) {
      rows.push_back({&s, position, spans_[i].first + position - s.past, draw});
    };
    if (s.wants_prompt_logprobs())
      for (int64_t p = std::max(s.past, static_cast<int64_t>(s.prompt_logprobs.size()));
           p < s.past + slices[i].tokens && p + 1 < s.prompt_size(); ++p)
        add(p, false);
    if (slices[i].last() && s.max_tokens > 0) add(s.size() - 1, true);
  }
  return rows;
}

void Engine::compute_rows(const std::vector<Row>& rows) {
  const int64_t dim = model_->config().hidden, vocab = model_->config().vocab;
  const auto count = static_cast<int64_t>(rows.size());
  std::vector<Drawn> results(rows.size());
  for (int64_t begin = 0; begin < count; begin += kLogitRows) {
    const int64_t n = std::min(kLogitRows, count - begin);
    const Row* chunk = rows.data() + begin;
    rows_.clear();
    for (int64_t i = 0; i < n; ++i) {
      const float* row = hidden_.data() + chunk[i].hidden * dim;
      rows_.insert(rows_.end(), row, row + dim);
    }
    if (static_cast<int64_t>(logits_.size()) < n * vocab) logits_.resize(static_cast<size_t>(n * vocab));
    model_->logits(rows_.data(), n, logits_.data());
    const auto logits = [&](int64_t i) {
      return std::span(logits_.data() + i * vocab, static_cast<size_t>(vocab));
    };
    // A caller's own function may not be ready for several threads.
    std::vector<uint8_t> done(static_cast<size_t>(n), 0);
    const auto run = [&](int64_t i) {
      if (!done[static_cast<size_t>(i)])
        results[static_cast<size_t>(begin + i)] = use_row(chunk[i], logits(i));
    };
    for (int64_t i = 0; i < n; ++i)
      if (chunk[i].draw && chunk[i].sequence->request->adjust_logits) {
        run(i);
        done[static_cast<size_t>(i)] = 1;
      }
    parallel_for(n, run);
  }
  drawn_.clear();
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].draw)
      drawn_.push_back(std::move(results[i]));
    else
      rows[i].sequence->prompt_logprobs.push_back(std::move(results[i].logprobs));
  }
}

// An error here is the sequence's own. Rows of one sequence are never drawn and failed in the same step by
// two threads: only a draw writes.
Engine::Drawn Engine::use_row(const Row& row, std::span<float> logits) const {
  Sequence& s = *row.sequence;
  const Request& request = *s.request;
  Drawn out;
  if (!row.draw) {
    const int32_t next = s.tokens[static_cast<size_t>(row.position) + 1];
    out.logprobs = token_logprobs(logits, next, request.prompt_logprobs);
    return out;
  }
  try {
    std::vector<float> raw;
    if (request.logprobs >= 0) raw.assign(logits.begin(), logits.end());
    if (request.adjust_logits) request.adjust_logits(s.tokens, logits);
    if (s.constraint) s.constraint(s.tokens, logits);
    out.token = s.sampler.draw(logits);
    if (request.logprobs >= 0) out.logprobs = token_logprobs(raw, out.token, request.logprobs);
  } catch (const Error& error) {
    s.finished = FinishReason::kError;
    s.error = error.what();
  }
  return out;
}

void Engine::call_back(const std::vector<Slice>& slices) {
  const double now = now_seconds();
  size_t next = 0;
  std::vector<Sequence*> due;
  {
    const std::lock_guard lock(mutex_);
    for (const Slice& slice : slices) {
      const bool last = slice.last();
      if (last) due.push_back(slice.sequence);
      // What no number came out of must not be found by others.
      if (slice.sequence->finished != FinishReason::kError) scheduler_.advance(slice);
      count_prompt(*slice.sequence);
    }
  }
  int64_t drawn = 0;
  for (Sequence* s : due) {
    const Request& request = *s->request;
    const bool first = s->first_token_at == 0;
    if (first) s->first_token_at = now;
    s->last_token_at = now;
    const Drawn none;
    const Drawn& token = s->max_tokens > 0 ? drawn_[next++] : none;
    if (s->finished) continue;
    if (first && request.prompt_logprobs >= 0 && !check_prompt_logprobs(*s)) continue;
    if (first && s->choice == 0 && request.on_prompt && request.prompt_logprobs >= 0)
      request.on_prompt(s->id, s->prompt_logprobs);
    if (s->max_tokens == 0) {
      s->finished = FinishReason::kLength;
      continue;
    }
    const int64_t before = s->generated();
    take_drawn(*s, token);
    drawn += s->generated() - before;
  }
  const std::lock_guard lock(mutex_);
  ++counts_.steps;
  counts_.generated_tokens += drawn;
}

void Engine::take_drawn(Sequence& s, const Drawn& drawn) {
  const Request& request = *s.request;
  if (ends(request, drawn.token)) {
    s.stop_id = drawn.token;
    if (request.logprobs >= 0) s.stop_logprobs = drawn.logprobs;
    s.finished = FinishReason::kStop;
    return;
  }
  s.tokens.push_back(drawn.token);
  s.sampler.accept(drawn.token);
  const TokenEvent event{s.id, drawn.token, s.generated() - 1, s.choice,
                         request.logprobs >= 0 ? &drawn.logprobs : nullptr};
  if (request.on_token && !request.on_token(event))
    s.finished = FinishReason::kCancelled;
  else if (s.generated() == s.max_tokens)
    s.finished = FinishReason::kLength;
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
    if (!s->request->on_finish) continue;
    FinishEvent e;
    e.request = s->id;
    e.choice = s->choice;
    e.reason = *s->finished;
    e.stop_id = s->stop_id;
    if (s->stop_logprobs) e.stop_logprobs = &*s->stop_logprobs;
    e.prompt_tokens = s->prompt_size();
    e.tokens = s->generated();
    e.reused_tokens = s->reused.value_or(0);
    e.error = s->error;
    const double started = s->started_at > 0 ? s->started_at : now_seconds();
    e.waiting_seconds = started - s->added_at;
    if (s->first_token_at > 0) {
      e.prefill_seconds = s->first_token_at - started;
      e.decode_seconds = s->last_token_at - s->first_token_at;
    }
    s->request->on_finish(e);
  }
}

}  // namespace awq
