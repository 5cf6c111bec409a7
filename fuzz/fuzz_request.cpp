// Requests of HTTP/1.1 as they come from a socket: what is accepted is the same however the bytes are cut,
// stays within the limits, and passes the checks of access without harm.
#include <algorithm>
#include <functional>
#include <optional>

#include "server/auth.h"
#include "server/http_parser.h"
#include "target.h"

using namespace awq;
using namespace awq::server;
using fuzz::require;

namespace {

// Small, so that short inputs reach them.
constexpr HttpLimits kLimits{.head_bytes = 256, .target_bytes = 64, .fields = 8, .body_bytes = 128};

struct Outcome {
  int status = 0;                  // of the refusal; 0: none
  size_t head_used = 0, used = 0;  // of head, and of both
  bool complete = false;
  HttpHead head;
  std::string body;
};

void check_refusal(const HttpError& error) {
  require(error.status >= 400 && error.status < 600);
  require(*status_text(error.status) != '\0' && !error.reason.empty() && error.reason.size() < 200);
}

// As the server reads: everything so far is offered until the head is complete, what follows is the body's.
// They come in two pieces.
Outcome read(std::string_view bytes, size_t cut) {
  Outcome out;
  try {
    std::string in;
    size_t taken = 0;
    std::optional<ChunkedBody> chunks;
    bool has_head = false;
    while (!out.complete) {
      if (!has_head && !in.empty() && (out.head_used = parse_head(in, kLimits, out.head)) > 0) {
        require(out.head_used <= in.size());
        in.erase(0, out.head_used);
        has_head = true;
        if (out.head.chunked) chunks.emplace(kLimits);
      }
      if (has_head) {
        if (chunks) {
          const size_t n = chunks->read(in, out.body);
          require(n == in.size() || chunks->done());
          in.erase(0, n);
          out.complete = chunks->done();
        } else {
          const size_t n = std::min<size_t>(in.size(), out.head.content_length.value_or(0) - out.body.size());
          out.body.append(in, 0, n);
          in.erase(0, n);
          out.complete = out.body.size() == out.head.content_length.value_or(0);
        }
        if (out.complete) break;
      }
      if (taken == bytes.size()) break;
      const std::string_view next = taken < cut ? bytes.substr(0, cut) : bytes.substr(taken);
      in += next;
      taken += next.size();
    }
    out.used = taken - in.size();
  } catch (const HttpError& error) {
    check_refusal(error);
    out.status = error.status;
  }
  return out;
}

void check_head(const HttpHead& head) {
  const auto visible = [](std::string_view s) {
    return std::all_of(s.begin(), s.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  };
  require(!head.method.empty() && visible(head.method) && visible(head.path) && visible(head.query) &&
          visible(head.host));
  require(head.path == "*" || head.path.starts_with('/'));
  require(head.path.size() + head.query.size() <= kLimits.target_bytes &&
          head.fields.size() <= kLimits.fields);
  require(!head.host.empty() || head.minor_version == 0);
  require(!head.chunked || (!head.content_length && head.minor_version == 1));
  require(head.content_length.value_or(0) <= kLimits.body_bytes);
  for (const auto& [name, value] : head.fields) {
    require(!name.empty() && visible(name));
    require(value.find_first_of(std::string_view("\r\n\0", 3)) == std::string::npos);
  }
}

const AccessRules& rules() {
  static const AccessRules made = [] {
    AccessRules r;
    r.keys.add("fuzzed-key");
    r.hosts = {"localhost", "[::1]"};
    r.origins = {"https://a.example"};
    return r;
  }();
  return made;
}

void check_access(const HttpHead& head) {
  if (host_allowed(rules(), head.host))
    require(head.host.empty() || head.host.starts_with('[') || (head.host[0] | 0x20) == 'l');
  origin_allowed(rules(), head);
  const std::string_view given = head.field("authorization");
  if (rules().keys.find(given) >= 0)
    require(given.ends_with("fuzzed-key") || equals_ignoring_case(given.substr(0, 5), "basic"));
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes = fuzz::text_of(data, size);
  const Outcome whole = read(bytes, size);
  // One place to cut, another for every input.
  const size_t place = size == 0 ? 0 : std::hash<std::string_view>{}(bytes) % size;
  const Outcome cut = read(bytes, place);
  // With two faults the first to be seen may differ; that there is one may not.
  require((cut.status == 0) == (whole.status == 0) && cut.complete == whole.complete);
  if (whole.status == 0) require(cut.head_used == whole.head_used && cut.body == whole.body);
  require(whole.body.size() <= kLimits.body_bytes);
  if (whole.status != 0 || whole.head_used == 0) return 0;
  check_head(whole.head);
  check_access(whole.head);
  return 0;
}
