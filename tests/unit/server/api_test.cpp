// Routes, access and OpenAI's completions, without sockets: a golden checkpoint behind Api, replies that
// record.
#include "server/api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "server/openai_request.h"
#include "unit/model/golden.h"

namespace awq::server {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

// A byte-level vocabulary of printable ASCII, space and newline, as large as the golden models'.
std::shared_ptr<const Tokenizer> tiny_tokenizer() {
  Json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}}, added = Json::array();
  const auto add = [&](const std::string& token) { vocab[token] = vocab.size(); };
  for (char c = 33; c < 127; ++c) add(std::string(1, c));
  add("\u0120");
  add("\u010a");
  for (int i = 0; i < 3; ++i)
    added.push_back({{"id", i},
                     {"content", std::array{"<unk>", "<s>", "</s>"}[static_cast<size_t>(i)]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  const Json bytes = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  const Json spec = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", added},
                     {"normalizer", nullptr},
                     {"pre_tokenizer", bytes},
                     {"post_processor", nullptr},
                     {"decoder", bytes},
                     {"model",
                      {{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", nullptr},
                       {"continuing_subword_prefix", nullptr},
                       {"end_of_word_suffix", nullptr},
                       {"fuse_unk", false},
                       {"byte_fallback", false},
                       {"vocab", vocab},
                       {"merges", Json::array()}}}};
  return Tokenizer::from_json(spec.dump(), "tiny");
}

ServedModel served(bool with_template = true, int64_t max_sequences = 8) {
  static const auto model = Model::load(*Checkpoint::open(testing::golden_root() / "llama-tied"));
  ServedModel m;
  m.name = "tiny";
  m.created = 1'700'000'000;
  m.tokenizer = tiny_tokenizer();
  m.engine = std::make_shared<Engine>(
      model, EngineOptions{.kv_pages = 40, .max_sequences = max_sequences, .end_ids = {2}});
  m.end_ids = {2};
  m.template_takes_tools = true;
  if (with_template)
    m.render_chat = [](std::string_view context) {
      const Json c = Json::parse(context);
      std::string text;
      for (const Json& message : c["messages"]) {
        if (message["content"] == "refuse me") fail(Code::kBadArgument, "the template refuses");
        text += message["role"].get<std::string>().substr(0, 1) + ":" +
                message["content"].get<std::string>() + "\n";
      }
      return text + (c.contains("tools") ? "t" : "") +
             (c.contains("extra") ? c["extra"].get<std::string>() : "") + "a:";
    };
  return m;
}

// What is answered, waited for.
class Recorder : public HttpReply {
 public:
  void send(int status, HttpFields fields, std::string body) override {
    note([&] { status_ = status, fields_ = fields, body_ = body, done_ = true; });
  }
  void begin(int status, HttpFields fields) override {
    note([&] { status_ = status, fields_ = fields; });
  }
  void write(std::string piece) override {
    note([&] { body_ += piece, ++pieces_; });
  }
  void end() override {
    note([&] { done_ = true; });
  }
  void on_gone(std::function<void()> callback) override {
    note([&] { gone_ = callback; });
  }

  void wait() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), [&] { return done_; })) << "no answer";
  }
  void wait_for_pieces(int n) {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(
        changed_.wait_for(lock, std::chrono::seconds(60), [&] { return done_ || (pieces_ >= n && gone_); }));
  }
  void leave() { gone_(); }
  int status() const { return status_; }
  const std::string& body() const { return body_; }
  Json json() const { return Json::parse(body_); }
  std::string field(std::string_view name) const {
    for (const auto& [key, value] : fields_)
      if (key == name) return value;
    return {};
  }
  // The data of a stream's events; the last must be [DONE].
  std::vector<Json> events() const {
    std::vector<Json> out;
    size_t at = 0;
    bool done = false;
    while (at < body_.size()) {
      const size_t end = body_.find("\n\n", at);
      EXPECT_EQ(body_.substr(at, 6), "data: ");
      const std::string data = body_.substr(at + 6, end - at - 6);
      done = data == "[DONE]";
      if (!done) out.push_back(Json::parse(data));
      at = end + 2;
    }
    EXPECT_TRUE(done);
    return out;
  }

 private:
  template <class F>
  void note(F&& change) {
    const std::lock_guard lock(mutex_);
    change();
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  int status_ = 0, pieces_ = 0;
  HttpFields fields_;
  std::string body_;
  std::function<void()> gone_;
  bool done_ = false;
};

