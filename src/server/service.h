// A model that is served: its engine on a thread of its own, a bound on what may wait, and counting.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "runtime/engine.h"
#include "server/metrics.h"
#include "text/detokenizer.h"
#include "text/grammar.h"
#include "text/token_trie.h"

namespace awq::server {

struct ServedModel {
  std::string name;     // what clients call it
  int64_t created = 0;  // seconds since 1970
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<Engine> engine;
  std::vector<int32_t> end_ids;  // that the engine ends texts with
  // The model's chat template applied to a JSON object of its variables; throws Error. Empty: it has none.
  std::function<std::string(std::string_view context)> render_chat;
  bool template_takes_tools = false;
};

struct ServiceOptions {
  int64_t max_waiting = 256;     // answers that wait for a place; more are refused with 429
  double request_seconds = 600;  // from arrival to the end of an answer; 0: no limit
};

class Service {
 public:
  Service(ServedModel model, const ServiceOptions& options);
  ~Service();  // ends what runs

  const ServedModel& model() const { return model_; }
  Metrics& metrics() { return metrics_; }
  std::string metrics_text() const;
  bool ready() const { return !draining_; }

  // Throws ApiError: 429 when `answers` more would be too many to wait, 503 while draining.
  void check_room(int64_t answers) const;
  // Queues a request for which there was room. Its on_finish, called for each answer, must be set. Throws ApiError.
  int64_t submit(Request request);
  void cancel(int64_t id) { model_.engine->cancel(id); }

  // A grammar as a constraint of requests: `schema` of JSON, or any object when it is empty. Throws Error.
  decltype(Request::make_constraint) json_constraint(const std::string& schema);

  // Nothing new from now on. True once all answers have ended, false when that takes longer.
  bool drain(double seconds);

 private:
  void run();

  ServedModel model_;
  ServiceOptions options_;
  Metrics metrics_;
  std::atomic<bool> draining_ = false, stopping_ = false;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable idle_;
  int64_t active_ = 0;  // answers that have not ended
  std::shared_ptr<const TokenTrie> trie_;
  std::map<std::string, std::shared_ptr<const Grammar>> grammars_;

  std::thread thread_;
};

}  // namespace awq::server
