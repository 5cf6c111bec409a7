// The routes, and what guards them all: Host, Origin and key are checked before a request is looked at any
// further.
#pragma once
#include <memory>
#include <span>
#include <string_view>

#include "server/auth.h"
#include "server/http_server.h"
#include "server/service.h"

namespace awq::server {

struct Route {
  std::string_view method, path;
};

class Api {
 public:
  Api(Service& service, AccessRules rules) : service_(service), rules_(std::move(rules)) {}
  void handle(HttpRequest request, const std::shared_ptr<HttpReply>& reply);
  static std::span<const Route> routes();

 private:
  void dispatch(HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  // False: the answer has been sent.
  bool admit(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply, HttpFields& cors) const;
  void complete(HttpRequest& request, const std::shared_ptr<HttpReply>& reply, bool chat);
  void tokenize(HttpRequest& request, const std::shared_ptr<HttpReply>& reply, bool back);
  void models(std::string_view name, const std::shared_ptr<HttpReply>& reply) const;
  void check_model(const std::string& name) const;
  std::vector<int32_t> encode(const std::string& text, bool special) const;

  Service& service_;
  AccessRules rules_;
};

}  // namespace awq::server
