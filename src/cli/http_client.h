// Requests to a server that speaks JSON, by libcurl: what the judge of MT-Bench is asked with.
#pragma once
#include <string>

namespace awq::cli {

struct JsonPost {
  std::string url, key;       // key: sent as a bearer token unless empty
  double timeout_seconds = 600;
  int tries = 5;              // of answers 429 and 5xx and of broken connections, with growing pauses or as Retry-After says
};

// The body of the answer with status 200. kIo names the URL and says what came instead; cancelling is noticed within a second.
std::string post_json(const JsonPost& post, const std::string& body);

}  // namespace awq::cli
