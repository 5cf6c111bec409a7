// Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}}.
#pragma once
#include <string>

#include "server/http_parser.h"

namespace awq::server {

struct ApiError {
  int status = 400;
  std::string type = "invalid_request_error";
  std::string message;
  std::string param = {};  // the field at fault; empty: null
  std::string code = {};   // "model_not_found", "context_length_exceeded", ...; empty: null
};

std::string error_body(const ApiError& error);
// Content-Type and what every answer carries.
HttpFields json_fields();

}  // namespace awq::server
