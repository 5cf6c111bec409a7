// Requests as bytes: what is read, what is refused, and that it never matters how the bytes were cut.
#include "server/http_parser.h"

#include <gtest/gtest.h>

namespace awq::server {
namespace {

constexpr HttpLimits kLimits;

// The status with which the bytes are refused; 0: more are needed; -1: a head was read.
int outcome(std::string_view bytes, HttpHead* head = nullptr, size_t* used = nullptr,
            const HttpLimits& limits = kLimits) {
  HttpHead own;
  try {
    const size_t n = parse_head(bytes, limits, head ? *head : own);
    if (used) *used = n;
    return n == 0 ? 0 : -1;
  } catch (const HttpError& error) {
    EXPECT_FALSE(error.reason.empty());
    return error.status;
  }
}

TEST(HttpHead, IsReadWithItsFields) {
  const std::string bytes =
      "POST /v1/chat/completions?a=b HTTP/1.1\r\nHost: localhost:8000\r\nContent-TYPE:  application/json "
      "\t\r\nContent-Length: 12\r\n"
      "X-Empty:\r\nConnection: Foo, close\r\nExpect: 100-Continue\r\n\r\nbody";
  HttpHead head;
  size_t used = 0;
  ASSERT_EQ(outcome(bytes, &head, &used), -1);
  EXPECT_EQ(used, bytes.size() - 4);
  EXPECT_EQ(head.method, "POST");
  EXPECT_EQ(head.path, "/v1/chat/completions");
  EXPECT_EQ(head.query, "a=b");
  EXPECT_EQ(head.host, "localhost:8000");
  EXPECT_EQ(head.field("content-type"), "application/json");
  EXPECT_EQ(head.field("x-empty"), "");
  EXPECT_EQ(head.content_length, 12u);
  EXPECT_FALSE(head.keep_alive);
  EXPECT_TRUE(head.expects_continue);
  EXPECT_TRUE(head.has_body());
}

TEST(HttpHead, EveryPrefixNeedsMoreAndTheWholeIsRead) {
  const std::string bytes = "\r\nGET /a%20b HTTP/1.1\r\nHost: [::1]:80\r\nA: b\r\n\r\n";
  for (size_t n = 0; n < bytes.size(); ++n) EXPECT_EQ(outcome(bytes.substr(0, n)), 0) << n;
  EXPECT_EQ(outcome(bytes), -1);
  EXPECT_EQ(outcome(bytes + "GET"), -1);
}

TEST(HttpHead, TargetsAndVersions) {
  HttpHead head;
  EXPECT_EQ(outcome("GET http://example.org/x?y HTTP/1.1\r\nHost: other\r\n\r\n", &head), -1);
  EXPECT_EQ(head.host, "example.org");
  EXPECT_EQ(head.path, "/x");
  EXPECT_EQ(outcome("GET http://example.org HTTP/1.1\r\nHost: example.org\r\n\r\n", &head), -1);
  EXPECT_EQ(head.path, "/");
  EXPECT_EQ(outcome("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", &head), -1);
  EXPECT_EQ(head.path, "*");
  EXPECT_EQ(outcome("GET / HTTP/1.0\r\n\r\n", &head), -1);
  EXPECT_FALSE(head.keep_alive);
  EXPECT_EQ(outcome("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", &head), -1);
  EXPECT_TRUE(head.keep_alive);
}

TEST(HttpHead, WhatTwoReadersCouldUnderstandDifferentlyIsRefused) {
  const std::string get = "GET / HTTP/1.1\r\n", host = get + "Host: a\r\n",
                    post = "POST / HTTP/1.1\r\nHost: a\r\n", end = "\r\n";
  const std::pair<std::string, int> cases[] = {
      {"GET / HTTP/1.1\nHost: a\n\n", 400},
      {host + "A: b\nC: d\r\n\r\n", 400},
      {host + "A: b\rC: d\r\n\r\n", 400},
      {host + std::string("A: b\0c\r\n\r\n", 10), 400},
      {host + "A: b\r\n folded\r\n\r\n", 400},
      {get + " Host: a\r\n\r\n", 400},
      {host + "A : b\r\n\r\n", 400},
      {host + ": b\r\n\r\n", 400},
      {host + "no colon\r\n\r\n", 400},
      {host + "A[b]: c\r\n\r\n", 400},
      {host + "A: \x01\r\n\r\n", 400},
      {host + "A: \x7f\r\n\r\n", 400},
      {get + end, 400},
      {host + "Host: a\r\n\r\n", 400},
      {get + "Host: \r\n\r\n", 400},
      {get + "Host: user@a\r\n\r\n", 400},
      {get + "Host: a/b\r\n\r\n", 400},
      {get + "Host: a b\r\n\r\n", 400},
      {get + "Host: a:b\r\n\r\n", 400},
      {get + "Host: [::1\r\n\r\n", 400},
      {post + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400},
      {post + "Content-Length: 1, 1\r\n\r\n", 400},
      {post + "Content-Length: +1\r\n\r\n", 400},
      {post + "Content-Length: -1\r\n\r\n", 400},
      {post + "Content-Length: 0x1\r\n\r\n", 400},
      {post + "Content-Length: 1 1\r\n\r\n", 400},
      {post + "Content-Length:\r\n\r\n", 400},
      {post + "Content-Length: 99999999999999999999999\r\n\r\n", 400},
      {post + "Content-Length: 8388609\r\n\r\n", 413},
      {post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {post + "Transfer-Encoding: gzip, chunked\r\n\r\n", 400},
      {post + "Transfer-Encoding: identity\r\n\r\n", 400},
      {post + "Transfer-Encoding: xchunked\r\n\r\n", 501},
      {post + "Transfer-Encoding: gzip\r\n\r\n", 501},
      {post + "Transfer-Encoding: \x0b"
              "chunked\r\n\r\n",
       400},
      {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {post + "Expect: 200-ok\r\n\r\n", 417},
      {"GET /\r\n\r\n", 400},
      {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET / a HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
      {"GET / http/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400},
      {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
      {"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET /% HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"\r\n\r\n\r\n\r\n\r\n\r\n", 400},
      {"\x16\x03\x01\x02\r\n", 400},
  };
  for (const auto& [bytes, status] : cases) EXPECT_EQ(outcome(bytes), status) << bytes;
}

TEST(HttpHead, BadLinesAreRefusedBeforeTheHeadIsComplete) {
  EXPECT_EQ(outcome("GET / HTTP/1.1\n"), 400);
  EXPECT_EQ(outcome("nonsense\r\n"), 400);
  EXPECT_EQ(outcome("GET / HTTP/1.1\r\nHost: a\r\nbad\r\n"), 400);
}

TEST(HttpHead, LimitsHoldToTheByte) {
  const auto with_size = [](size_t size) {
    std::string s = "GET / HTTP/1.1\r\nHost: a\r\nA: ";
    s += std::string(size - s.size() - 4, 'x');
    return s + "\r\n\r\n";
  };
  EXPECT_EQ(outcome(with_size(kLimits.head_bytes)), -1);
  EXPECT_EQ(outcome(with_size(kLimits.head_bytes + 1)), 431);
  EXPECT_EQ(outcome(std::string(kLimits.head_bytes + 1, 'G')), 414);
  const auto with_target = [](size_t size) {
    return "GET /" + std::string(size - 1, 'a') + " HTTP/1.1\r\nHost: a\r\n\r\n";
  };
  EXPECT_EQ(outcome(with_target(kLimits.target_bytes)), -1);
  EXPECT_EQ(outcome(with_target(kLimits.target_bytes + 1)), 414);
  const auto with_fields = [](size_t n) {
    std::string s = "GET / HTTP/1.1\r\nHost: a\r\n";
    for (size_t i = 1; i < n; ++i) s += "A: b\r\n";
    return s + "\r\n";
  };
  EXPECT_EQ(outcome(with_fields(kLimits.fields)), -1);
  EXPECT_EQ(outcome(with_fields(kLimits.fields + 1)), 431);
  EXPECT_EQ(outcome("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8388608\r\n\r\n"), -1);
}

struct Chunked {
  int status = 0;  // 0: read, or waiting for more
  bool done = false;
  std::string body, rest;
  bool operator==(const Chunked&) const = default;
};
void PrintTo(const Chunked& c, std::ostream* out) {
  *out << c.status << ' ' << c.done << " '" << c.body << "' '" << c.rest << "'";
}

Chunked read_chunks(std::string_view bytes, size_t piece, const HttpLimits& limits = kLimits) {
  Chunked out;
  ChunkedBody body(limits);
  try {
    size_t at = 0;
    while (at < bytes.size() && !body.done()) {
      const std::string_view part = bytes.substr(at, piece);
      const size_t used = body.read(part, out.body);
      EXPECT_TRUE(used == part.size() || body.done());
      at += used;
    }
    out.rest = bytes.substr(at);
  } catch (const HttpError& error) {
    out.status = error.status;
    out.body.clear();
  }
  out.done = body.done();
  return out;
}

TEST(ChunkedBody, IsPutTogetherHoweverItIsCut) {
  const std::string bytes =
      "5\r\nhello\r\n06;ext=\"v\"\r\n world\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET /";
  for (size_t piece = 1; piece <= bytes.size(); ++piece)
    EXPECT_EQ(read_chunks(bytes, piece), (Chunked{0, true, "hello world0123456789", "GET /"})) << piece;
  EXPECT_EQ(read_chunks("0\r\n\r\n", 1), (Chunked{0, true, "", ""}));
  EXPECT_EQ(read_chunks("3\r\nab", 1), (Chunked{0, false, "ab", ""}));
}

TEST(ChunkedBody, WrongFramingIsRefused) {
  for (const char* bytes : {"-1\r\n", "0x5\r\nhello\r\n", "5 \r\nhello\r\n", "\r\n", "g\r\n", "5\nhello\r\n",
                            "5\r\nhelloX\r\n", "5\r\nhello\n", "123456789\r\n", "5;\x01\r\n", "5;a\rb\r\n",
                            "0\r\nbad\r\n\r\n", "0\r\n folded: x\r\n\r\n", "5\r\nhello0\r\n\r\n"})
    for (const size_t piece : {1, 100}) EXPECT_EQ(read_chunks(bytes, piece).status, 400) << bytes;
}

TEST(ChunkedBody, ExtensionsAreNamesWithValues) {
  for (const char* good : {"", ";a", ";a;b=c", ";a=\"q; \\\"x\\\\\"", ";a=\"\";b", ";!#=$"})
    EXPECT_EQ(read_chunks("5" + std::string(good) + "\r\nhello\r\n0" + good + "\r\n\r\n", 3),
              (Chunked{0, true, "hello", ""}))
        << good;
  for (const char* bad : {";", ";=b", ";a=", ";a;", ";a b", "; a", ";a =b", ";a= b", ";a[=b", ";a=\"b",
                          ";a=\"b\\\"", ";a=\"b\"c", ";a=b=c", ";a=\"\x01\"", ";a=\"\\\x7f\"", ";\xc3\xa9"})
    EXPECT_EQ(read_chunks("5" + std::string(bad) + "\r\nhello\r\n0\r\n\r\n", 3).status, 400) << bad;
}

TEST(ChunkedBody, IsBounded) {
  HttpLimits limits;
  limits.body_bytes = 10;
  limits.head_bytes = 64;
  EXPECT_EQ(read_chunks("a\r\n0123456789\r\n0\r\n\r\n", 7, limits).status, 0);
  EXPECT_EQ(read_chunks("5\r\n01234\r\n6\r\n", 7, limits).status, 413);
  EXPECT_EQ(read_chunks("ffffffff\r\n", 7, limits).status, 413);
  EXPECT_GE(read_chunks("1;" + std::string(100, 'x'), 7, limits).status, 413);
  std::string many;
  for (int i = 0; i < 30; ++i) many += "T: x\r\n";
  EXPECT_GE(read_chunks("0\r\n" + many, 7, limits).status, 413);
}

TEST(HttpText, Dates) {
  EXPECT_EQ(http_date(784111777), "Sun, 06 Nov 1994 08:49:37 GMT");
  EXPECT_EQ(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
  EXPECT_EQ(http_date(1709251199), "Thu, 29 Feb 2024 23:59:59 GMT");
}

TEST(HttpText, ListsAndCase) {
  EXPECT_TRUE(list_holds("a, Close ,b", "close"));
  EXPECT_FALSE(list_holds("closed", "close"));
  EXPECT_FALSE(list_holds("", "close"));
  EXPECT_TRUE(equals_ignoring_case("Bearer", "bEARER"));
  EXPECT_EQ(response_head(429, {{"A", "b"}}), "HTTP/1.1 429 Too Many Requests\r\nA: b\r\n\r\n");
}

}  // namespace
}  // namespace awq::server
