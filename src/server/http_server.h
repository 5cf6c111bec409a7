// Connections: reads requests (http_parser.h) under limits and deadlines, hands them to a handler, and writes
// what the handler answers. One thread runs all connections, a few others the handlers, so that a long prompt
// being taken apart delays nobody.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "server/http_parser.h"

namespace awq::server {

struct HttpOptions {
  std::string address = "127.0.0.1";  // an address of IPv4 or IPv6
  uint16_t port = 8000;               // 0: any free one
  HttpLimits limits;
  // Seconds, each for the whole of it, however slowly its bytes come.
  double idle_seconds = 300;      // until a request begins
  double head_seconds = 10;       // from its first byte to the end of its head
  double body_seconds = 60;       // of its body
  double write_seconds = 60;      // for a client to take anything of what is waiting for it
  size_t unsent_bytes = 4 << 20;  // waiting for one client; more ends its connection
  int64_t connections = 20'000;   // more are closed at once
  int handler_threads = 2;
};

struct HttpRequest {
  HttpHead head;
  std::string body;
};

// Where the answer to one request goes. Its functions may be called from any thread. When the last reference
// goes without an answer, the connection is closed.
class HttpReply {
 public:
  virtual ~HttpReply() = default;
  // The whole answer. Content-Length is added.
  virtual void send(int status, HttpFields fields, std::string body) = 0;
  // Or in pieces, each on its way at once.
  virtual void begin(int status, HttpFields fields) = 0;
  virtual void write(std::string piece) = 0;
  virtual void end() = 0;
  // Called once, on the connections' thread, when the client has gone before the end; at once when it has
  // already.
  virtual void on_gone(std::function<void()> callback) = 0;
};

// Runs on one of the handler threads.
using HttpHandler = std::function<void(HttpRequest, std::shared_ptr<HttpReply>)>;

class HttpServer {
 public:
  // Binds; kIo names the address when that fails.
  HttpServer(const HttpOptions& options, HttpHandler handler);
  ~HttpServer();  // as stop()

  uint16_t port() const;
  int64_t connections() const;
  // No new connections from now on; those that are idle are closed, the others after their answer.
  void drain();
  // Closes everything and joins the threads.
  void stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace awq::server
