#include "server/service.h"

#include <chrono>

#include "base/log.h"
#include "base/system.h"
#include "server/errors.h"
#include "text/grammar_matcher.h"
#include "text/json_schema.h"

namespace awq::server {
namespace {

constexpr size_t kKeptGrammars = 32;

[[noreturn]] void throw_draining() {
  throw ApiError{503, "service_unavailable", "the server is shutting down", {}, "shutting_down"};
}

}  // namespace

Service::Service(ServedModel model, const ServiceOptions& options)
    : model_(std::move(model)), options_(options) {
  thread_ = std::thread([this] { run(); });
}

Service::~Service() {
  draining_ = true;
  stopping_ = true;
  model_.engine->wake();
  thread_.join();
}

void Service::run() {
  while (!stopping_) {
    try {
      if (!model_.engine->step()) model_.engine->wait(1);
    } catch (const std::bad_alloc&) {
      model_.engine->fail_all("the server ran out of memory");
    } catch (const std::exception& error) {
      log(Level::kWarning, "a step failed, and with it all running requests: {}", error.what());
      model_.engine->fail_all("the server failed on a step");
    }
  }
  model_.engine->fail_all("the server is shutting down");
}

void Service::check_room(int64_t answers) const {
  if (draining_)
    throw ApiError{503, "service_unavailable", "the server is shutting down", {}, "shutting_down"};
  const EngineStats stats = model_.engine->stats();
  // A request alone may have more answers than may wait.
  if (stats.waiting > 0 && stats.waiting + answers > options_.max_waiting)
    throw ApiError{
        429, "rate_limit_error", "too many requests are waiting; try again later", {}, "queue_full"};
}

int64_t Service::submit(Request request) {
  if (draining_) throw_draining();
  const int64_t answers = request.n;
  request.deadline_seconds = options_.request_seconds;
  request.on_finish = [this, finish = std::move(request.on_finish)](const FinishEvent& event) {
    finish(event);
    const std::lock_guard lock(mutex_);
    if (--active_ == 0) idle_.notify_all();
  };
  {
    const std::lock_guard lock(mutex_);
    active_ += answers;
  }
  try {
    return model_.engine->add(std::move(request));
  } catch (const Error& error) {
    {
      const std::lock_guard lock(mutex_);
      if ((active_ -= answers) == 0) idle_.notify_all();
    }
    throw ApiError{400, "invalid_request_error", error.what()};
  }
}

decltype(Request::make_constraint) Service::json_constraint(const std::string& schema) {
  std::shared_ptr<const Grammar> grammar;
  std::shared_ptr<const TokenTrie> trie;
  {
    const std::lock_guard lock(mutex_);
    if (!trie_) trie_ = std::make_shared<TokenTrie>(model_.tokenizer);
    trie = trie_;
    if (const auto it = grammars_.find(schema); it != grammars_.end()) grammar = it->second;
  }
  if (!grammar) {
    grammar = schema.empty() ? json_object_grammar() : json_schema_grammar(schema);
    const std::lock_guard lock(mutex_);
    if (grammars_.size() >= kKeptGrammars) grammars_.clear();
    grammars_.emplace(schema, grammar);
  }
  return constraint(grammar, trie, model_.end_ids);
}

bool Service::drain(double seconds) {
  draining_ = true;
  std::unique_lock lock(mutex_);
  return idle_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return active_ == 0; });
}

std::string Service::metrics_text() const {
  const EngineStats s = model_.engine->stats();
  std::string out;
  const auto gauge = [&](const char* name, const char* help, int64_t value) {
    write_metric(out, name, "gauge", help, static_cast<double>(value));
  };
  const auto counter = [&](const char* name, const char* help, auto value) {
    write_metric(out, name, "counter", help, static_cast<double>(value));
  };
  gauge("awq_sequences_waiting", "Answers that wait for a place.", s.waiting);
  gauge("awq_sequences_running", "Answers being generated.", s.running);
  gauge("awq_kv_pages", "Pages of the key/value cache.", s.pages);
  gauge("awq_kv_pages_used", "Pages in use.", s.pages - s.free_pages);
  gauge("awq_kv_pages_kept", "Pages without a user whose content may be reused.", s.kept_pages);
  counter("awq_prompt_tokens_total", "Tokens of prompts.", s.prompt_tokens);
  counter("awq_prompt_tokens_reused_total", "Tokens of prompts found in the cache.", s.reused_tokens);
  counter("awq_generated_tokens_total", "Tokens generated.", s.generated_tokens);
  counter("awq_steps_total", "Forward passes.", s.steps);
  counter("awq_draft_tokens_total", "Tokens guessed ahead.", s.drafted);
  counter("awq_draft_tokens_right_total", "Of these, tokens that the model then drew.", s.drafts_right);
  counter("awq_preemptions_total", "Times a sequence gave up its pages.", s.preemptions);
  counter("awq_requests_done_total", "Requests answered.", metrics_.requests_done.load());
  counter("awq_requests_failed_total", "Requests that ended with an error.", metrics_.requests_failed.load());
  counter("awq_requests_refused_total", "Requests refused before any work.",
          metrics_.requests_refused.load());
  counter("awq_requests_gone_total", "Requests whose client left.", metrics_.requests_gone.load());
  metrics_.first_token.write(out);
  metrics_.between_tokens.write(out);
  metrics_.duration.write(out);
  return out;
}

}  // namespace awq::server
