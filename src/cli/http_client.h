// Requests to a server that speaks JSON, by libcurl.
#pragma once
#include <string>

namespace awq::cli {

struct JsonRequest {
  std::string url, key;  // key: sent as a bearer token unless empty
  double timeout_seconds = 600;
  int tries = 5;  // of answers 429 and 5xx and of broken connections, with growing pauses or as Retry-After says
};

struct HttpAnswer {
  long status = 0;
  std::string body;
};

// GET, or POST where there is a body. kIo names the URL when no answer came; cancelling is noticed within a second.
HttpAnswer http_json(const JsonRequest& request, const std::string* body);
// The body of the answer with status 200. kIo names the URL and says what came instead.
std::string post_json(const JsonRequest& request, const std::string& body);

}  // namespace awq::cli