HttpRequest http(std::string method, std::string path, std::string body = {}, HttpFields fields = {}) {
  HttpRequest r;
  r.head.method = std::move(method);
  r.head.path = std::move(path);
  r.head.host = "localhost:8000";
  r.head.fields = std::move(fields);
  if (!body.empty()) r.head.fields.emplace_back("content-type", "application/json; charset=utf-8");
  r.body = std::move(body);
  return r;
}

class ApiTest : public ::testing::Test {
 protected:
  std::shared_ptr<Recorder> ask(HttpRequest request) {
    const auto reply = std::make_shared<Recorder>();
    api_.handle(std::move(request), reply);
    reply->wait();
    return reply;
  }
  std::shared_ptr<Recorder> post(const char* path, const Json& body) {
    return ask(http("POST", path, body.dump()));
  }
  Json completion(const Json& body) {
    const auto r = post("/v1/completions", body);
    EXPECT_EQ(r->status(), 200) << r->body();
    return r->json();
  }
  Json chat(const Json& body) {
    const auto r = post("/v1/chat/completions", body);
    EXPECT_EQ(r->status(), 200) << r->body();
    return r->json();
  }
  void expect_idle() {
    EXPECT_TRUE(service_.drain(30));
    // The engine frees pages before it says that an answer is finished.
    const EngineStats stats = service_.model().engine->stats();
    EXPECT_EQ(stats.running + stats.waiting, 0);
    EXPECT_EQ(stats.free_pages, stats.pages);
  }

  Service service_{served(), {.max_waiting = 4}};
  Api api_{service_, {}};
};

const Json kHello = Json::array({Json::object({{"role", "user"}, {"content", "Hello"}})});
// Without white space: answers fit into the tiny context.
const Json kCompact = {{"97", -100}, {"98", -100}};

