#include "cli/serve_load.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "base/printable.h"
#include "base/progress.h"
#include "base/system.h"
#include "cli/curl.h"
#include "cli/http_client.h"
#include "eval/quantile.h"

namespace awq::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kLongestLine = 4 << 20, kKeptBody = 2000;
constexpr double kModelsTimeout = 30;  // seconds

// A request under way: reads server-sent events as they come.
class Transfer {
 public:
  Transfer(const LoadOptions& options, const curl_slist* headers, std::string body, double start, double planned)
      : easy_(curl_easy_init()), body_(std::move(body)), start_(start) {
    if (!easy_) fail(Code::kNoMemory, "libcurl: no memory for a request");
    out.planned = planned;
    out.sent = now();
    CURL* c = easy_.get();
    const std::string url = options.url + (options.chat ? "/chat/completions" : "/completions");
    curl_easy_setopt(c, CURLOPT_URL, url.c_str());
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body_.size()));
    curl_easy_setopt(c, CURLOPT_POSTFIELDS, body_.c_str());
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, static_cast<long>(options.timeout_seconds * 1000));
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, &Transfer::on_data);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, this);
    curl_easy_setopt(c, CURLOPT_PRIVATE, this);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, reason_);
  }
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

  CURL* easy() const { return easy_.get(); }

  void finish(CURLcode code) {
    long status = 0;
    curl_easy_getinfo(easy_.get(), CURLINFO_RESPONSE_CODE, &status);
    if (code != CURLE_OK)
      out.error = *reason_ != '\0' ? reason_ : curl_easy_strerror(code);
    else if (status != 200)
      out.error = fmt::format("status {}: {}", status, printable(kept_, 200));
    else if (!done_ && out.error.empty())
      out.error = "the stream ended without [DONE]";
    if (out.tokens == 0) out.tokens = static_cast<int64_t>(pieces_);
    if (out.last < 0) out.last = now();
  }

  LoadedRequest out;

 private:
  double now() const { return now_seconds() - start_; }

  static size_t on_data(char* data, size_t size, size_t count, void* self) {
    return static_cast<Transfer*>(self)->take(std::string_view(data, size * count)) ? size * count : 0;
  }

  bool take(std::string_view data) {
    if (kept_.size() < kKeptBody) kept_.append(data.substr(0, kKeptBody - kept_.size()));
    line_ += data;
    size_t begin = 0;
    for (size_t end; (end = line_.find('\n', begin)) != std::string::npos; begin = end + 1) event(std::string_view(line_).substr(begin, end - begin));
    line_.erase(0, begin);
    return line_.size() < kLongestLine;
  }

  void event(std::string_view line) {
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.starts_with("data:")) return;
    line.remove_prefix(line.starts_with("data: ") ? 6 : 5);
    if (line == "[DONE]") {
      done_ = true;
      return;
    }
    const Json json = Json::parse(line, nullptr, false);
    if (!json.is_object()) return;
    if (const auto error = json.find("error"); error != json.end()) out.error = printable(error->dump(), 200);
    if (const auto usage = json.find("usage"); usage != json.end() && usage->is_object()) {
      out.tokens = usage->value("completion_tokens", out.tokens);
      out.prompt_tokens = usage->value("prompt_tokens", out.prompt_tokens);
    }
    if (!has_text(json)) return;
    const double at = now();
    if (out.first < 0)
      out.first = at;
    else
      out.gaps.push_back(at - out.last);
    out.last = at;
    ++pieces_;
  }

  static bool has_text(const Json& json) {
    const auto choices = json.find("choices");
    if (choices == json.end() || !choices->is_array() || choices->empty()) return false;
    const Json& choice = choices->front();
    const auto text_in = [](const Json& object, const char* key) {
      const auto found = object.find(key);
      return found != object.end() && found->is_string() && !found->get_ref<const std::string&>().empty();
    };
    if (text_in(choice, "text")) return true;
    const auto delta = choice.find("delta");
    return delta != choice.end() && delta->is_object() && (text_in(*delta, "content") || text_in(*delta, "reasoning_content"));
  }

  CurlEasy easy_;
  std::string body_, line_, kept_;
  double start_;
  bool done_ = false;
  size_t pieces_ = 0;
  char reason_[CURL_ERROR_SIZE] = "";
};

