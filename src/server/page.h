// The web page at /: files compiled in (src/server/page), served under a policy that lets the browser load
// and reach nothing else.
#pragma once
#include <memory>
#include <span>
#include <string_view>

#include "server/http_server.h"

namespace awq::server {

struct PageFile {
  std::string_view name;  // "index.html"
  std::string_view text;
};
std::span<const PageFile> page_files();

// The file of this path ("/" is index.html); false when there is none.
bool send_page(const HttpHead& head, const std::shared_ptr<HttpReply>& reply);

}  // namespace awq::server
