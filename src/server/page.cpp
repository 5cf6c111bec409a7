#include "server/page.h"

#include "base/sha256.h"

namespace awq::server {
namespace {

const char* type_of(std::string_view name) {
  return name.ends_with(".html")  ? "text/html; charset=utf-8"
         : name.ends_with(".css") ? "text/css; charset=utf-8"
                                  : "text/javascript; charset=utf-8";
}

HttpFields page_fields(std::string_view name, const std::string& tag) {
  return {{"Content-Type", type_of(name)},
          {"ETag", tag},
          {"Cache-Control", "no-cache"},
          {"Content-Security-Policy",
           "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
           "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"},
          {"Cross-Origin-Opener-Policy", "same-origin"},
          {"Cross-Origin-Resource-Policy", "same-origin"},
          {"Permissions-Policy", "camera=(), geolocation=(), microphone=()"},
          {"Referrer-Policy", "no-referrer"},
          {"X-Content-Type-Options", "nosniff"},
          {"X-Frame-Options", "DENY"}};
}

}  // namespace

bool send_page(const HttpHead& head, const std::shared_ptr<HttpReply>& reply) {
  const std::string_view name =
      head.path == "/" ? std::string_view("index.html") : std::string_view(head.path).substr(1);
  for (const PageFile& file : page_files()) {
    if (file.name != name || head.path == "/index.html") continue;
    const std::string tag = "\"" + sha256_hex(file.text).substr(0, 32) + "\"";
    if (list_holds(head.field("if-none-match"), tag)) {
      reply->send(304, page_fields(file.name, tag), "");
    } else {
      reply->send(200, page_fields(file.name, tag), std::string(file.text));
    }
    return true;
  }
  return false;
}

}  // namespace awq::server