std::string body_of(const LoadOptions& o, int64_t number) {
  // The seed and the number come first: no two runs, and no two requests of a run, begin alike.
  const std::string prompt = fmt::format("{:x}-{}: {}", o.seed, number, o.prompts[static_cast<size_t>(number) % o.prompts.size()]);
  Json body = {{"model", o.model}, {"max_tokens", o.max_tokens}, {"temperature", o.temperature}, {"stream", true}, {"stream_options", {{"include_usage", true}}}};
  if (o.ignore_eos) body["ignore_eos"] = true;
  if (o.chat)
    body["messages"] = Json::array({{{"role", "user"}, {"content", prompt}}});
  else
    body["prompt"] = prompt;
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string first_model(const LoadOptions& o) {
  const HttpAnswer answer = http_json({o.url + "/models", o.key, kModelsTimeout, 1}, nullptr);
  const Json json = Json::parse(answer.body, nullptr, false);
  const Json::json_pointer id("/data/0/id");
  if (answer.status != 200 || !json.is_object() || !json.contains(id) || !json.at(id).is_string())
    fail(Code::kIo, "{}/models: expected a list of models, got status {}: {}", o.url, answer.status, printable(answer.body, 200));
  return json.at(id).get<std::string>();
}

LevelResult run_level(const LoadOptions& o, const Level& level, const std::function<void(int64_t)>& progress) {
  start_curl();
  const CurlMulti multi(curl_multi_init());
  const CurlList list = json_headers(o.key);
  curl_multi_setopt(multi.get(), CURLMOPT_MAXCONNECTS, static_cast<long>(std::max<int64_t>(64, 2 * level.clients)));
  LevelResult result{level, 0, {}};
  std::vector<double> arrivals;
  if (level.clients == 0) {
    std::mt19937_64 rng(o.seed);
    std::exponential_distribution<double> wait(level.rate);
    double at = 0;
    for (int64_t i = 0; i < level.requests; ++i) arrivals.push_back(at), at += wait(rng);
  }
  std::vector<std::unique_ptr<Transfer>> running;
  const double start = now_seconds();
  int64_t sent = 0;
  const auto send = [&](double planned) {
    running.push_back(std::make_unique<Transfer>(o, list.get(), body_of(o, sent++), start, planned));
    curl_multi_add_handle(multi.get(), running.back()->easy());
  };
  while (static_cast<int64_t>(result.requests.size()) < level.requests) {
    check_cancelled();
    const double now = now_seconds() - start;
    if (level.clients > 0) {
      while (sent < level.requests && static_cast<int64_t>(running.size()) < level.clients) send(now_seconds() - start);
    } else {
      while (sent < level.requests && arrivals[static_cast<size_t>(sent)] <= now) send(arrivals[static_cast<size_t>(sent)]);
    }
    int active = 0;
    curl_multi_perform(multi.get(), &active);
    int left = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi.get(), &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      Transfer* transfer = nullptr;
      curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
      transfer->finish(message->data.result);
      curl_multi_remove_handle(multi.get(), transfer->easy());
      result.requests.push_back(std::move(transfer->out));
      std::erase_if(running, [&](const auto& t) { return t.get() == transfer; });
      if (progress) progress(static_cast<int64_t>(result.requests.size()));
    }
    double wait = 0.2;
    if (level.clients == 0 && sent < level.requests) wait = std::clamp(arrivals[static_cast<size_t>(sent)] - (now_seconds() - start), 0.0, 0.2);
    if (level.clients > 0 && sent < level.requests && static_cast<int64_t>(running.size()) < level.clients) wait = 0;
    curl_multi_poll(multi.get(), nullptr, 0, static_cast<int>(std::ceil(wait * 1000)), nullptr);
  }
  result.seconds = now_seconds() - start;
  return result;
}

Quantiles quantiles(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return {quantile(values, 0.5), quantile(values, 0.95), quantile(values, 0.99), values.empty() ? 0 : sum / static_cast<double>(values.size())};
}

LevelSummary summarize(const LevelResult& result) {
  LevelSummary out;
  std::vector<double> first, between, whole;
  for (const LoadedRequest& r : result.requests) {
    if (!r.error.empty()) {
      ++out.failed;
      if (out.first_error.empty()) out.first_error = r.error;
      continue;
    }
    ++out.done;
    out.tokens += r.tokens;
    out.prompt_tokens += r.prompt_tokens;
    if (r.first >= 0) first.push_back(r.first - r.planned);
    between.insert(between.end(), r.gaps.begin(), r.gaps.end());
    whole.push_back(r.last - r.planned);
  }
  if (result.seconds > 0) {
    out.tokens_per_second = static_cast<double>(out.tokens) / result.seconds;
    out.requests_per_second = static_cast<double>(out.done) / result.seconds;
  }
  out.first_token = quantiles(first);
  out.between = quantiles(between);
  out.whole = quantiles(whole);
  return out;
}

}  // namespace awq::cli
