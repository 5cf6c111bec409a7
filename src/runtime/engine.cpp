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

EngineOptions checked(EngineOptions o, const Model& model) {
  const ModelConfig& config = model.config();
  if (o.kv_dtype != DType::kF32 && o.kv_dtype != DType::kF16 && o.kv_dtype != DType::kBF16 && o.kv_dtype != DType::kI8)
    fail(Code::kBadArgument, "key/value cache: expected F32, F16, BF16 or I8, got {}", dtype_name(o.kv_dtype));
  if (o.max_sequences < 1 || o.max_batch_tokens < o.max_sequences)
    fail(Code::kBadArgument,
         "max_batch_tokens: expected at least max_sequences, and that at least 1, got {} and {}",
         o.max_batch_tokens, o.max_sequences);
  if (o.draft_tokens < 0 || o.draft_tokens > kMostDrafts)
    fail(Code::kBadArgument, "draft_tokens: expected 0 to {}, got {}", kMostDrafts, o.draft_tokens);
  const int64_t page_bytes = KvCache::page_bytes(model, o.kv_dtype);
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
      options_(checked(options, *model_)),
      cache_(*model_, options_.kv_pages, options_.kv_dtype),
      // Cached keys whose rotation depends on a sequence's final length belong to that sequence alone.
      scheduler_(options_.kv_pages, options_.max_batch_tokens, options_.max_sequences,
                 options_.share_prefixes && !model_->config().rope.depends_on_length()) {
  if (options_.draft_tokens > 0 && options_.draft_model)
    draft_model_ = std::make_unique<DraftModel>(options_.draft_model, options_.kv_pages, options_.kv_dtype, options_.max_batch_tokens);
}

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
  std::vector<Slice> slices = schedule();
  if (slices.empty()) return false;
  const double start = now_seconds();
  make_drafts(slices);
  forward(slices);
  compute_rows(wanted_rows(slices));
  // Chunks of prompts are sized by what their tokens cost of late, the decodes beside them included.
  int64_t tokens = 0;
  for (const Slice& slice : slices) tokens += slice.tokens;
  if (tokens >= 2 * static_cast<int64_t>(slices.size())) {
    const double cost = (now_seconds() - start) / static_cast<double>(tokens_.size());
    double& smoothed = seconds_per_prompt_token_;
    smoothed = smoothed == 0 ? cost : 0.7 * smoothed + 0.3 * cost;
  }
  call_back(slices);
  release_finished();
  return true;
}

int64_t Engine::step_bytes(const ModelConfig& c, const EngineOptions& o) {
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  // The states, Scratch, and what the products pack of their widest input.
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
  // The more requests wait, the more of a step is theirs: none of them has anything yet, while running answers only slow down.
  constexpr double kWaitingPerStep = 4;
  const double seconds = options_.step_seconds * (1 + static_cast<double>(scheduler_.waiting()) / kWaitingPerStep);
  return std::max<int64_t>(kPageTokens, static_cast<int64_t>(seconds / seconds_per_prompt_token_));
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
  if (options_.draft_tokens > 0) want_drafts();
  std::vector<Slice> slices = scheduler_.plan(prompt_room());
  for (const Slice& slice : slices) count_prompt(*slice.sequence);
  return slices;
}

void Engine::want_drafts() {
  int64_t decodes = 0;
  const auto may = [](const Sequence& s) { return !s.finished && s.pending() == 1 && s.generated() > 0; };
  scheduler_.for_each_running([&](Sequence& s) {
    s.draft_wanted = 0;
    decodes += may(s);
  });
  if (decodes == 0) return;
  const int64_t room = (std::min(kMostDrafts + 1, options_.max_batch_tokens) - decodes) / decodes;
  scheduler_.for_each_running([&](Sequence& s) {
    if (!may(s)) return;
    const int64_t n = s.draft_length.next(std::max<int64_t>(0, std::min({options_.draft_tokens, room, s.max_tokens - s.generated() - 1})));
    if (!draft_model_) s.lookup.guess(s.tokens, n, s.draft);
    s.draft_wanted = draft_model_ ? n : static_cast<int64_t>(s.draft.size());
  });
}

