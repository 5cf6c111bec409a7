#include "server/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>
#include <random>

#include "base/system.h"
#include "server/tool_calls.h"
#include "text/token_text.h"

namespace awq::server {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no infinity; this is what OpenAI's servers write for it.
constexpr double kLeastLogprob = -9999;

std::string random_id(const char* prefix) {
  static std::mutex mutex;
  static std::mt19937_64 random{std::random_device{}()};
  const std::lock_guard lock(mutex);
  return fmt::format("{}{:016x}{:016x}", prefix, random(), random());
}

std::string dumped(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }
std::string event(const Json& json) { return "data: " + dumped(json) + "\n\n"; }
double finite(float logprob) { return std::isfinite(logprob) ? logprob : kLeastLogprob; }

Json bytes_of(const Tokenizer& tokenizer, int32_t id) {
  Json out = Json::array();
  for (const char c : tokenizer.token_bytes(id)) out.push_back(static_cast<uint8_t>(c));
  return out;
}

Json chat_logprob(const Tokenizer& tokenizer, const TokenLogprob& t) {
  return {{"token", token_text(tokenizer, t.token)},
          {"logprob", finite(t.logprob)},
          {"bytes", bytes_of(tokenizer, t.token)}};
}

}  // namespace

Answer::Answer(Service& service, CompletionRequest request, std::shared_ptr<HttpReply> reply)
    : service_(service),
      request_(std::move(request)),
      reply_(std::move(reply)),
      id_(random_id(request_.chat ? "chatcmpl-" : "cmpl-")),
      created_(std::time(nullptr)),
      arrived_at_(now_seconds()) {}

Request Answer::engine_request(size_t prompt, std::vector<int32_t> tokens) {
  Request r;
  const int64_t room = service_.model().engine->max_tokens() - static_cast<int64_t>(tokens.size());
  r.prompt = std::move(tokens);
  r.sampling = request_.sampling;
  r.sampling.seed += prompt;
  r.max_tokens = request_.max_tokens < 0 ? room : std::min(request_.max_tokens, room);
  r.n = request_.n;
  r.ignore_eos = request_.ignore_eos;
  r.stop_ids = request_.stop_ids;
  r.logprobs = request_.logprobs;
  if (request_.echo && (request_.logprobs >= 0 || r.max_tokens == 0))
    r.prompt_logprobs = std::max(request_.logprobs, 0);
  if (request_.format != ResponseFormat::kText) r.make_constraint = service_.json_constraint(request_.schema);
  const size_t base = prompt * static_cast<size_t>(request_.n);
  r.on_token = [self = shared_from_this(), base](const TokenEvent& e) {
    return self->on_token(base + static_cast<size_t>(e.choice), e);
  };
  r.on_finish = [self = shared_from_this(), base](const FinishEvent& e) {
    self->on_finish(base + static_cast<size_t>(e.choice), e);
  };
  if (request_.echo && request_.logprobs >= 0)
    r.on_prompt = [self = shared_from_this(), prompt, base](int64_t, std::span<const TokenLogprobs> scores) {
      for (size_t c = 0; c < static_cast<size_t>(self->request_.n); ++c)
        self->add_prompt(base + c, self->prompts_[prompt], scores);
    };
  return r;
}

void Answer::start(std::vector<std::vector<int32_t>> prompts) {
  prompts_ = std::move(prompts);
  const ServedModel& model = service_.model();
  const auto answers = prompts_.size() * static_cast<size_t>(request_.n);
  for (size_t i = 0; i < answers; ++i) {
    choices_.emplace_back(model.tokenizer, request_.stops, request_.chat);
    if (!request_.echo) continue;
    const size_t prompt = i / static_cast<size_t>(request_.n);
    choices_.back().text = prompt < request_.texts.size() ? request_.texts[prompt]
                                                          : model.tokenizer->decode(prompts_[prompt], false);
    if (request_.logprobs < 0) choices_.back().text_length = choices_.back().text.size();
  }
  unfinished_ = answers;
  std::vector<Request> requests;
  try {
    for (size_t i = 0; i < prompts_.size(); ++i) requests.push_back(engine_request(i, prompts_[i]));
  } catch (const Error& error) {
    throw ApiError{400, "invalid_request_error", error.what(),
                   request_.must_call_tool ? "tools" : "response_format"};
  }
  service_.check_room(static_cast<int64_t>(answers));
  if (request_.stream) begin_stream();
  for (Request& r : requests) {
    try {
      const int64_t id = service_.submit(std::move(r));
      const std::lock_guard lock(ids_mutex_);
      ids_.push_back(id);
    } catch (const ApiError& error) {
      // What was submitted before goes on to nobody.
      gone();
      if (!request_.stream) throw;
      reply_->write(event(Json::parse(error_body(error))));
      reply_->end();
      return;
    }
  }
  reply_->on_gone([self = shared_from_this()] {
    ++self->service_.metrics().requests_gone;
    self->gone();
  });
}

