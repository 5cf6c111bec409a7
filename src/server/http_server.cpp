#include "server/http_server.h"

#include <fmt/format.h>

#include <array>
#include <boost/asio.hpp>
#include <thread>
#include <unordered_set>

#include "base/error.h"
#include "server/errors.h"

namespace awq::server {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using std::chrono::steady_clock;

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
constexpr size_t kReadBytes = 4096;
constexpr size_t kPipelinedBytes = 64 * 1024;  // read ahead while a request is being answered
constexpr double kLingerSeconds = 1;           // for a client to read an error before its connection is reset

class Connection;

// What connections share, and keep alive: replies may outlast the server.
struct Shared {
  explicit Shared(const HttpOptions& given, HttpHandler run)
      : options(given), handler(std::move(run)), workers(static_cast<size_t>(given.handler_threads)) {}
  HttpOptions options;
  HttpHandler handler;
  asio::io_context io{1};
  asio::thread_pool workers;
  std::unordered_set<Connection*> connections;  // on the connections' thread
  std::atomic<int64_t> count = 0;
  std::atomic<bool> draining = false, stopped = false;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<Shared> shared, tcp::socket socket)
      : shared_(std::move(shared)), socket_(std::move(socket)), deadline_(shared_->io), wake_(shared_->io) {
    shared_->connections.insert(this);
    ++shared_->count;
  }

  asio::awaitable<void> run();
  void close_if_idle() {
    if (idle_) cut();
  }
  void cut() {
    boost::system::error_code ignored;
    socket_.close(ignored);
    set_gone();
  }

  // The answer to request number `serial`, which may come late.
  void push(uint64_t serial, std::string bytes, bool last) {
    if (serial != serial_ || gone_) return;
    if (out_.size() > shared_->options.unsent_bytes) return cut();
    out_ += bytes;
    done_ = done_ || last;
    wake_.cancel();
  }
  void drop(uint64_t serial) {
    if (serial == serial_ && !done_) cut();
  }
  void on_gone(uint64_t serial, std::function<void()> callback) {
    if (serial != serial_ || done_) return;
    if (gone_) return callback();
    on_gone_ = std::move(callback);
  }
  Shared& shared() { return *shared_; }
  const std::shared_ptr<Shared>& shared_pointer() const { return shared_; }

 private:
  asio::awaitable<bool> read_head(HttpHead& head);
  asio::awaitable<bool> read_body(const HttpHead& head, std::string& body);
  asio::awaitable<bool> read_more();
  asio::awaitable<void> answer(HttpRequest request);
  asio::awaitable<void> write(std::string bytes);
  asio::awaitable<void> refuse(const HttpError& error);
  void watch();
  void set_gone();
  void arm(double seconds);
  void disarm() { deadline_.cancel(); }

  std::shared_ptr<Shared> shared_;
  tcp::socket socket_;
  asio::steady_timer deadline_, wake_;
  std::string in_;  // read and not used yet
  std::array<char, kReadBytes> chunk_;
  bool idle_ = true, expired_ = false;
  uint64_t armed_ = 0;  // counts deadlines, so that an old one does nothing

  uint64_t serial_ = 0;  // of the request being answered
  std::string out_;
  bool done_ = false, gone_ = false, watching_ = false;
  std::function<void()> on_gone_;
};

class Reply : public HttpReply {
 public:
  Reply(std::shared_ptr<Connection> connection, uint64_t serial, const HttpHead& head)
      : connection_(std::move(connection)),
        serial_(serial),
        keep_alive_(head.keep_alive),
        is_head_(head.method == "HEAD"),
        chunked_(head.minor_version > 0) {}
  // The connection, too, is let go of on its thread.
  ~Reply() override {
    post([serial = serial_](Connection& c) { c.drop(serial); });
  }

  void send(int status, HttpFields fields, std::string body) override {
    const bool has_body = status != 204 && status != 304;
    if (has_body) fields.emplace_back("Content-Length", std::to_string(body.size()));
    push(start(status, std::move(fields)) + (is_head_ || !has_body ? std::string() : std::move(body)), true);
  }
  void begin(int status, HttpFields fields) override {
    if (chunked_) fields.emplace_back("Transfer-Encoding", "chunked");
    push(start(status, std::move(fields)), is_head_);
  }
  void write(std::string piece) override {
    if (is_head_ || piece.empty()) return;
    push(chunked_ ? fmt::format("{:x}\r\n{}\r\n", piece.size(), piece) : std::move(piece), false);
  }
  void end() override {
    if (!is_head_) push(chunked_ ? "0\r\n\r\n" : "", true);
  }
  void on_gone(std::function<void()> callback) override {
    post([serial = serial_, f = std::move(callback)](Connection& c) mutable {
      c.on_gone(serial, std::move(f));
    });
  }