// The guesses themselves, as many as the plan has room for.
void Engine::make_drafts(std::vector<Slice>& slices) {
  if (draft_model_) {
    std::vector<DraftModel::Wanted> wanted;
    for (const Slice& slice : slices)
      if (slice.drafts > 0) wanted.push_back({slice.sequence, slice.drafts});
    draft_model_->guess(wanted);
  }
  const auto vocab = static_cast<int32_t>(model_->config().vocab);
  for (Slice& slice : slices) {
    const auto& draft = slice.sequence->draft;
    const auto end = draft.begin() + std::min(slice.drafts, static_cast<int64_t>(draft.size()));
    slice.drafts = std::find_if(draft.begin(), end, [vocab](int32_t id) { return id >= vocab; }) - draft.begin();
  }
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
    const int64_t n = slice.tokens + slice.drafts;
    spans_.push_back({static_cast<int64_t>(tokens_.size()), n, s.past, s.pages.data()});
    lengths_.push_back(s.prompt_size() + s.max_tokens);
    for (int64_t i = s.past; i < s.past + n; ++i) {
      tokens_.push_back(i < s.size() ? s.tokens[static_cast<size_t>(i)] : s.draft[static_cast<size_t>(i - s.size())]);
      positions_.push_back(static_cast<int32_t>(i));
    }
  }
  model_->forward({tokens_, positions_, spans_, lengths_}, &cache_, scratch_, states_);
}

// The next token of every sequence whose pending tokens were all run, and those after its guesses; of a prompt only what was
// asked for.
std::vector<Engine::Row> Engine::wanted_rows(const std::vector<Slice>& slices) const {
  std::vector<Row> rows;
  for (size_t i = 0; i < slices.size(); ++i) {
    Sequence& s = *slices[i].sequence;
    const auto add = [&](int64_t position, bool draw, int64_t draft = 0) {
      rows.push_back({&s, position, spans_[i].first + position - s.past, draw, draft});
    };
    if (s.wants_prompt_logprobs())
      for (int64_t p = std::max(s.past, static_cast<int64_t>(s.prompt_logprobs.size()));
           p < s.past + slices[i].tokens && p + 1 < s.prompt_size(); ++p)
        add(p, false);
    if (slices[i].last() && s.max_tokens > 0)
      for (int64_t d = 0; d <= slices[i].drafts; ++d) add(s.size() - 1 + d, true, d);
  }
  return rows;
}

void Engine::compute_rows(const std::vector<Row>& rows) {
  const int64_t vocab = model_->config().vocab;
  const auto count = static_cast<int64_t>(rows.size());
  drawn_.clear();
  for (int64_t begin = 0, n = 0; begin < count; begin += n) {
    n = std::min(kLogitRows, count - begin);
    const Row* chunk = rows.data() + begin;
    while (begin + n < count && chunk[n].draft > 0) --n;  // a draw and those after its guesses stay together
    asked_.clear();
    for (int64_t i = 0; i < n; ++i) asked_.push_back(asked(chunk[i]));
    model_->draw(states_, asked_, answers_);
    struct Group {
      std::span<const Row> rows;
      const int32_t* tokens;
      float* logits;  // of the rows without a token
      std::vector<Drawn> drawn;
    };
    std::vector<Group> groups;
    float* logits = answers_.logits.data();
    for (int64_t i = 0, end = 0; i < n; i = end) {
      for (end = i + 1; end < n && chunk[end].draft > 0;) ++end;
      const int32_t* tokens = answers_.tokens.data() + i;
      groups.push_back({{chunk + i, static_cast<size_t>(end - i)}, tokens, logits, {}});
      logits += vocab * std::count(tokens, tokens + (end - i), -1);
    }
    // A caller's own function may not be ready for several threads.
    const auto is_callers = [](const Group& group) { return group.rows[0].draw && group.rows[0].sequence->request->adjust_logits; };
    const auto run = [&](Group& group) { group.drawn = draw(group.rows, group.tokens, group.logits); };
    for (Group& group : groups)
      if (is_callers(group)) run(group);
    parallel_for(static_cast<int64_t>(groups.size()), [&](int64_t i) {
      if (Group& group = groups[static_cast<size_t>(i)]; !is_callers(group)) run(group);
    });
    for (Group& group : groups) {
      if (group.rows[0].draw)
        drawn_.push_back(std::move(group.drawn));
      else
        group.rows[0].sequence->prompt_logprobs.push_back(std::move(group.drawn[0].logprobs));
    }
  }
}

// A token where nobody has to see its logits.
RowDraw Engine::asked(const Row& row) const {
  Sequence& s = *row.sequence;
  RowDraw asked;
  if (row.draw && s.request->logprobs < 0 && !s.request->adjust_logits && !s.constraint)
    asked = s.sampler.plan(row.draft).value_or(RowDraw{});
  asked.row = row.hidden;
  return asked;
}

