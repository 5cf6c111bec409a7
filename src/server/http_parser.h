// HTTP/1.1 requests (RFC 9112) from bytes, strictly: whatever two readers could understand differently is
// refused, since that is what request smuggling lives on. No bare CR or LF, no folded or nameless headers, no
// second Host or Content-Length, no Content-Length beside Transfer-Encoding, no coding but chunked. Functions
// of bytes, so that they can be fuzzed.
#pragma once
#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace awq::server {

struct HttpLimits {
  size_t head_bytes = 16 * 1024;
  size_t target_bytes = 8 * 1024;
  size_t fields = 100;
  size_t body_bytes = 8 * 1024 * 1024;
};

// Why a request is refused: a status of HTTP and one line.
struct HttpError {
  int status = 400;
  std::string reason;
};

struct HttpHead {
  std::string method;
  std::string path;   // of the target, as it came: no decoding, no dots resolved
  std::string query;  // without the question mark
  std::string host;   // of the Host field or the absolute target, with its port; empty in HTTP/1.0 without
  int minor_version = 1;
  std::vector<std::pair<std::string, std::string>> fields;  // names in lower case, values trimmed
  std::optional<uint64_t> content_length;
  bool chunked = false;
  bool keep_alive = true;
  bool expects_continue = false;

  // Of the first field of this name; empty when there is none.
  std::string_view field(std::string_view name) const;
  bool has_body() const { return chunked || content_length.value_or(0) > 0; }
};

// Takes a head off the front of `bytes`. Fills `head` and returns how many bytes it had; 0 when more are
// needed; throws HttpError as soon as it is clear that no request begins here. Empty lines before a request
// are skipped.
size_t parse_head(std::string_view bytes, const HttpLimits& limits, HttpHead& head);

// Decodes a chunked body piece by piece.
class ChunkedBody {
 public:
  explicit ChunkedBody(const HttpLimits& limits) : limits_(limits) {}
  // Appends content to `body` and returns the bytes used up; done() tells when the last chunk and its trailer
  // were read.
  size_t read(std::string_view bytes, std::string& body);
  bool done() const { return state_ == State::kDone; }

 private:
  enum class State : uint8_t { kSize, kData, kDataEnd, kTrailer, kDone };
  size_t read_line(std::string_view bytes);

  HttpLimits limits_;
  State state_ = State::kSize;
  std::string line_;
  uint64_t left_ = 0;          // of the chunk
  size_t overhead_bytes_ = 0;  // of size lines and trailer
};

// A response's first lines, up to and with the empty one. Names and values are the caller's and must be
// clean.
using HttpFields = std::vector<std::pair<std::string, std::string>>;
std::string response_head(int status, const HttpFields& fields);
const char* status_text(int status);
// As the Date field has it (RFC 9110 section 5.6.7): "Sun, 06 Nov 1994 08:49:37 GMT".
std::string http_date(std::time_t time);

// ASCII, as field names and tokens are compared.
bool equals_ignoring_case(std::string_view a, std::string_view b);
// Whether a comma-separated list holds the token.
bool list_holds(std::string_view list, std::string_view token);

}  // namespace awq::server
