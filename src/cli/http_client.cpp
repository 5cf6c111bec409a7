#include "cli/http_client.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>

#include "base/error.h"
#include "base/printable.h"
#include "base/progress.h"
#include "base/version.h"
#include "cli/curl.h"

namespace awq::cli {
namespace {

using namespace std::chrono_literals;

constexpr size_t kLargestAnswer = 16 << 20;
constexpr double kLongestPause = 60;

struct Tried {
  HttpAnswer answer;
  double retry_after = -1;  // seconds; -1: not said
  std::string failure;      // of the connection
};

size_t take(char* data, size_t size, size_t count, void* to) {
  auto& body = *static_cast<std::string*>(to);
  if (body.size() + size * count > kLargestAnswer) return 0;
  body.append(data, size * count);
  return size * count;
}

int check(void*, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  try {
    check_cancelled();
  } catch (const Error&) {
    return 1;
  }
  return 0;
}

Tried try_once(CURL* curl, const JsonRequest& request, const std::string* body) {
  Tried tried;
  const CurlList headers = json_headers(request.key);
  char reason[CURL_ERROR_SIZE] = "";
  const std::string agent = fmt::format("awq/{}", kVersion);
  curl_easy_setopt(curl, CURLOPT_URL, request.url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
  if (body != nullptr) {
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body->size()));
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body->c_str());
  }
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, static_cast<long>(request.timeout_seconds * 1000));
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 30L);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &tried.answer.body);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, check);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, reason);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, agent.c_str());
  const CURLcode code = curl_easy_perform(curl);
  check_cancelled();
  if (code != CURLE_OK) {
    tried.failure = *reason != '\0' ? reason : curl_easy_strerror(code);
    return tried;
  }
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &tried.answer.status);
  curl_off_t seconds = 0;
  if (curl_easy_getinfo(curl, CURLINFO_RETRY_AFTER, &seconds) == CURLE_OK && seconds > 0) tried.retry_after = static_cast<double>(seconds);
  return tried;
}

void pause(double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < end) {
    check_cancelled();
    std::this_thread::sleep_for(std::min<std::chrono::duration<double>>(200ms, end - std::chrono::steady_clock::now()));
  }
}

}  // namespace

void start_curl() {
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (started != CURLE_OK) fail(Code::kIo, "libcurl could not be started: {}", curl_easy_strerror(started));
}

CurlList json_headers(const std::string& key) {
  curl_slist* list = curl_slist_append(nullptr, "Content-Type: application/json");
  if (!key.empty()) list = curl_slist_append(list, ("Authorization: Bearer " + key).c_str());
  return CurlList(list);
}

HttpAnswer http_json(const JsonRequest& request, const std::string* body) {
  start_curl();
  const CurlEasy curl(curl_easy_init());
  if (!curl) fail(Code::kNoMemory, "{}: libcurl: no memory for a request", request.url);
  double wait = 0.5;
  for (int attempt = 1;; ++attempt, wait *= 2) {
    Tried tried = try_once(curl.get(), request, body);
    const long status = tried.answer.status;
    const bool passing = status == 0 || status == 429 || status >= 500;
    if (!passing || attempt >= request.tries) {
      if (status == 0) fail(Code::kIo, "{}: expected an answer, got none: {}", request.url, tried.failure);
      return std::move(tried.answer);
    }
    pause(std::min(kLongestPause, tried.retry_after > 0 ? tried.retry_after : wait));
    curl_easy_reset(curl.get());
  }
}

std::string post_json(const JsonRequest& request, const std::string& body) {
  HttpAnswer answer = http_json(request, &body);
  if (answer.status != 200) fail(Code::kIo, "{}: expected status 200, got {}: {}", request.url, answer.status, printable(answer.body, 200));
  return std::move(answer.body);
}

}  // namespace awq::cli
