// Private to the commands that send requests: owners of libcurl's handles.
#pragma once
#include <curl/curl.h>

#include <memory>
#include <string>

namespace awq::cli {

struct CurlDelete {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
struct CurlEasyDelete {
  void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};
struct CurlMultiDelete {
  void operator()(CURLM* multi) const { curl_multi_cleanup(multi); }
};
using CurlList = std::unique_ptr<curl_slist, CurlDelete>;
using CurlEasy = std::unique_ptr<CURL, CurlEasyDelete>;
using CurlMulti = std::unique_ptr<CURLM, CurlMultiDelete>;

// Once for the process; kIo where libcurl cannot.
void start_curl();
// Of a JSON body; key: a bearer token unless empty.
CurlList json_headers(const std::string& key);

}  // namespace awq::cli