void Answer::gone() {
  gone_ = true;
  const std::lock_guard lock(ids_mutex_);
  for (const int64_t id : ids_) service_.cancel(id);
}

void Answer::add_logprobs(Choice& choice, const TokenLogprobs& scores) {
  choice.logprobs.push_back(scores);
  choice.offsets.push_back(choice.text_length);
}

void Answer::add_prompt(size_t index, const std::vector<int32_t>& tokens,
                        std::span<const TokenLogprobs> scores) {
  Choice& choice = choices_[index];
  choice.is_first_unknown = true;
  const Tokenizer& tokenizer = *service_.model().tokenizer;
  for (size_t i = 0; i < tokens.size(); ++i) {
    add_logprobs(choice, i == 0 ? TokenLogprobs{{tokens[0], 0}, {}} : scores[i - 1]);
    choice.text_length += token_text(tokenizer, tokens[i]).size();
  }
}

bool Answer::on_token(size_t index, const TokenEvent& e) {
  if (gone_) return false;
  Choice& choice = choices_[index];
  const double now = now_seconds();
  if (!has_token_) service_.metrics().first_token.observe(now - arrived_at_);
  has_token_ = true;
  if (choice.last_token_at > 0) service_.metrics().between_tokens.observe(now - choice.last_token_at);
  choice.last_token_at = now;
  if (e.logprobs != nullptr) add_logprobs(choice, *e.logprobs);
  const std::string piece = choice.stops.push(choice.detokenizer.push(e.token));
  choice.text += piece;
  choice.text_length += piece.size();
  if (request_.stream && (!choice.text.empty() || !choice.logprobs.empty()))
    send_piece(index, choice.text, nullptr);
  return !choice.stops.stopped();
}

void Answer::on_finish(size_t index, const FinishEvent& e) {
  Choice& choice = choices_[index];
  choice.finish = e;
  choice.finish->stop_logprobs = nullptr;  // valid during this call only
  if (!gone_ && !has_failed_) {
    if (e.reason == FinishReason::kError) {
      fail({500, "server_error", e.error});
    } else if (e.reason == FinishReason::kDeadline) {
      fail({504, "timeout", "the request took longer than the server allows", {}, "timeout"});
    } else {
      if (!choice.stops.stopped()) {
        std::string rest = choice.stops.push(choice.detokenizer.flush());
        if (!choice.stops.stopped()) rest += choice.stops.flush();
        choice.text += rest;
        choice.text_length += rest.size();
      }
      // A completion lists the token that ended it, which has no text: clients that score prompts leave out
      // the last token of every answer.
      if (!request_.chat && e.stop_logprobs != nullptr) add_logprobs(choice, *e.stop_logprobs);
      if (request_.stream) send_piece(index, choice.text, finish_reason(choice));
    }
  }
  if (--unfinished_ > 0) return;
  if (!gone_ && !has_failed_) finish_all();
}

const char* Answer::finish_reason(const Choice& choice) const {
  return choice.finish->reason == FinishReason::kLength && !choice.stops.stopped() ? "length" : "stop";
}

void Answer::begin_stream() {
  HttpFields fields = {{"Content-Type", "text/event-stream; charset=utf-8"},
                       {"Cache-Control", "no-store"},
                       {"X-Accel-Buffering", "no"},
                       {"X-Content-Type-Options", "nosniff"}};
  reply_->begin(200, std::move(fields));
  if (!request_.chat) return;
  for (size_t i = 0; i < choices_.size(); ++i) {
    Json chunk = frame();
    chunk["choices"] = {{{"index", i},
                         {"delta", {{"role", "assistant"}, {"content", ""}}},
                         {"logprobs", nullptr},
                         {"finish_reason", nullptr}}};
    reply_->write(event(chunk));
  }
}

// With tools what may be a call is kept until the end.
void Answer::send_piece(size_t index, const std::string& piece, const char* finish) {
  Choice& choice = choices_[index];
  std::string text = piece, held;
  if (request_.has_tools && finish == nullptr) {
    const size_t certain = request_.must_call_tool ? 0 : content_before_calls(text);
    held = text.substr(certain);
    text.resize(certain);
    if (text.empty()) return;
  }
  Json chunk = frame();
  chunk["choices"] = Json::array({choice_json(index, text, finish, true)});
  choice.text = held;
  reply_->write(event(chunk));
}

