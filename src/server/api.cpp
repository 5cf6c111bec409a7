#include "server/api.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "server/answer.h"
#include "server/page.h"

namespace awq::server {
namespace {

using Json = nlohmann::ordered_json;

constexpr Route kRoutes[] = {
    {"GET", "/"},
    {"GET", "/page.css"},
    {"GET", "/page.js"},
    {"GET", "/markdown.js"},
    {"GET", "/health"},
    {"GET", "/ready"},
    {"GET", "/metrics"},
    {"GET", "/v1/models"},
    {"POST", "/v1/completions"},
    {"POST", "/v1/chat/completions"},
    {"POST", "/tokenize"},
    {"POST", "/detokenize"},
};
constexpr std::string_view kModelPrefix = "/v1/models/";

void send_json(const std::shared_ptr<HttpReply>& reply, const Json& body) {
  reply->send(200, json_fields(), body.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void send_error(const std::shared_ptr<HttpReply>& reply, const ApiError& error, HttpFields more = {}) {
  HttpFields fields = json_fields();
  fields.insert(fields.end(), more.begin(), more.end());
  if (error.status == 429 || error.status == 503) fields.emplace_back("Retry-After", "1");
  if (error.status == 401) fields.emplace_back("WWW-Authenticate", "Basic realm=\"awq\", charset=\"UTF-8\"");
  reply->send(error.status, fields, error_body(error));
}

// Adds fields to the head of whatever is answered.
class WithFields : public HttpReply {
 public:
  WithFields(std::shared_ptr<HttpReply> to, HttpFields fields)
      : to_(std::move(to)), more_(std::move(fields)) {}
  void send(int status, HttpFields fields, std::string body) override {
    to_->send(status, joined(std::move(fields)), std::move(body));
  }
  void begin(int status, HttpFields fields) override { to_->begin(status, joined(std::move(fields))); }
  void write(std::string piece) override { to_->write(std::move(piece)); }
  void end() override { to_->end(); }
  void on_gone(std::function<void()> callback) override { to_->on_gone(std::move(callback)); }

 private:
  HttpFields joined(HttpFields fields) const {
    fields.insert(fields.end(), more_.begin(), more_.end());
    return fields;
  }
  std::shared_ptr<HttpReply> to_;
  HttpFields more_;
};

// The methods a path has, "GET, HEAD"; empty: there is no such path.
std::string methods_of(std::string_view path) {
  std::string all;
  for (const Route& route : kRoutes)
    if (route.path == path || (route.path == "/v1/models" && path.starts_with(kModelPrefix)))
      all +=
          fmt::format("{}{}{}", all.empty() ? "" : ", ", route.method, route.method == "GET" ? ", HEAD" : "");
  return all;
}

}  // namespace

std::span<const Route> Api::routes() { return kRoutes; }

void Api::handle(HttpRequest request, const std::shared_ptr<HttpReply>& to) {
  std::shared_ptr<HttpReply> reply = to;
  try {
    HttpFields cors;
    if (!admit(request, reply, cors)) return;
    if (!cors.empty()) reply = std::make_shared<WithFields>(to, std::move(cors));
    dispatch(request, reply);
  } catch (const ApiError& error) {
    ++service_.metrics().requests_refused;
    send_error(reply, error);
  } catch (const std::bad_alloc&) {
    send_error(reply, {503, "server_error", "the server is out of memory"});
  } catch (const std::exception& error) {
    log(Level::kWarning, "{} {} failed: {}", request.head.method, request.head.path, error.what());
    send_error(reply, {500, "server_error", "the server failed on this request"});
  }
}

bool Api::admit(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply, HttpFields& cors) const {
  const HttpHead& head = request.head;
  if (!host_allowed(rules_, head.host))
    throw ApiError{403,
                   "invalid_request_error",
                   "this server does not answer to that Host name",
                   {},
                   "host_not_allowed"};
  if (!origin_allowed(rules_, head))
    throw ApiError{403,
                   "invalid_request_error",
                   "pages of that origin may not call this server",
                   {},
                   "origin_not_allowed"};
  const std::string_view origin = head.field("origin");
  const bool listed = std::find(rules_.origins.begin(), rules_.origins.end(), origin) != rules_.origins.end();
  if (listed) cors = {{"Access-Control-Allow-Origin", std::string(origin)}, {"Vary", "Origin"}};
  // A browser asks first, without a key.
  if (listed && head.method == "OPTIONS" && !head.field("access-control-request-method").empty()) {
    cors.insert(cors.end(), {{"Access-Control-Allow-Methods", "GET, POST"},
                             {"Access-Control-Allow-Headers", "Authorization, Content-Type"},
                             {"Access-Control-Max-Age", "600"}});
    reply->send(204, cors, "");
    return false;
  }
  const bool is_health = head.path == "/health" && (head.method == "GET" || head.method == "HEAD");
  if (rules_.keys.required() && !is_health && rules_.keys.find(head.field("authorization")) < 0) {
    ++service_.metrics().requests_refused;
    send_error(reply,
               {401,
                "invalid_request_error",
                "a valid API key is needed: Authorization: Bearer KEY",
                {},
                "invalid_api_key"},
               cors);
    return false;
  }
  return true;
}

void Api::dispatch(HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
  const HttpHead& head = request.head;
  const std::string_view path = head.path;
  if (path == "*" && head.method == "OPTIONS")
    return reply->send(204, {{"Allow", "GET, HEAD, POST, OPTIONS"}}, "");
  const std::string methods = methods_of(path);
  if (methods.empty()) throw ApiError{404, "invalid_request_error", "there is no such path", {}, "not_found"};
  if (head.method == "OPTIONS") return reply->send(204, {{"Allow", methods + ", OPTIONS"}}, "");
  const bool is_get = head.method == "GET" || head.method == "HEAD", takes_get = methods.starts_with("GET");
  if (is_get ? !takes_get : takes_get || head.method != "POST")
    return send_error(
        reply,
        {405, "invalid_request_error", fmt::format("this path takes {}", methods), {}, "method_not_allowed"},
        {{"Allow", methods}});
  if (is_get) {
    if (send_page(head, reply)) return;
    if (path == "/health") return send_json(reply, {{"status", "ok"}});
    if (path == "/metrics")
      return reply->send(200, {{"Content-Type", "text/plain; version=0.0.4; charset=utf-8"}},
                         service_.metrics_text());
    if (path == "/ready") {
      if (!service_.ready()) throw ApiError{503, "service_unavailable", "the server is shutting down"};
      return send_json(reply, {{"status", "ready"}});
    }
    return models(path.size() > kModelPrefix.size() ? path.substr(kModelPrefix.size()) : std::string_view(),
                  reply);
  }
  const std::string_view type = head.field("content-type");
  if (!equals_ignoring_case(type.substr(0, std::min(type.find_first_of("; \t"), type.size())),
                            "application/json"))
    throw ApiError{415, "invalid_request_error", "expected Content-Type: application/json"};
  if (path == "/v1/completions") return complete(request, reply, false);
  if (path == "/v1/chat/completions") return complete(request, reply, true);
  tokenize(request, reply, path == "/detokenize");
}

void Api::models(std::string_view name, const std::shared_ptr<HttpReply>& reply) const {
  const ServedModel& m = service_.model();
  const Json model = {{"id", m.name},
                      {"object", "model"},
                      {"created", m.created},
                      {"owned_by", "awq"},
                      {"max_model_len", m.engine->max_tokens()},
                      {"has_chat_template", static_cast<bool>(m.render_chat)}};
  if (name.empty()) return send_json(reply, {{"object", "list"}, {"data", Json::array({model})}});
  if (name != m.name)
    throw ApiError{404, "invalid_request_error", "there is no model of that name", "model",
                   "model_not_found"};
  send_json(reply, model);
}

void Api::check_model(const std::string& name) const {
  if (!name.empty() && name != service_.model().name)
    throw ApiError{404, "invalid_request_error",
                   fmt::format("there is no model of that name: this server has '{}'", service_.model().name),
                   "model", "model_not_found"};
}

std::vector<int32_t> Api::encode(const std::string& text, bool special) const {
  return service_.model().tokenizer->encode(text, special);
}

namespace {

// The variables' text; errors are the request's.
std::string rendered(const ServedModel& model, const std::string& context) {
  if (!model.render_chat)
    throw ApiError{400, "invalid_request_error", "the model has no chat template: use /v1/completions",
                   "messages", "no_chat_template"};
  try {
    return model.render_chat(context);
  } catch (const Error& error) {
    throw ApiError{400, "invalid_request_error", error.what(), "messages"};
  }
}

}  // namespace

void Api::complete(HttpRequest& request, const std::shared_ptr<HttpReply>& reply, bool chat) {
  service_.check_room(1);  // before any work
  CompletionRequest r = chat ? parse_chat(request.body) : parse_completion(request.body);
  request.body = {};
  check_model(r.model);
  const ServedModel& model = service_.model();
  std::vector<std::vector<int32_t>> prompts = std::move(r.tokens);
  const char* param = chat ? "messages" : "prompt";
  if (chat) {
    if (r.has_tools && !model.template_takes_tools)
      throw ApiError{400, "invalid_request_error", "the model's chat template knows no tools", "tools"};
    prompts.push_back(encode(rendered(model, r.context), false));
  }
  for (const std::string& text : r.texts) prompts.push_back(encode(text, true));
  const int64_t room = model.engine->max_tokens();
  const int32_t vocab = static_cast<int32_t>(model.engine->model().config().vocab);
  for (const auto& prompt : prompts) {
    if (prompt.empty())
      throw ApiError{400, "invalid_request_error", "the prompt is empty: expected at least 1 token", param};
    const auto size = static_cast<int64_t>(prompt.size());
    if (size >= room && !(size == room && r.max_tokens == 0))
      throw ApiError{400, "invalid_request_error",
                     fmt::format("the prompt has {} tokens: {} are the most, with an answer", size, room),
                     param, "context_length_exceeded"};
    for (const int32_t id : prompt)
      if (id < 0 || id >= vocab)
        throw ApiError{400, "invalid_request_error",
                       fmt::format("the prompt holds token id {}: the vocabulary ends at {}", id, vocab - 1),
                       param};
  }
  std::make_shared<Answer>(service_, std::move(r), reply)->start(std::move(prompts));
}

void Api::tokenize(HttpRequest& request, const std::shared_ptr<HttpReply>& reply, bool back) {
  const TokenizeRequest r = back ? parse_detokenize(request.body) : parse_tokenize(request.body);
  check_model(r.model);
  const ServedModel& model = service_.model();
  if (back) return send_json(reply, {{"prompt", model.tokenizer->decode(r.tokens, false)}});
  const std::vector<int32_t> tokens =
      r.context.empty() ? encode(r.text, r.add_special_tokens) : encode(rendered(model, r.context), false);
  send_json(reply,
            {{"tokens", tokens}, {"count", tokens.size()}, {"max_model_len", model.engine->max_tokens()}});
}

}  // namespace awq::server
