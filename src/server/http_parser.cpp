#include "server/http_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace awq::server {
namespace {

constexpr size_t kNone = std::string_view::npos;

bool is_token_char(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         std::string_view("!#$%&'*+-.^_`|~").find(c) != kNone;
}
bool is_token(std::string_view s) { return !s.empty() && std::all_of(s.begin(), s.end(), is_token_char); }
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; }
std::string lower(std::string_view s) {
  std::string out(s);
  for (char& c : out) c = lower(c);
  return out;
}
std::string_view trim(std::string_view s) {
  while (!s.empty() && (s.front() == ' ' || s.front() == '\t')) s.remove_prefix(1);
  while (!s.empty() && (s.back() == ' ' || s.back() == '\t')) s.remove_suffix(1);
  return s;
}
bool is_digits(std::string_view s) {
  return !s.empty() && std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; });
}
[[noreturn]] void refuse(int status, std::string reason) { throw HttpError{status, std::move(reason)}; }

// RFC 3986: what a path or a query may hold. Stricter than the field values, since these reach the route
// table.
void check_target(std::string_view target) {
  for (const char c : target)
    if (c < 0x21 || c > 0x7e || std::string_view("\"#<>\\^`{|}").find(c) != kNone)
      refuse(400, "the request target holds a character that must be encoded");
  for (size_t i = 0; i < target.size(); ++i)
    if (target[i] == '%') {
      const auto is_hex = [](char c) {
        return (c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'f');
      };
      if (i + 2 >= target.size() || !is_hex(target[i + 1]) || !is_hex(target[i + 2]))
        refuse(400, "the request target holds a wrong percent encoding");
    }
}

// host [":" port], RFC 9110 section 7.2: no user, no path.
bool is_authority(std::string_view s) {
  std::string_view host = s, port;
  if (s.starts_with('[')) {
    const size_t end = s.find(']');
    if (end == kNone || end < 3) return false;
    const std::string_view address = s.substr(1, end - 1);
    if (!std::all_of(address.begin(), address.end(), [](char c) {
          return (c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'f') || c == ':' || c == '.';
        }))
      return false;
    if (end + 1 == s.size()) return true;
    if (s[end + 1] != ':') return false;
    port = s.substr(end + 2);
    return port.empty() || (is_digits(port) && port.size() <= 5);
  }
  if (const size_t colon = s.find(':'); colon != kNone) {
    host = s.substr(0, colon);
    port = s.substr(colon + 1);
    if (!port.empty() && (!is_digits(port) || port.size() > 5)) return false;
  }
  return !host.empty() && std::all_of(host.begin(), host.end(), [](char c) {
    return (c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'z') || c == '.' || c == '-' || c == '_';
  });
}

void read_target(std::string_view target, HttpHead& head) {
  check_target(target);
  if (target == "*") {
    if (head.method != "OPTIONS") refuse(400, "the request target * belongs to OPTIONS");
    head.path = "*";
    return;
  }
  if (!target.starts_with('/')) {  // absolute-form
    const std::string start = lower(target.substr(0, 8));
    const size_t scheme = start.starts_with("http://") ? 7 : start.starts_with("https://") ? 8 : 0;
    if (scheme == 0) refuse(400, "the request target must begin with / or http://");
    target.remove_prefix(scheme);
    const size_t end = std::min(target.find_first_of("/?"), target.size());
    head.host = target.substr(0, end);
    if (!is_authority(head.host)) refuse(400, "the request target names no valid host");
    target.remove_prefix(end);
    if (!target.starts_with('/')) head.path = "/";
  }
  const size_t question = target.find('?');
  if (head.path.empty()) head.path = target.substr(0, question);
  if (question != kNone) head.query = target.substr(question + 1);
}