 private:
  std::string start(int status, HttpFields fields) const {
    const bool stays = keep_alive_ && !connection_->shared().draining;
    fields.emplace_back("Date", http_date(std::time(nullptr)));
    fields.emplace_back("Connection", stays ? "keep-alive" : "close");
    return response_head(status, fields);
  }
  void push(std::string bytes, bool last) {
    finished_ = finished_ || last;
    post([serial = serial_, b = std::move(bytes), last](Connection& c) mutable {
      c.push(serial, std::move(b), last);
    });
  }
  template <class F>
  void post(F&& f) {
    if (connection_->shared().stopped) return;
    asio::post(connection_->shared().io, [c = connection_, f = std::forward<F>(f)]() mutable { f(*c); });
  }

  std::shared_ptr<Connection> connection_;
  uint64_t serial_;
  bool keep_alive_, is_head_, chunked_;
  std::atomic<bool> finished_ = false;
};

void Connection::arm(double seconds) {
  expired_ = false;
  deadline_.expires_after(
      std::chrono::duration_cast<steady_clock::duration>(std::chrono::duration<double>(seconds)));
  deadline_.async_wait([weak = weak_from_this(), number = ++armed_](boost::system::error_code error) {
    const auto self = weak.lock();
    if (error || !self || self->armed_ != number) return;
    self->expired_ = true;
    boost::system::error_code ignored;
    self->socket_.cancel(ignored);
  });
}

void Connection::set_gone() {
  gone_ = true;
  wake_.cancel();
  if (const auto callback = std::exchange(on_gone_, nullptr)) callback();
}

// False: the client has gone, or the deadline is over.
asio::awaitable<bool> Connection::read_more() {
  if (expired_) co_return false;
  const auto [error, n] = co_await socket_.async_read_some(asio::buffer(chunk_), kTuple);
  if (error) co_return false;
  in_.append(chunk_.data(), n);
  co_return true;
}

asio::awaitable<bool> Connection::read_head(HttpHead& head) {
  const HttpOptions& o = shared_->options;
  idle_ = in_.empty();
  arm(idle_ ? o.idle_seconds : o.head_seconds);
  while (true) {
    if (!in_.empty())
      if (const size_t used = parse_head(in_, o.limits, head)) {
        in_.erase(0, used);
        disarm();
        co_return true;
      }
    if (!co_await read_more()) {
      if (expired_ && !idle_) throw HttpError{408, "the head of the request took too long"};
      co_return false;
    }
    if (std::exchange(idle_, false)) arm(o.head_seconds);
  }
}

asio::awaitable<bool> Connection::read_body(const HttpHead& head, std::string& body) {
  if (!head.has_body()) co_return true;
  const HttpOptions& o = shared_->options;
  if (head.expects_continue && in_.empty()) co_await write("HTTP/1.1 100 Continue\r\n\r\n");
  arm(o.body_seconds);
  ChunkedBody chunks(o.limits);
  while (true) {
    if (head.chunked) {
      in_.erase(0, chunks.read(in_, body));
      if (chunks.done()) break;
    } else {
      const size_t n = std::min<size_t>(in_.size(), *head.content_length - body.size());
      body.append(in_, 0, n);
      in_.erase(0, n);
      if (body.size() == *head.content_length) break;
    }
    if (!co_await read_more()) {
      if (expired_) throw HttpError{408, "the body of the request took too long"};
      co_return false;
    }
  }
  disarm();
  co_return true;
}

asio::awaitable<void> Connection::write(std::string bytes) {
  arm(shared_->options.write_seconds);
  size_t sent = 0;
  while (sent < bytes.size() && !expired_ && !gone_) {
    const auto [error, n] =
        co_await socket_.async_write_some(asio::buffer(bytes.data() + sent, bytes.size() - sent), kTuple);
    if (error) {
      set_gone();
      break;
    }
    sent += n;
    arm(shared_->options.write_seconds);
  }
  if (sent < bytes.size()) set_gone();
  disarm();
}

// While an answer is made nobody reads, except to learn that the client has gone. What it sends meanwhile is
// its next request.
void Connection::watch() {
  watching_ = true;
  socket_.async_read_some(asio::buffer(chunk_),
                          [self = shared_from_this()](boost::system::error_code error, size_t n) {
                            self->watching_ = false;
                            self->wake_.cancel();  // it may be waiting for us to end
                            if (error == asio::error::operation_aborted) return;
                            if (error) return self->set_gone();
                            self->in_.append(self->chunk_.data(), n);
                            if (self->in_.size() < kPipelinedBytes && !self->done_) self->watch();
                          });
}

asio::awaitable<void> Connection::answer(HttpRequest request) {
  out_.clear();
  done_ = false;
  // Nobody but the handler keeps the reply: when it lets go of it without an answer, we learn it.
  asio::post(shared_->workers, [reply = std::make_shared<Reply>(shared_from_this(), serial_, request.head),
                                handler = &shared_->handler, r = std::move(request)]() mutable {
    try {
      (*handler)(std::move(r), reply);
    } catch (const std::exception&) {
      reply->send(500, json_fields(), error_body({500, "server_error", "the server failed on this request"}));
    }
  });
  watch();
  while (!gone_ && !(done_ && out_.empty())) {
    if (!out_.empty()) {
      co_await write(std::exchange(out_, {}));
      if (!watching_ && !gone_ && !done_ && in_.size() < kPipelinedBytes) watch();
      continue;
    }
    wake_.expires_at(steady_clock::time_point::max());
    co_await wake_.async_wait(kTuple);
  }
  on_gone_ = nullptr;
  ++serial_;
  boost::system::error_code ignored;
  while (watching_) {
    socket_.cancel(ignored);
    wake_.expires_at(steady_clock::time_point::max());
    co_await wake_.async_wait(kTuple);
  }
}

