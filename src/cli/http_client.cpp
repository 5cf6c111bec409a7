#include "cli/http_client.h"

#include <curl/curl.h>
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>

#include "base/error.h"
#include "base/printable.h"
#include "base/progress.h"
#include "base/version.h"

namespace awq::cli {
namespace {

using namespace std::chrono_literals;

constexpr size_t kLargestAnswer = 16 << 20;
constexpr double kLongestPause = 60;

struct Answer {
  long status = 0;
  double retry_after = -1;  // seconds; -1: not said
  std::string body, failure;  // failure: of the connection
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

Answer post_once(CURL* curl, const JsonPost& post, const std::string& body) {
  Answer answer;
  curl_slist* list = curl_slist_append(nullptr, "Content-Type: application/json");
  if (!post.key.empty()) list = curl_slist_append(list, ("Authorization: Bearer " + post.key).c_str());
  const std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(list, curl_slist_free_all);
  char reason[CURL_ERROR_SIZE] = "";
  const std::string agent = fmt::format("awq/{}", kVersion);
  curl_easy_setopt(curl, CURLOPT_URL, post.url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
  curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body.c_str());
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, static_cast<long>(post.timeout_seconds * 1000));
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 30L);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer.body);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, check);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, reason);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, agent.c_str());
  const CURLcode code = curl_easy_perform(curl);
  check_cancelled();
  if (code != CURLE_OK) {
    answer.failure = *reason != '\0' ? reason : curl_easy_strerror(code);
    return answer;
  }
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer.status);
  curl_off_t seconds = 0;
  if (curl_easy_getinfo(curl, CURLINFO_RETRY_AFTER, &seconds) == CURLE_OK && seconds > 0) answer.retry_after = static_cast<double>(seconds);
  return answer;
}

void pause(double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < end) {
    check_cancelled();
    std::this_thread::sleep_for(std::min<std::chrono::duration<double>>(200ms, end - std::chrono::steady_clock::now()));
  }
}

}  // namespace

std::string post_json(const JsonPost& post, const std::string& body) {
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(started == CURLE_OK ? curl_easy_init() : nullptr, curl_easy_cleanup);
  if (!curl) fail(Code::kIo, "{}: libcurl could not be started", post.url);
  double wait = 0.5;
  for (int attempt = 1;; ++attempt, wait *= 2) {
    const Answer answer = post_once(curl.get(), post, body);
    if (answer.status == 200) return answer.body;
    const bool passing = answer.status == 0 || answer.status == 429 || answer.status >= 500;
    if (!passing || attempt >= post.tries) {
      if (answer.status == 0) fail(Code::kIo, "{}: expected an answer, got none: {}", post.url, answer.failure);
      fail(Code::kIo, "{}: expected status 200, got {}: {}", post.url, answer.status, printable(answer.body, 200));
    }
    pause(std::min(kLongestPause, answer.retry_after > 0 ? answer.retry_after : wait));
    curl_easy_reset(curl.get());
  }
}

}  // namespace awq::cli