void read_request_line(std::string_view line, const HttpLimits& limits, HttpHead& head) {
  const size_t first = line.find(' '), last = line.rfind(' ');
  if (first == kNone || last == first) refuse(400, "the request line is not METHOD TARGET VERSION");
  const std::string_view method = line.substr(0, first), target = line.substr(first + 1, last - first - 1),
                         version = line.substr(last + 1);
  if (!is_token(method) || method.size() > 32) refuse(400, "the method is not a token");
  if (version.size() != 8 || !version.starts_with("HTTP/") || version[6] != '.' ||
      !is_digits(version.substr(5, 1)) || !is_digits(version.substr(7)))
    refuse(400, "the version is not HTTP/1.1");
  if (version[5] != '1') refuse(505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
  if (target.size() > limits.target_bytes) refuse(414, "the request target is too long");
  if (target.empty() || target.find(' ') != kNone)
    refuse(400, "the request line is not METHOD TARGET VERSION");
  head.method = method;
  head.minor_version = version[7] == '0' ? 0 : 1;
  read_target(target, head);
}

void read_field(std::string_view line, HttpHead& head) {
  if (line.front() == ' ' || line.front() == '\t') refuse(400, "a header field is folded");
  const size_t colon = line.find(':');
  if (colon == kNone || !is_token(line.substr(0, colon))) refuse(400, "a header field has no valid name");
  const std::string_view value = trim(line.substr(colon + 1));
  for (const char c : value)
    if ((c >= 0 && c < 0x20 && c != '\t') || c == 0x7f)
      refuse(400, "a header field holds a control character");
  head.fields.emplace_back(lower(line.substr(0, colon)), value);
}

void read_length(std::string_view value, HttpHead& head, const HttpLimits& limits) {
  if (head.content_length) refuse(400, "Content-Length comes twice");
  if (!is_digits(value) || value.size() > 18) refuse(400, "Content-Length is not a number");
  uint64_t length = 0;
  for (const char c : value) length = length * 10 + static_cast<uint64_t>(c - '0');
  if (length > limits.body_bytes)
    refuse(413, fmt::format("the body has {} bytes: at most {} are read", length, limits.body_bytes));
  head.content_length = length;
}

// The fields that decide where this request ends and the next one begins.
void interpret_fields(HttpHead& head, const HttpLimits& limits) {
  bool has_host = false, has_coding = false, close = false, keep = false;
  for (const auto& [name, value] : head.fields) {
    if (name == "host") {
      if (has_host) refuse(400, "Host comes twice");
      has_host = true;
      if (!is_authority(value) && !value.empty()) refuse(400, "Host is not a host and a port");
      if (value.empty()) refuse(400, "Host is empty");
      if (head.host.empty()) head.host = value;
    } else if (name == "content-length") {
      read_length(value, head, limits);
    } else if (name == "transfer-encoding") {
      if (has_coding) refuse(400, "Transfer-Encoding comes twice");
      has_coding = true;
      if (head.minor_version == 0) refuse(400, "HTTP/1.0 knows no Transfer-Encoding");
      if (!equals_ignoring_case(value, "chunked"))
        refuse(is_token(value) && !equals_ignoring_case(value, "identity") ? 501 : 400,
               "the only Transfer-Encoding read here is chunked");
      head.chunked = true;
    } else if (name == "connection") {
      close = close || list_holds(value, "close");
      keep = keep || list_holds(value, "keep-alive");
    } else if (name == "expect") {
      if (!equals_ignoring_case(value, "100-continue")) refuse(417, "this expectation is not known");
      head.expects_continue = head.minor_version > 0;
    }
  }
  if (!has_host && head.minor_version > 0) refuse(400, "Host is missing");
  if (head.chunked && head.content_length) refuse(400, "Content-Length beside Transfer-Encoding");
  head.keep_alive = !close && (head.minor_version > 0 || keep);
}

// RFC 9112 section 7.1.1: *(";" name ["=" (token / quoted string)]). The white space that it tells readers to
// put up with is refused: nobody sends it, and not all readers agree on it.
bool is_chunk_extension(std::string_view s) {
  const auto skip_token = [&s] {
    const auto end = std::find_if_not(s.begin(), s.end(), is_token_char);
    const bool any = end != s.begin();
    s.remove_prefix(static_cast<size_t>(end - s.begin()));
    return any;
  };
  const auto skip_quoted = [&s] {
    for (size_t i = 1; i < s.size(); ++i) {
      if (s[i] == '"') {
        s.remove_prefix(i + 1);
        return true;
      }
      if (s[i] == '\\') ++i;
      if (i < s.size() && ((s[i] >= 0 && s[i] < 0x20 && s[i] != '\t') || s[i] == 0x7f)) return false;
    }
    return false;
  };
  while (s.starts_with(';')) {
    s.remove_prefix(1);
    if (!skip_token()) return false;
    if (!s.starts_with('=')) continue;
    s.remove_prefix(1);
    if (!(s.starts_with('"') ? skip_quoted() : skip_token())) return false;
  }
  return s.empty();
}

}  // namespace

std::string_view HttpHead::field(std::string_view name) const {
  for (const auto& [key, value] : fields)
    if (key == name) return value;
  return {};
}