// The connection cannot go on: nobody knows where its next request would begin.
asio::awaitable<void> Connection::refuse(const HttpError& error) {
  HttpFields fields = json_fields();
  const std::string body = error_body({error.status, "invalid_request_error", error.reason});
  fields.emplace_back("Content-Length", std::to_string(body.size()));
  fields.emplace_back("Date", http_date(std::time(nullptr)));
  fields.emplace_back("Connection", "close");
  co_await write(response_head(error.status, fields) + body);
  boost::system::error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  arm(kLingerSeconds);
  for (size_t i = 0; i < 64 && !gone_; ++i) {
    in_.clear();
    if (!co_await read_more()) break;
  }
  disarm();
}

asio::awaitable<void> Connection::run() {
  const auto self = shared_from_this();
  boost::system::error_code ignored;
  socket_.set_option(tcp::no_delay(true), ignored);
  while (!gone_ && !shared_->stopped) {
    HttpRequest request;
    std::optional<HttpError> error;
    bool complete = false;
    try {
      complete = co_await read_head(request.head);
      if (complete) complete = co_await read_body(request.head, request.body);
    } catch (const HttpError& e) {
      error = e;
    }
    if (error) co_await refuse(*error);
    if (!complete) break;
    const bool keep_alive = request.head.keep_alive;
    co_await answer(std::move(request));
    if (!keep_alive || shared_->draining) break;
  }
  socket_.shutdown(tcp::socket::shutdown_both, ignored);
  socket_.close(ignored);
  disarm();
  set_gone();
  shared_->connections.erase(this);
  --shared_->count;
}

asio::awaitable<void> accept(std::shared_ptr<Shared> shared, tcp::acceptor& acceptor) {
  while (acceptor.is_open()) {
    auto [error, socket] = co_await acceptor.async_accept(kTuple);
    if (error == asio::error::operation_aborted || !acceptor.is_open()) break;
    if (error) {  // out of descriptors: others may end
      asio::steady_timer pause(shared->io, std::chrono::milliseconds(50));
      co_await pause.async_wait(kTuple);
      continue;
    }
    if (shared->count >= shared->options.connections) continue;
    const auto connection = std::make_shared<Connection>(shared, std::move(socket));
    asio::co_spawn(shared->io, connection->run(), [connection](std::exception_ptr failure) {
      if (failure) connection->cut();
    });
  }
}

}  // namespace

class HttpServer::Impl {
 public:
  Impl(const HttpOptions& options, HttpHandler handler)
      : shared_(std::make_shared<Shared>(options, std::move(handler))), acceptor_(shared_->io) {
    boost::system::error_code error;
    const auto address = asio::ip::make_address(options.address, error);
    if (error) fail(Code::kBadArgument, "--host: expected an IP address, got '{}'", options.address);
    const tcp::endpoint endpoint(address, options.port);
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(4096, error);
    if (error)
      fail(Code::kIo, "cannot listen on {} port {}: {}", options.address, options.port, error.message());
    port_ = acceptor_.local_endpoint().port();
    asio::co_spawn(shared_->io, accept(shared_, acceptor_), asio::detached);
    thread_ = std::thread([this] { shared_->io.run(); });
  }

  void drain() {
    shared_->draining = true;
    asio::post(shared_->io, [this] {
      boost::system::error_code ignored;
      acceptor_.close(ignored);
      for_each([](Connection& c) { c.close_if_idle(); });
    });
  }

  void stop() {
    if (!thread_.joinable()) return;
    drain();
    asio::post(shared_->io, [this] {
      shared_->stopped = true;
      for_each([](Connection& c) { c.cut(); });
    });
    shared_->workers.join();
    thread_.join();
  }

  uint16_t port() const { return port_; }
  int64_t connections() const { return shared_->count; }

 private:
  // A connection may go while the others are visited.
  void for_each(void (*visit)(Connection&)) {
    std::vector<std::shared_ptr<Connection>> all;
    for (Connection* c : shared_->connections)
      if (auto alive = c->weak_from_this().lock()) all.push_back(std::move(alive));
    for (const auto& c : all) visit(*c);
  }

  std::shared_ptr<Shared> shared_;
  tcp::acceptor acceptor_;
  uint16_t port_ = 0;
  std::thread thread_;
};

HttpServer::HttpServer(const HttpOptions& options, HttpHandler handler)
    : impl_(std::make_unique<Impl>(options, std::move(handler))) {}
HttpServer::~HttpServer() { impl_->stop(); }
uint16_t HttpServer::port() const { return impl_->port(); }
int64_t HttpServer::connections() const { return impl_->connections(); }
void HttpServer::drain() { impl_->drain(); }
void HttpServer::stop() { impl_->stop(); }

}  // namespace awq::server