// The rows of one sequence: a draw, and while guesses turn out right one after each; those become tokens of the sequence. Fewer
// when a draw fails. Or a row of its prompt. Rows of one sequence are never drawn and failed in the same step by two threads:
// only a draw writes.
std::vector<Engine::Drawn> Engine::draw(std::span<const Row> rows, const int32_t* tokens, float* logits) const {
  Sequence& s = *rows[0].sequence;
  const auto vocab = static_cast<size_t>(model_->config().vocab);
  std::vector<Drawn> out;
  if (!rows[0].draw) {
    const int32_t next = s.tokens[static_cast<size_t>(rows[0].position) + 1];
    out.push_back({0, token_logprobs(std::span(logits, vocab), next, s.request->prompt_logprobs)});
    return out;
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    if (tokens[i] >= 0) {
      s.sampler.count_draw();
      out.push_back({tokens[i], {}});
    } else {
      auto drawn = draw_one(s, std::span(logits, vocab));
      if (!drawn) break;
      out.push_back(std::move(*drawn));
      logits += vocab;
    }
    const int32_t token = out.back().token;
    if (i + 1 == rows.size() || token != s.draft[i] || ends(*s.request, token)) break;
    s.tokens.push_back(token);
    s.sampler.accept(token);
  }
  return out;
}

// Nothing: an error, which is the sequence's own.
std::optional<Engine::Drawn> Engine::draw_one(Sequence& s, std::span<float> logits) const {
  const Request& request = *s.request;
  Drawn out;
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
    return std::nullopt;
  }
  return out;
}

void Engine::call_back(const std::vector<Slice>& slices) {
  const double now = now_seconds();
  struct Due {
    Sequence* sequence;
    std::span<const Drawn> drawn;
    int64_t right;  // guesses that are tokens of it by now
  };
  std::vector<Due> due;
  {
    const std::lock_guard lock(mutex_);
    size_t next = 0;
    for (const Slice& slice : slices) {
      Sequence& s = *slice.sequence;
      const bool failed = s.finished == FinishReason::kError;
      int64_t right = 0;
      if (slice.last()) {
        std::span<const Drawn> drawn;
        if (s.max_tokens > 0) drawn = drawn_[next++];
        right = static_cast<int64_t>(drawn.size()) - (failed || drawn.empty() ? 0 : 1);
        due.push_back({&s, drawn, right});
      }
      // What no number came out of must not be found by others.
      if (!failed) scheduler_.advance(slice, right);
      learn_drafts(slice, right);
      count_prompt(s);
    }
  }
  int64_t count = 0;
  for (const auto& [s, drawn, right] : due) {
    const Request& request = *s->request;
    const bool first = s->first_token_at == 0;
    if (first) s->first_token_at = now;
    s->last_token_at = now;
    if (s->finished && right == 0) continue;
    if (first && request.prompt_logprobs >= 0 && !check_prompt_logprobs(*s)) continue;
    if (first && s->choice == 0 && request.on_prompt && request.prompt_logprobs >= 0)
      request.on_prompt(s->id, s->prompt_logprobs);
    if (s->max_tokens == 0) {
      s->finished = FinishReason::kLength;
      continue;
    }
    const int64_t before = s->generated() - right;
    take_drawn(*s, drawn, right);
    count += s->generated() - before;
  }
  const std::lock_guard lock(mutex_);
  ++counts_.steps;
  counts_.generated_tokens += count;
}

void Engine::learn_drafts(const Slice& slice, int64_t right) {
  if (options_.draft_tokens == 0 || !slice.last()) return;
  Sequence& s = *slice.sequence;
  s.draft_length.learn(slice.drafts, right);
  // A draft model has read what was guessed: what was right of it stays.
  s.draft_past = std::min(s.draft_past, s.past);
  s.drafted += slice.drafts;
  s.drafts_right += right;
  counts_.drafted += slice.drafts;
  counts_.drafts_right += right;
}

// The first `right` of the tokens drawn were guessed and are tokens of the sequence already; one more may follow.
void Engine::take_drawn(Sequence& s, std::span<const Drawn> drawn, int64_t right) {
  const Request& request = *s.request;
  const int64_t first = s.generated() - right;
  for (int64_t i = 0; i < static_cast<int64_t>(drawn.size()); ++i) {
    const Drawn& d = drawn[static_cast<size_t>(i)];
    if (i == right) {
      if (ends(request, d.token)) {
        s.stop_id = d.token;
        if (request.logprobs >= 0) s.stop_logprobs = d.logprobs;
        s.finished = FinishReason::kStop;
        return;
      }
      s.tokens.push_back(d.token);
      s.sampler.accept(d.token);
    }
    const TokenEvent event{s.id, d.token, first + i, s.choice, request.logprobs >= 0 ? &d.logprobs : nullptr};
    if (request.on_token && !request.on_token(event)) {
      s.tokens.resize(static_cast<size_t>(s.prompt_size() + first + i + 1));  // what was not handed out is not part of the answer
      s.finished = FinishReason::kCancelled;
      return;
    }
  }
  if (!s.finished && s.generated() == s.max_tokens) s.finished = FinishReason::kLength;
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
    e.drafted = s->drafted;
    e.drafts_right = s->drafts_right;
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