size_t parse_head(std::string_view bytes, const HttpLimits& limits, HttpHead& head) {
  size_t at = 0;
  while (bytes.substr(at).starts_with("\r\n") && at < 8) at += 2;
  if (bytes.substr(at).starts_with("\r\n")) refuse(400, "empty lines instead of a request");
  HttpHead out;
  bool has_line = false;
  while (true) {
    const size_t end = bytes.find_first_of(std::string_view("\r\n\0", 3), at);
    if (end == kNone) break;
    if (bytes[end] != '\r') refuse(400, "a line must end with CR LF");
    if (end + 1 == bytes.size()) break;
    if (bytes[end + 1] != '\n') refuse(400, "a CR stands without its LF");
    if (end + 2 > limits.head_bytes) break;
    const std::string_view line = bytes.substr(at, end - at);
    at = end + 2;
    if (!has_line) {
      read_request_line(line, limits, out);
      has_line = true;
    } else if (line.empty()) {
      interpret_fields(out, limits);
      head = std::move(out);
      return at;
    } else {
      if (out.fields.size() == limits.fields)
        refuse(431, fmt::format("more than {} header fields", limits.fields));
      read_field(line, out);
    }
  }
  if (bytes.size() > limits.head_bytes)
    refuse(has_line ? 431 : 414, fmt::format("the head has more than {} bytes", limits.head_bytes));
  return 0;
}

// Bytes used of a line that ends with CR LF; it is complete when its CR LF is at the end of line_.
size_t ChunkedBody::read_line(std::string_view bytes) {
  size_t used = 0;
  while (used < bytes.size() && !line_.ends_with("\r\n")) {
    const char c = bytes[used++];
    if ((c == '\n') != line_.ends_with('\r')) refuse(400, "a line of the chunked body must end with CR LF");
    if (c == '\0') refuse(400, "a line of the chunked body holds a NUL");
    line_ += c;
    if (++overhead_bytes_ > limits_.head_bytes + limits_.body_bytes / 8)
      refuse(413, "the chunked body is mostly framing");
  }
  if (line_.size() > limits_.head_bytes) refuse(431, "a line of the chunked body is too long");
  return used;
}

size_t ChunkedBody::read(std::string_view bytes, std::string& body) {
  size_t used = 0;
  while (used < bytes.size() && state_ != State::kDone) {
    if (state_ == State::kData) {
      const size_t n = static_cast<size_t>(std::min<uint64_t>(left_, bytes.size() - used));
      body.append(bytes.substr(used, n));
      used += n;
      left_ -= n;
      if (left_ == 0) state_ = State::kDataEnd;
      continue;
    }
    used += read_line(bytes.substr(used));
    if (!line_.ends_with("\r\n")) break;
    const std::string_view line = std::string_view(line_).substr(0, line_.size() - 2);
    if (state_ == State::kDataEnd) {
      if (!line.empty()) refuse(400, "a chunk is longer than it said");
      state_ = State::kSize;
    } else if (state_ == State::kTrailer) {
      if (line.empty()) state_ = State::kDone;
      HttpHead trailer;
      if (!line.empty()) read_field(line, trailer);
    } else {
      const size_t digits = std::min(line.find_first_not_of("0123456789abcdefABCDEF"), line.size());
      if (digits == 0 || digits > 8 || (digits < line.size() && line[digits] != ';'))
        refuse(400, "a chunk's size is not a hexadecimal number");
      if (!is_chunk_extension(line.substr(digits))) refuse(400, "a chunk's extension is not well formed");
      left_ = std::stoull(std::string(line.substr(0, digits)), nullptr, 16);
      if (body.size() + left_ > limits_.body_bytes)
        refuse(413, fmt::format("the body has more than {} bytes", limits_.body_bytes));
      state_ = left_ == 0 ? State::kTrailer : State::kData;
    }
    line_.clear();
  }
  return used;
}

std::string response_head(int status, const HttpFields& fields) {
  std::string out = fmt::format("HTTP/1.1 {} {}\r\n", status, status_text(status));
  for (const auto& [name, value] : fields) out += name + ": " + value + "\r\n";
  return out + "\r\n";
}

// In English whatever the locale.
std::string http_date(std::time_t time) {
  constexpr const char* kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                     "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  std::tm t{};
  ::gmtime_r(&time, &t);
  return fmt::format("{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT", kDays[t.tm_wday], t.tm_mday,
                     kMonths[t.tm_mon], t.tm_year + 1900, t.tm_hour, t.tm_min, t.tm_sec);
}

const char* status_text(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 304:
      return "Not Modified";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Status";
  }
}

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

bool list_holds(std::string_view list, std::string_view token) {
  while (true) {
    const size_t comma = list.find(',');
    if (equals_ignoring_case(trim(list.substr(0, comma)), token)) return true;
    if (comma == kNone) return false;
    list.remove_prefix(comma + 1);
  }
}

}  // namespace awq::server
