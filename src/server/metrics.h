// Counters and histograms in Prometheus' text format 0.0.4. The set of series is fixed: no label comes from a
// request.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace awq::server {

class Histogram {
 public:
  // Bounds ascend; what is larger than the last falls under +Inf.
  Histogram(std::string name, std::string help, std::vector<double> bounds);
  void observe(double value);
  void write(std::string& out) const;

 private:
  std::string name_, help_;
  std::vector<double> bounds_;
  mutable std::mutex mutex_;
  std::vector<uint64_t> counts_;  // [bounds + 1]
  double sum_ = 0;
};

// What the server counts itself; gauges of the engine are passed to write().
struct Metrics {
  std::atomic<uint64_t> requests_done = 0, requests_failed = 0, requests_refused = 0, requests_gone = 0;
  Histogram first_token{"awq_time_to_first_token_seconds",
                        "From the arrival of a request to its first token.",
                        {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}};
  Histogram between_tokens{"awq_time_between_tokens_seconds",
                           "Between two tokens of an answer.",
                           {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5}};
  Histogram duration{"awq_request_seconds",
                     "From the arrival of a request to the end of its answer.",
                     {0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300}};
};

// "# HELP", "# TYPE" and one value.
void write_metric(std::string& out, const char* name, const char* type, const char* help, double value);

}  // namespace awq::server