void Answer::finish_all() {
  service_.metrics().duration.observe(now_seconds() - arrived_at_);
  ++service_.metrics().requests_done;
  if (request_.stream) {
    if (request_.include_usage) {
      Json chunk = frame();
      chunk["choices"] = Json::array();
      chunk["usage"] = usage();
      reply_->write(event(chunk));
    }
    reply_->write("data: [DONE]\n\n");
    return reply_->end();
  }
  Json body = frame();
  body["choices"] = Json::array();
  for (size_t i = 0; i < choices_.size(); ++i)
    body["choices"].push_back(choice_json(i, choices_[i].text, finish_reason(choices_[i]), false));
  body["usage"] = usage();
  reply_->send(200, json_fields(), dumped(body));
}

void Answer::fail(const ApiError& error) {
  has_failed_ = true;
  ++service_.metrics().requests_failed;
  if (request_.stream) {
    reply_->write("data: " + error_body(error) + "\n\n");
    reply_->end();
  } else {
    reply_->send(error.status, json_fields(), error_body(error));
  }
  gone();  // the other answers of this request
}

Json Answer::frame() const {
  const char* object = !request_.chat    ? "text_completion"
                       : request_.stream ? "chat.completion.chunk"
                                         : "chat.completion";
  return {{"id", id_}, {"object", object}, {"created", created_}, {"model", service_.model().name}};
}

Json Answer::choice_json(size_t index, const std::string& text, const char* finish, bool delta) {
  Choice& choice = choices_[index];
  Json out = {{"index", index}};
  Json logprobs = request_.logprobs >= 0 ? logprobs_json(choice) : Json();
  const Json reason = finish == nullptr ? Json() : Json(finish);
  if (!request_.chat) {
    out["text"] = text;
    out["logprobs"] = std::move(logprobs);
    out["finish_reason"] = reason;
    return out;
  }
  Json message = Json::object();
  if (!delta) message = {{"role", "assistant"}, {"content", text}, {"refusal", nullptr}};
  if (delta && !text.empty()) message["content"] = text;
  const ParsedText parsed = request_.has_tools && finish != nullptr ? parse_tool_calls(text) : ParsedText();
  if (!parsed.calls.empty()) {
    message["content"] = parsed.content.empty() ? Json() : Json(parsed.content);
    message["tool_calls"] = Json::array();
    for (size_t i = 0; i < parsed.calls.size(); ++i) {
      Json call = {{"id", random_id("call_")},
                   {"type", "function"},
                   {"function", {{"name", parsed.calls[i].name}, {"arguments", parsed.calls[i].arguments}}}};
      if (delta) call["index"] = i;
      message["tool_calls"].push_back(std::move(call));
    }
  }
  out[delta ? "delta" : "message"] = std::move(message);
  out["logprobs"] = std::move(logprobs);
  out["finish_reason"] = parsed.calls.empty() ? reason : Json("tool_calls");
  return out;
}

Json Answer::logprobs_json(Choice& choice) const {
  const Tokenizer& tokenizer = *service_.model().tokenizer;
  const auto all = std::exchange(choice.logprobs, {});
  const auto offsets = std::exchange(choice.offsets, {});
  const bool unknown = std::exchange(choice.is_first_unknown, false);
  if (request_.chat) {
    Json content = Json::array();
    for (const TokenLogprobs& t : all) {
      Json entry = chat_logprob(tokenizer, t.token);
      entry["top_logprobs"] = Json::array();
      for (const TokenLogprob& other : t.top) entry["top_logprobs"].push_back(chat_logprob(tokenizer, other));
      content.push_back(std::move(entry));
    }
    return {{"content", content}, {"refusal", nullptr}};
  }
  Json tokens = Json::array(), logprobs = Json::array(), tops = Json::array(), places = Json::array();
  for (size_t i = 0; i < all.size(); ++i) {
    const bool none = unknown && i == 0;
    tokens.push_back(token_name(tokenizer, all[i].token.token));
    logprobs.push_back(none ? Json() : Json(finite(all[i].token.logprob)));
    Json top = Json::object();
    for (const TokenLogprob& other : all[i].top)
      top[token_name(tokenizer, other.token)] = finite(other.logprob);
    // The token that came is always among them.
    if (!none) top[token_name(tokenizer, all[i].token.token)] = finite(all[i].token.logprob);
    tops.push_back(none ? Json() : top);
    places.push_back(offsets[i]);
  }
  return {{"tokens", tokens}, {"token_logprobs", logprobs}, {"top_logprobs", tops}, {"text_offset", places}};
}

Json Answer::usage() const {
  int64_t prompt = 0, generated = 0, cached = 0;
  for (const auto& p : prompts_) prompt += static_cast<int64_t>(p.size());
  for (size_t i = 0; i < choices_.size(); ++i) {
    generated += choices_[i].finish->tokens;
    if (i % static_cast<size_t>(request_.n) == 0) cached += choices_[i].finish->reused_tokens;
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", generated},
          {"total_tokens", prompt + generated},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

}  // namespace awq::server