TEST_F(ApiTest, Completion) {
  const Json body = {
      {"model", "tiny"}, {"prompt", "The sea"}, {"max_tokens", 8}, {"temperature", 0}, {"ignore_eos", true}};
  const Json r = completion(body);
  EXPECT_EQ(r["object"], "text_completion");
  EXPECT_EQ(r["model"], "tiny");
  EXPECT_THAT(r["id"].get<std::string>(), HasSubstr("cmpl-"));
  ASSERT_EQ(r["choices"].size(), 1u);
  EXPECT_EQ(r["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(r["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(r["usage"]["prompt_tokens"], 7);
  EXPECT_EQ(r["usage"]["completion_tokens"], 8);
  EXPECT_EQ(r["usage"]["total_tokens"], 15);
  EXPECT_EQ(completion(body)["choices"], r["choices"]) << "greedy";
  expect_idle();
}

TEST_F(ApiTest, StreamsTheSameText) {
  Json body = {{"prompt", {"The sea", "A boy"}},
               {"max_tokens", 12},
               {"temperature", 1},
               {"seed", 5},
               {"n", 2},
               {"logprobs", 2},
               {"ignore_eos", true}};
  const Json whole = completion(body);
  ASSERT_EQ(whole["choices"].size(), 4u);
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  const auto r = post("/v1/completions", body);
  EXPECT_THAT(r->field("Content-Type"), HasSubstr("text/event-stream"));
  std::vector<std::string> texts(4);
  std::vector<int> finished(4), logprobs(4);
  Json usage;
  for (const Json& e : r->events()) {
    EXPECT_EQ(e["object"], "text_completion");
    if (e["choices"].empty()) usage = e["usage"];
    for (const Json& c : e["choices"]) {
      const auto i = c["index"].get<size_t>();
      texts[i] += c["text"].get<std::string>();
      finished[i] += !c["finish_reason"].is_null();
      logprobs[i] += static_cast<int>(c["logprobs"]["tokens"].size());
    }
  }
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(texts[i], whole["choices"][i]["text"]) << i;
    EXPECT_EQ(finished[i], 1);
    EXPECT_EQ(logprobs[i], 12);
  }
  EXPECT_NE(texts[0], texts[1]);
  EXPECT_EQ(usage["completion_tokens"], 48);
  EXPECT_EQ(usage["prompt_tokens"], 12);
}

// As lm-eval's local-completions asks.
TEST_F(ApiTest, EchoWithLogprobsScoresThePrompt) {
  Json body = {{"prompt", {{60, 61, 62, 63, 64}, {70, 71}}},
               {"max_tokens", 1},
               {"temperature", 0},
               {"logprobs", 1},
               {"echo", true},
               {"seed", 1234},
               {"ignore_eos", true}};
  const Json r = completion(body);
  const Json &c = r["choices"][0], &l = c["logprobs"];
  EXPECT_EQ(l["tokens"].size(), 6u);
  EXPECT_TRUE(l["token_logprobs"][0].is_null());
  EXPECT_TRUE(l["top_logprobs"][0].is_null());
  for (size_t i = 1; i < 6; ++i) {
    EXPECT_LT(l["token_logprobs"][i].get<double>(), 0);
    double most = -1e9;
    for (const auto& [token, logprob] : l["top_logprobs"][i].items())
      most = std::max(most, logprob.get<double>());
    EXPECT_GE(most, l["token_logprobs"][i].get<double>());
    EXPECT_TRUE(l["top_logprobs"][i].contains(l["tokens"][i].get<std::string>()));
    EXPECT_EQ(l["text_offset"][i], i);
  }
  EXPECT_EQ(c["text"].get<std::string>().substr(0, 5), "Z[\\]^");
  body["max_tokens"] = 0;
  const Json scored = completion(body);
  EXPECT_EQ(scored["choices"][0]["logprobs"]["token_logprobs"].size(), 5u);
  for (size_t i = 1; i < 5; ++i)
    EXPECT_NEAR(scored["choices"][0]["logprobs"]["token_logprobs"][i].get<double>(),
                l["token_logprobs"][i].get<double>(), 1e-4);
  EXPECT_EQ(scored["choices"][1]["text"], "de");
  EXPECT_EQ(scored["usage"]["completion_tokens"], 0);
}

// lm-eval leaves out the last of an answer's tokens as the one generated, the end token too.
TEST_F(ApiTest, TheTokenThatEndsACompletionHasALogprob) {
  const Json r = completion({{"prompt", {60, 61, 62, 63, 64}},
                             {"max_tokens", 1},
                             {"temperature", 0},
                             {"logprobs", 1},
                             {"echo", true},
                             {"logit_bias", {{"2", 100}}}});
  const Json &c = r["choices"][0], &l = c["logprobs"];
  EXPECT_EQ(c["finish_reason"], "stop");
  EXPECT_EQ(c["text"], "Z[\\]^");
  for (const char* list : {"tokens", "token_logprobs", "top_logprobs", "text_offset"})
    EXPECT_EQ(l[list].size(), 6u) << list;
  EXPECT_LT(l["token_logprobs"][5].get<double>(), 0);
  EXPECT_EQ(r["usage"]["completion_tokens"], 0);
}

TEST_F(ApiTest, StopStringsEndTheText) {
  const Json body = {{"prompt", "The sea"}, {"max_tokens", 30}, {"temperature", 0}, {"ignore_eos", true}};
  const std::string text = completion(body)["choices"][0]["text"];
  ASSERT_GT(text.size(), 8u);
  const std::string stop = text.substr(4, 3);
  Json with = body;
  with["stop"] = {"never in there", stop};
  const Json c = completion(with)["choices"][0];
  EXPECT_EQ(c["text"], text.substr(0, text.find(stop)));
  EXPECT_EQ(c["finish_reason"], "stop");
  Json by_id = body;
  by_id["stop_token_ids"] = {tiny_tokenizer()->encode(text.substr(0, 1), false)[0]};
  EXPECT_EQ(completion(by_id)["choices"][0]["text"], "");
  expect_idle();
}

TEST_F(ApiTest, ChatAnswerAndStream) {
  Json body = {{"messages", kHello}, {"max_completion_tokens", 6}, {"temperature", 0},
               {"logprobs", true},   {"top_logprobs", 2},          {"ignore_eos", true}};
  const Json whole = chat(body);
  EXPECT_EQ(whole["object"], "chat.completion");
  const Json& c = whole["choices"][0];
  EXPECT_EQ(c["message"]["role"], "assistant");
  EXPECT_EQ(c["finish_reason"], "length");
  ASSERT_EQ(c["logprobs"]["content"].size(), 6u);
  for (const Json& t : c["logprobs"]["content"]) {
    EXPECT_EQ(t["top_logprobs"].size(), 2u);
    EXPECT_EQ(t["top_logprobs"][0]["token"], t["token"]) << "greedy";
    EXPECT_TRUE(t["bytes"].is_array());
  }
  body["stream"] = true;
  const auto r = post("/v1/chat/completions", body);
  const std::vector<Json> events = r->events();
  EXPECT_EQ(events.front()["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(events.front()["object"], "chat.completion.chunk");
  std::string text;
  for (const Json& e : events) text += e["choices"][0]["delta"].value("content", "");
  EXPECT_EQ(text, c["message"]["content"]);
  EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "length");
}

TEST_F(ApiTest, JsonIsHeldToItsSchema) {
  const Json schema = {
      {"type", "object"},
      {"properties", {{"answer", {{"type", "string"}, {"maxLength", 3}}}, {"n", {{"enum", {1, 2}}}}}},
      {"required", {"answer", "n"}}};
  for (uint64_t seed = 0; seed < 5; ++seed) {
    Json body = {
        {"messages", kHello},
        {"temperature", 1},
        {"seed", seed},
        {"logit_bias", kCompact},
        {"response_format", {{"type", "json_schema"}, {"json_schema", {{"name", "x"}, {"schema", schema}}}}}};
    const Json c = chat(body)["choices"][0];
    ASSERT_EQ(c["finish_reason"], "stop") << c;
    const Json value = Json::parse(c["message"]["content"].get<std::string>());
    EXPECT_LE(value["answer"].get<std::string>().size(), 3u);
    EXPECT_TRUE(value["n"] == 1 || value["n"] == 2);
  }
  const auto refused =
      post("/v1/chat/completions",
           {{"messages", kHello},
            {"response_format", {{"type", "json_schema"}, {"json_schema", {{"schema", {{"not", true}}}}}}}});
  EXPECT_EQ(refused->status(), 400);
  EXPECT_THAT(refused->body(), HasSubstr("'not' is not supported"));
  EXPECT_EQ(refused->json()["error"]["param"], "response_format");
}

TEST_F(ApiTest, ToolsThatMustBeCalledAreCalled) {
  const Json tools = {
      {{"type", "function"},
       {"function",
        {{"name", "go"},
         {"parameters",
          {{"type", "object"}, {"properties", {{"far", {{"type", "boolean"}}}}}, {"required", {"far"}}}}}}},
      {{"type", "function"}, {"function", {{"name", "stay"}}}}};
  Json body = {{"messages", kHello},
               {"tools", tools},
               {"tool_choice", {{"type", "function"}, {"function", {{"name", "go"}}}}},
               {"temperature", 1},
               {"seed", 3},
               {"logit_bias", kCompact}};
  const Json c = chat(body)["choices"][0];
  EXPECT_EQ(c["finish_reason"], "tool_calls");
  ASSERT_EQ(c["message"]["tool_calls"].size(), 1u);
  const Json& call = c["message"]["tool_calls"][0];
  EXPECT_EQ(call["type"], "function");
  EXPECT_EQ(call["function"]["name"], "go");
  EXPECT_TRUE(Json::parse(call["function"]["arguments"].get<std::string>())["far"].is_boolean());
  EXPECT_TRUE(c["message"]["content"].is_null());

  body["stream"] = true;
  std::vector<Json> calls;
  for (const Json& e : post("/v1/chat/completions", body)->events()) {
    const Json& d = e["choices"][0]["delta"];
    EXPECT_TRUE(!d.contains("content") || d["content"].is_null() || d["content"] == "")
        << "the call is not shown as text";
    if (d.contains("tool_calls")) calls.push_back(d["tool_calls"][0]);
  }
  ASSERT_EQ(calls.size(), 1u);
  EXPECT_EQ(calls[0]["index"], 0);
  EXPECT_EQ(calls[0]["function"]["name"], "go");
}

TEST_F(ApiTest, RequestsThatAreWrongAreRefusedByField) {
  const Json ok = {{"prompt", "a"}}, chat_ok = {{"messages", kHello}};
  struct Case {
    bool chat;
    Json change;
    const char *param, *message;
    int status = 400;
  };
  const Case cases[] = {
      {false, {{"model", "other"}}, "model", "there is no model of that name", 404},
      {false, {{"prompt", nullptr}}, "prompt", "prompt is missing"},
      {false, {{"prompt", 5}}, "prompt", "expected text, token ids"},
      {false, {{"prompt", Json::array()}}, "prompt", "expected text, token ids"},
      {false, {{"prompt", ""}}, "prompt", "the prompt is empty"},
      {false, {{"prompt", {1, 128}}}, "prompt", "the vocabulary ends at 127"},
      {false, {{"prompt", {1, -1}}}, "prompt", "expected token ids, got -1"},
      {false, {{"prompt", {"a", {1}}}}, "prompt", "or a list of either"},
      {false, {{"prompt", std::string(64, 'a')}}, "prompt", "64 tokens: 64 are the most"},
      {false, {{"prompt", {"a", "b"}}, {"n", 65}}, "prompt", "at most 128 answers"},
      {false, {{"max_tokens", 0}}, "max_tokens", "at least 1 without echo"},
      {false, {{"max_tokens", -1}}, "max_tokens", "whole number from 0"},
      {false, {{"max_tokens", 1e30}}, "max_tokens", "whole number"},
      {false, {{"max_tokens", 1.5}}, "max_tokens", "whole number"},
      {false, {{"max_tokens", "9"}}, "max_tokens", "got \"9\""},
      {false, {{"max_tokens", 18446744073709551615u}}, "max_tokens", "whole number"},
      {false, {{"temperature", -0.1}}, "temperature", "from 0 to 100, got -0.1"},
      {false, {{"temperature", 1e308}}, "temperature", "from 0 to 100"},
      {false, {{"top_p", 0}}, "top_p", "top_p"},
      {false, {{"top_k", -2}}, "top_k", "whole number from -1"},
      {false, {{"min_p", 2}}, "min_p", "from 0 to 1"},
      {false, {{"presence_penalty", 3}}, "presence_penalty", "from -2 to 2"},
      {false, {{"n", 0}}, "n", "from 1 to 128, got 0"},
      {false, {{"n", 129}}, "n", "from 1 to 128, got 129"},
      {false, {{"logprobs", 21}}, "logprobs", "from 0 to 20"},
      {false, {{"best_of", 2}}, "best_of", "the same as n"},
      {false, {{"suffix", "x"}}, "suffix", "not supported"},
      {false, {{"stop", Json::array({""})}}, "stop", "strings of 1 to"},
      {false, {{"stop", Json(std::vector<std::string>(17, "a"))}}, "stop", "at most 16"},
      {false, {{"stop", 5}}, "stop", "strings of 1 to"},
      {false, {{"logit_bias", {{"x", 1}}}}, "logit_bias", "expected token ids, got \"x\""},
      {false, {{"logit_bias", {{"5", 101}}}}, "logit_bias", "from -100 to 100"},
      {false, {{"logit_bias", {{"500", 1}}}}, "", "expected token ids from 0 to 127, got 500"},
      {false, {{"stream", 1}}, "stream", "true or false"},
      {false, {{"stream_options", {{"include_usage", true}}}}, "stream_options", "only with stream"},
      {false, {{"response_format", {{"type", "xml"}}}}, "response_format", "got \"xml\""},
      {false,
       {{"response_format", {{"type", "json_schema"}}}},
       "response_format",
       "expected json_schema.schema"},
      {true, {{"messages", Json::array()}}, "messages", "at least one message"},
      {true, {{"messages", {{{"role", "root"}, {"content", "x"}}}}}, "messages", "messages[0].role"},
      {true, {{"messages", {{{"role", "user"}}}}}, "messages", "messages[0].content is missing"},
      {true,
       {{"messages", {{{"role", "user"}, {"content", {{{"type", "image_url"}}}}}}}},
       "messages",
       "only parts of the type text"},
      {true,
       {{"messages", {{{"role", "user"}, {"content", "refuse me"}}}}},
       "messages",
       "the template refuses"},
      {true, {{"top_logprobs", 2}}, "top_logprobs", "only with logprobs"},
      {true, {{"tools", Json::array()}}, "tools", "1 to 128 functions"},
      {true, {{"tools", {{{"type", "other"}}}}}, "tools", "expected {\"type\""},
      {true, {{"tool_choice", "required"}}, "tool_choice", "there are no tools"},
      {true, {{"chat_template_kwargs", {{"messages", 1}}}}, "chat_template_kwargs", "is set by the server"},
      {true,
       {{"chat_template_kwargs", {{"bos_token", "x"}}}},
       "chat_template_kwargs",
       "is set by the server"},
  };
  for (const Case& c : cases) {
    Json body = c.chat ? chat_ok : ok;
    body.update(c.change);
    SCOPED_TRACE(c.change.dump().substr(0, 100));
    const auto r = post(c.chat ? "/v1/chat/completions" : "/v1/completions", body);
    EXPECT_EQ(r->status(), c.status);
    const Json error = r->json()["error"];
    EXPECT_THAT(error["message"].get<std::string>(), HasSubstr(c.message));
    EXPECT_EQ(error["param"].is_null() ? "" : error["param"].get<std::string>(), c.param);
    EXPECT_EQ(error["type"], "invalid_request_error");
  }
  for (const std::string& body :
       {std::string("{"), std::string("[]"), std::string("\"a\""), std::string("{\"prompt\": \"\xff\"}"),
        std::string(65, '[') + std::string(65, ']')})
    EXPECT_EQ(ask(http("POST", "/v1/completions", body))->status(), 400) << body;
  expect_idle();
}

TEST_F(ApiTest, TemplateArgumentsReachTheTemplate) {
  const Json plain = post("/tokenize", {{"messages", kHello}})->json();
  const Json with =
      chat({{"messages", kHello}, {"max_tokens", 1}, {"chat_template_kwargs", {{"extra", "xyz"}}}});
  EXPECT_EQ(with["usage"]["prompt_tokens"].get<int>(), plain["count"].get<int>() + 3);
}

TEST_F(ApiTest, TokenizeAndBack) {
  const Json tokens = post("/tokenize", {{"prompt", "The sea"}})->json();
  EXPECT_EQ(tokens["count"], 7);
  EXPECT_EQ(tokens["max_model_len"], 64);
  EXPECT_EQ(post("/detokenize", {{"tokens", tokens["tokens"]}})->json()["prompt"], "The sea");
  EXPECT_EQ(post("/detokenize", {{"tokens", {5, -2}}})->status(), 400);
  EXPECT_EQ(post("/tokenize", Json::object())->status(), 400);
}

TEST_F(ApiTest, ModelsHealthReadyMetrics) {
  EXPECT_EQ(ask(http("GET", "/v1/models"))->json()["data"][0]["id"], "tiny");
  EXPECT_EQ(ask(http("GET", "/v1/models/tiny"))->json()["id"], "tiny");
  EXPECT_EQ(ask(http("GET", "/v1/models/other"))->status(), 404);
  EXPECT_EQ(ask(http("GET", "/health"))->status(), 200);
  EXPECT_EQ(ask(http("GET", "/ready"))->status(), 200);
  completion({{"prompt", "The sea"}, {"max_tokens", 3}, {"ignore_eos", true}});
  const std::string metrics = ask(http("GET", "/metrics"))->body();
  for (const char* line : {"awq_prompt_tokens_total 7\n", "awq_generated_tokens_total 3\n",
                           "awq_requests_done_total 1\n", "awq_time_to_first_token_seconds_count 1\n",
                           "awq_time_between_tokens_seconds_count 2\n", "awq_sequences_running 0\n"})
    EXPECT_THAT(metrics, HasSubstr(line));
  const auto series = std::count(metrics.begin(), metrics.end(), '\n');
  for (int i = 0; i < 20; ++i) ask(http("GET", "/x" + std::to_string(i)));
  const std::string after = ask(http("GET", "/metrics"))->body();
  EXPECT_EQ(std::count(after.begin(), after.end(), '\n'), series) << "no series comes from a request";
  EXPECT_TRUE(service_.drain(10));
  EXPECT_EQ(ask(http("GET", "/ready"))->status(), 503);
  const auto late = post("/v1/completions", {{"prompt", "a"}});
  EXPECT_EQ(late->status(), 503);
  EXPECT_EQ(late->field("Retry-After"), "1");
}

TEST_F(ApiTest, ThePageComesWithAStrictPolicy) {
  for (const char* path : {"/", "/page.css", "/page.js", "/markdown.js"}) {
    const auto r = ask(http("GET", path));
    EXPECT_EQ(r->status(), 200) << path;
    EXPECT_THAT(r->field("Content-Security-Policy"), HasSubstr("default-src 'none'"));
    EXPECT_FALSE(r->body().empty());
    for (const char* other : {"http://", "https://", "//cdn", "innerHTML", "eval("})
      if (std::string_view(path) != "/markdown.js" && std::string_view(path) != "/") {
        EXPECT_EQ(r->body().find(other), std::string::npos) << path << other;
      }
    EXPECT_EQ(ask(http("GET", path, "", {{"if-none-match", r->field("ETag")}}))->status(), 304);
  }
}

TEST_F(ApiTest, WhoLeavesFreesEverything) {
  for (int round = 0; round < 20; ++round) {
    const auto r = std::make_shared<Recorder>();
    api_.handle(
        http("POST", "/v1/completions",
             Json{{"prompt", "The sea"}, {"n", 2}, {"max_tokens", 50}, {"stream", true}, {"ignore_eos", true}}
                 .dump()),
        r);
    r->wait_for_pieces(round % 5);
    r->leave();
  }
  expect_idle();
  EXPECT_EQ(service_.metrics().requests_gone, 20u);
}

TEST(ApiAccess, EveryRouteButHealthNeedsTheKeyHoweverItsPathIsWritten) {
  Service service(served(), {});
  AccessRules rules;
  rules.keys.add("secret-key");
  Api api(service, rules);
  const auto status = [&](const std::string& method, const std::string& path, HttpFields fields = {}) {
    const auto r = std::make_shared<Recorder>();
    api.handle(http(method, path, method == "POST" ? "{}" : "", std::move(fields)), r);
    r->wait();
    return r->status();
  };
  for (const Route& route : Api::routes())
    for (const char* method : {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"})
      for (const std::string& path : std::initializer_list<std::string>{
               std::string(route.path), "/" + std::string(route.path), std::string(route.path) + "/",
               std::string(route.path) + "/.", "/health/.." + std::string(route.path),
               "/health;" + std::string(route.path), "/health%2f.." + std::string(route.path), "/HEALTH",
               std::string(route.path) + "%00", "/./health", "/health/", "/%68ealth", "//health"}) {
        const bool open =
            path == "/health" && (std::string_view(method) == "GET" || std::string_view(method) == "HEAD");
        EXPECT_EQ(status(method, path), open ? 200 : 401) << method << ' ' << path;
      }
  EXPECT_EQ(status("GET", "/v1/models", {{"authorization", "Bearer secret-key"}}), 200);
  EXPECT_EQ(status("GET", "/", {{"authorization", "Basic OnNlY3JldC1rZXk="}}), 200);
  EXPECT_EQ(status("GET", "/v1/models", {{"authorization", "Bearer wrong-key"}}), 401);
  EXPECT_EQ(status("GET", "/v1/models", {{"x-api-key", "secret-key"}}), 401);
}

TEST(ApiAccess, HostsOriginsMethodsAndTypes) {
  Service service(served(), {});
  AccessRules rules;
  rules.hosts = {"localhost"};
  rules.origins = {"https://app.example"};
  Api api(service, rules);
  const auto ask = [&](HttpRequest request) {
    const auto r = std::make_shared<Recorder>();
    api.handle(std::move(request), r);
    r->wait();
    return r;
  };
  HttpRequest rebound = http("GET", "/v1/models");
  rebound.head.host = "evil.example";
  EXPECT_EQ(ask(rebound)->status(), 403);
  EXPECT_EQ(ask(http("POST", "/v1/completions", "{}", {{"origin", "https://evil.example"}}))->status(), 403);
  const auto listed = ask(http("GET", "/v1/models", "", {{"origin", "https://app.example"}}));
  EXPECT_EQ(listed->status(), 200);
  EXPECT_EQ(listed->field("Access-Control-Allow-Origin"), "https://app.example");
  EXPECT_EQ(listed->field("Access-Control-Allow-Credentials"), "");
  EXPECT_EQ(ask(http("GET", "/v1/models"))->field("Access-Control-Allow-Origin"), "");
  const auto preflight =
      ask(http("OPTIONS", "/v1/chat/completions", "",
               {{"origin", "https://app.example"}, {"access-control-request-method", "POST"}}));
  EXPECT_EQ(preflight->status(), 204);
  EXPECT_THAT(preflight->field("Access-Control-Allow-Headers"), HasSubstr("Authorization"));
  EXPECT_EQ(ask(http("GET", "/nowhere"))->status(), 404);
  const auto wrong = ask(http("GET", "/v1/completions"));
  EXPECT_EQ(wrong->status(), 405);
  EXPECT_EQ(wrong->field("Allow"), "POST");
  EXPECT_EQ(ask(http("DELETE", "/v1/models"))->status(), 405);
  EXPECT_EQ(ask(http("OPTIONS", "*"))->status(), 204);
  EXPECT_EQ(ask(http("POST", "/v1/completions"))->status(), 415);
}

TEST(ApiLimits, TooManyWaitingAreRefusedAndTheOthersAnswered) {
  Service service(served(true, 1), {.max_waiting = 2});
  Api api(service, {});
  std::vector<std::shared_ptr<Recorder>> all;
  for (int i = 0; i < 40; ++i) {
    all.push_back(std::make_shared<Recorder>());
    api.handle(http("POST", "/v1/completions", R"({"prompt":"The sea","max_tokens":50,"ignore_eos":true})"),
               all.back());
  }
  int answered = 0, refused = 0;
  for (const auto& r : all) {
    r->wait();
    answered += r->status() == 200;
    refused += r->status() == 429;
    if (r->status() == 429) {
      EXPECT_EQ(r->field("Retry-After"), "1");
    }
  }
  EXPECT_EQ(answered + refused, 40);
  // The two that may wait; a third when the first began before the others came.
  EXPECT_GE(answered, 2);
  EXPECT_GE(refused, 1);
}

TEST(ApiLimits, DeadlinesAnswerWithAnError) {
  Service service(served(), {.max_waiting = 4, .request_seconds = 1e-6});
  Api api(service, {});
  for (const bool stream : {false, true}) {
    const auto r = std::make_shared<Recorder>();
    api.handle(
        http("POST", "/v1/completions", Json{{"prompt", "The sea"}, {"n", 2}, {"stream", stream}}.dump()), r);
    r->wait();
    EXPECT_EQ(r->status(), stream ? 200 : 504);
    EXPECT_THAT(r->body(), HasSubstr("\"code\":\"timeout\""));
  }
}

TEST(ApiLimits, AModelWithoutATemplateSaysSo) {
  Service service(served(false), {});
  Api api(service, {});
  const auto r = std::make_shared<Recorder>();
  api.handle(http("POST", "/v1/chat/completions", Json{{"messages", kHello}}.dump()), r);
  r->wait();
  EXPECT_EQ(r->status(), 400);
  EXPECT_EQ(r->json()["error"]["code"], "no_chat_template");
}

}  // namespace
}  // namespace awq::server
