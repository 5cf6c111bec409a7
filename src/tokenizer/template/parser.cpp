#include "tokenizer/template/parser.h"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "tokenizer/template/functions.h"

namespace awq::chat_template {

namespace {
constexpr int kMaxNesting = 100;  // of brackets and blocks in the template's text
constexpr int kMaxHeight = 250;   // of an expression: how far its evaluation recurses
}  // namespace

using TokenKind = Token::Kind;

Parser::Nested::Nested(Parser& parser) : parser_(parser) {
  if (++parser_.depth_ > kMaxNesting) {
    --parser_.depth_;
    parser_.fail_here(fmt::format("expected at most {} levels of nesting, got more", kMaxNesting));
  }
}

bool Parser::skip_operator(std::string_view text) {
  const bool there = is_operator(text);
  if (there) next();
  return there;
}

bool Parser::skip_name(std::string_view text) {
  const bool there = is_name(text);
  if (there) next();
  return there;
}

std::string Parser::found() const {
  switch (current().kind) {
    case TokenKind::kEnd:
      return "the end of the template";
    case TokenKind::kBlockEnd:
      return "'%}'";
    case TokenKind::kOutputEnd:
      return "'}}'";
    case TokenKind::kString:
      return "a string";
    default:
      return "'" + current().text + "'";
  }
}

void Parser::expect_operator(std::string_view text) {
  if (!skip_operator(text)) fail_here(fmt::format("expected '{}', got {}", text, found()));
}

std::string Parser::expect_name(const char* what) {
  if (!is(TokenKind::kName)) fail_here(fmt::format("expected {}, got {}", what, found()));
  return next().text;
}

void Parser::expect(TokenKind kind, const char* what) {
  if (!is(kind)) fail_here(fmt::format("expected {}, got {}", what, found()));
  next();
}

ExprPtr Parser::make(Expr::Kind kind, int line) const {
  auto e = std::make_unique<Expr>();
  e->kind = kind;
  e->line = line;
  return e;
}

ExprPtr Parser::grown(ExprPtr e) const {
  for (const auto& part : e->parts)
    if (part) e->height = std::max(e->height, part->height + 1);
  for (const auto& arg : e->args) e->height = std::max(e->height, arg.value->height + 1);
  if (e->height > kMaxHeight)
    fail_at(e->line, fmt::format("expected expressions of at most {} levels, got more", kMaxHeight));
  return e;
}

ExprPtr Parser::binary(ExprPtr left, int op, ExprPtr right, int line) const {
  auto e = make(Expr::Kind::kBinary, line);
  e->op = op;
  e->parts.push_back(std::move(left));
  e->parts.push_back(std::move(right));
  return grown(std::move(e));
}

ExprPtr Parser::expression(bool with_condition) {
  const Nested nested(*this);
  return with_condition ? condition() : either();
}

ExprPtr Parser::condition() {
  const int line = current().line;
  ExprPtr e = either();
  while (skip_name("if")) {
    ++conditional_;
    auto choice = make(Expr::Kind::kCondition, line);
    ExprPtr test = either();
    ExprPtr otherwise;
    if (skip_name("else")) {
      const Nested nested(*this);
      otherwise = condition();
    }
    --conditional_;
    choice->parts.push_back(std::move(test));
    choice->parts.push_back(std::move(e));
    choice->parts.push_back(std::move(otherwise));
    e = grown(std::move(choice));
  }
  return e;
}

ExprPtr Parser::either() {
  ExprPtr e = both();
  while (is_name("or")) {
    auto node = make(Expr::Kind::kOr, next().line);
    node->parts.push_back(std::move(e));
    node->parts.push_back(both());
    e = grown(std::move(node));
  }
  return e;
}

ExprPtr Parser::both() {
  ExprPtr e = negation();
  while (is_name("and")) {
    auto node = make(Expr::Kind::kAnd, next().line);
    node->parts.push_back(std::move(e));
    node->parts.push_back(negation());
    e = grown(std::move(node));
  }
  return e;
}

ExprPtr Parser::negation() {
  if (!is_name("not")) return comparison();
  const Nested nested(*this);
  auto node = make(Expr::Kind::kNot, next().line);
  node->parts.push_back(negation());
  return grown(std::move(node));
}

ExprPtr Parser::comparison() {
  constexpr std::pair<std::string_view, Op> kOps[] = {{"==", kEq}, {"!=", kNe}, {"<", kLt},
                                                      {"<=", kLe}, {">", kGt},  {">=", kGe}};
  auto node = make(Expr::Kind::kCompare, current().line);
  node->parts.push_back(sum());
  for (;;) {
    const auto* op =
        std::find_if(std::begin(kOps), std::end(kOps), [&](const auto& o) { return is_operator(o.first); });
    if (op != std::end(kOps)) {
      next();
      node->ops.push_back(op->second);
    } else if (skip_name("in")) {
      node->ops.push_back(kIn);
    } else if (is_name("not") && tokens_[at_ + 1].kind == TokenKind::kName && tokens_[at_ + 1].text == "in") {
      next(), next();
      node->ops.push_back(kNotIn);
    } else {
      break;
    }
    node->parts.push_back(sum());
  }
  return node->ops.empty() ? std::move(node->parts[0]) : grown(std::move(node));
}

ExprPtr Parser::sum() {
  ExprPtr e = concatenation();
  while (is_operator("+") || is_operator("-")) {
    const Token& token = next();
    const int op = token.text == "+" ? kAdd : kSub, line = token.line;
    e = binary(std::move(e), op, concatenation(), line);
  }
  return e;
}

ExprPtr Parser::concatenation() {
  auto node = make(Expr::Kind::kConcat, current().line);
  node->parts.push_back(product());
  while (skip_operator("~")) node->parts.push_back(product());
  return node->parts.size() == 1 ? std::move(node->parts[0]) : grown(std::move(node));
}

ExprPtr Parser::product() {
  ExprPtr e = power();
  while (is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%")) {
    const Token& token = next();
    const int op = token.text == "*"    ? kMul
                   : token.text == "/"  ? kDiv
                   : token.text == "//" ? kFloorDiv
                                        : kMod;
    const int line = token.line;
    e = binary(std::move(e), op, power(), line);
  }
  return e;
}

ExprPtr Parser::power() {
  ExprPtr e = unary();
  while (is_operator("**")) {
    const int line = next().line;
    e = binary(std::move(e), kPow, unary(), line);
  }
  return e;
}

ExprPtr Parser::unary(bool with_filter) {
  ExprPtr e;
  if (is_operator("-") || is_operator("+")) {
    const Nested nested(*this);
    const Token& token = next();
    auto node = make(token.text == "-" ? Expr::Kind::kNegate : Expr::Kind::kPlus, token.line);
    node->parts.push_back(unary(false));
    e = grown(std::move(node));
  } else {
    e = primary();
  }
  e = postfix(std::move(e));
  return with_filter ? filters_and_tests(std::move(e)) : std::move(e);
}

ExprPtr Parser::primary() {
  const Token& token = current();
  auto e = make(Expr::Kind::kConst, token.line);
  switch (token.kind) {
    case TokenKind::kName:
      next();
      if (token.text == "true" || token.text == "True" || token.text == "false" || token.text == "False") {
        e->value = Value::boolean(token.text[0] == 't' || token.text[0] == 'T');
      } else if (token.text == "none" || token.text == "None") {
        e->value = Value::none();
      } else {
        e->kind = Expr::Kind::kName;
        e->name = token.text;
        program_.reads.push_back(token.text);
      }
      return e;
    case TokenKind::kString: {
      std::string text;
      while (is(TokenKind::kString)) text += next().text;  // neighbours are joined
      e->value = literal_string(std::move(text));
      return e;
    }
    case TokenKind::kInteger: {
      const std::string& digits = next().text;
      const int base = digits.size() < 2 || digits[0] != '0' ? 10
                       : (digits[1] | 32) == 'x'             ? 16
                       : (digits[1] | 32) == 'o'             ? 8
                       : (digits[1] | 32) == 'b'             ? 2
                                                             : 10;
      errno = 0;
      e->value = Value::integer(std::strtoll(digits.c_str() + (base == 10 ? 0 : 2), nullptr, base));
      if (errno == ERANGE) fail_at(e->line, "expected an integer of 64 bits, got " + digits.substr(0, 40));
      return e;
    }
    case TokenKind::kFloat:
      e->value = Value::real(std::strtod(next().text.c_str(), nullptr));
      return e;
    case TokenKind::kOperator:
      if (token.text == "(") {
        next();
        ExprPtr inner = tuple(true, true);
        expect_operator(")");
        return inner;
      }
      if (token.text == "[") return list();
      if (token.text == "{") return dict();
      [[fallthrough]];
    default:
      fail_here("expected an expression, got " + found());
  }
}

ExprPtr Parser::list() {
  auto e = make(Expr::Kind::kList, next().line);
  while (!is_operator("]")) {
    if (!e->parts.empty()) expect_operator(",");
    if (is_operator("]")) break;
    e->parts.push_back(expression());
  }
  expect_operator("]");
  return grown(std::move(e));
}

ExprPtr Parser::dict() {
  auto e = make(Expr::Kind::kDict, next().line);
  while (!is_operator("}")) {
    if (!e->parts.empty()) expect_operator(",");
    if (is_operator("}")) break;
    e->parts.push_back(expression());
    expect_operator(":");
    e->parts.push_back(expression());
  }
  expect_operator("}");
  return grown(std::move(e));
}

ExprPtr Parser::tuple(bool with_condition, bool parenthesised, bool ends_at_recursive) {
  auto e = make(Expr::Kind::kTuple, current().line);
  bool is_tuple = false;
  for (;;) {
    if (!e->parts.empty()) {
      expect_operator(",");
      is_tuple = true;
    }
    if (is(TokenKind::kOutputEnd) || is(TokenKind::kBlockEnd) || is_operator(")") ||
        (ends_at_recursive && is_name("recursive")))
      break;
    e->parts.push_back(expression(with_condition));
    if (!is_operator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!e->parts.empty()) return std::move(e->parts[0]);
    if (!parenthesised) fail_here("expected an expression, got " + found());
  }
  return grown(std::move(e));
}

ExprPtr Parser::postfix(ExprPtr e) {
  for (;;) {
    if (is_operator(".") || is_operator("["))
      e = subscript(std::move(e));
    else if (is_operator("("))
      e = call(std::move(e));
    else
      return e;
  }
}

ExprPtr Parser::subscript(ExprPtr e) {
  const Token& token = next();
  if (token.text == ".") {
    auto node = make(Expr::Kind::kAttribute, token.line);
    if (is(TokenKind::kInteger)) {
      node->kind = Expr::Kind::kItem;
      node->parts.push_back(std::move(e));
      node->parts.push_back(primary());
      return grown(std::move(node));
    }
    node->name = expect_name("a name or number after '.'");
    node->parts.push_back(std::move(e));
    return grown(std::move(node));
  }
  auto node = make(Expr::Kind::kItem, token.line);
  auto keys = make(Expr::Kind::kTuple, token.line);
  while (!is_operator("]")) {
    if (!keys->parts.empty()) expect_operator(",");
    keys->parts.push_back(subscribed());
  }
  expect_operator("]");
  if (keys->parts.empty()) fail_at(token.line, "expected a subscript, got ']'");
  node->parts.push_back(std::move(e));
  node->parts.push_back(keys->parts.size() == 1 ? std::move(keys->parts[0]) : grown(std::move(keys)));
  return grown(std::move(node));
}

// An index, or a slice start:stop:step whose parts may be left out.
ExprPtr Parser::subscribed() {
  auto slice = make(Expr::Kind::kSlice, current().line);
  slice->parts.resize(3);
  if (!is_operator(":")) {
    ExprPtr first = expression();
    if (!is_operator(":")) return first;
    slice->parts[0] = std::move(first);
  }
  next();
  if (!is_operator(":") && !is_operator("]") && !is_operator(",")) slice->parts[1] = expression();
  if (skip_operator(":") && !is_operator("]") && !is_operator(",")) slice->parts[2] = expression();
  return grown(std::move(slice));
}

ExprPtr Parser::filters_and_tests(ExprPtr e) {
  for (;;) {
    if (is_operator("|"))
      e = filters(std::move(e), false);
    else if (is_name("is"))
      e = test(std::move(e));
    else if (is_operator("("))
      e = call(std::move(e));
    else
      return e;
  }
}

ExprPtr Parser::filters(ExprPtr e, bool inline_start) {
  while (inline_start || is_operator("|")) {
    if (!inline_start) next();
    inline_start = false;
    auto node = make(Expr::Kind::kFilter, current().line);
    node->name = expect_name("the name of a filter");
    while (skip_operator(".")) node->name += "." + expect_name("the name of a filter");
    node->op = find_filter(node->name);
    if (node->op < 0 && conditional_ == 0)
      throw SyntaxFailure{node->line, fmt::format("there is no filter '{}'", node->name), true};
    if (is_operator("(")) node->args = arguments();
    node->parts.push_back(std::move(e));
    e = grown(std::move(node));
  }
  return e;
}

ExprPtr Parser::test(ExprPtr e) {
  const int line = next().line;
  const bool negated = skip_name("not");
  auto node = make(Expr::Kind::kTest, line);
  node->name = expect_name("the name of a test");
  while (skip_operator(".")) node->name += "." + expect_name("the name of a test");
  node->op = find_test(node->name);
  if (node->op < 0 && conditional_ == 0)
    throw SyntaxFailure{line, fmt::format("there is no test '{}'", node->name), true};
  node->parts.push_back(std::move(e));
  const bool operand = is(TokenKind::kName) || is(TokenKind::kString) || is(TokenKind::kInteger) ||
                       is(TokenKind::kFloat) || is_operator("[") || is_operator("{");
  if (is_operator("(")) {
    node->args = arguments();
  } else if (operand && !is_name("else") && !is_name("or") && !is_name("and")) {
    if (is_name("is")) fail_here("tests cannot be chained with 'is'");
    Argument argument;
    argument.value = postfix(primary());
    node->args.push_back(std::move(argument));
  }
  e = grown(std::move(node));
  if (!negated) return e;
  auto negation_node = make(Expr::Kind::kNot, line);
  negation_node->parts.push_back(std::move(e));
  return grown(std::move(negation_node));
}

ExprPtr Parser::call(ExprPtr e) {
  auto node = make(Expr::Kind::kCall, current().line);
  node->parts.push_back(std::move(e));
  node->args = arguments();
  return grown(std::move(node));
}

std::vector<Argument> Parser::arguments() {
  std::vector<Argument> out;
  expect_operator("(");
  bool named = false, star = false, double_star = false;
  while (!is_operator(")")) {
    if (!out.empty()) {
      expect_operator(",");
      if (is_operator(")")) break;
    }
    Argument argument;
    const int line = current().line;
    const bool assigns =
        is(TokenKind::kName) && tokens_[at_ + 1].kind == TokenKind::kOperator && tokens_[at_ + 1].text == "=";
    bool in_order = true;
    if (skip_operator("**")) {
      in_order = !double_star;
      double_star = true;
      argument.kind = Argument::Kind::kDoubleStar;
    } else if (skip_operator("*")) {
      in_order = !star && !double_star;
      star = true;
      argument.kind = Argument::Kind::kStar;
    } else if (assigns) {
      in_order = !double_star;
      named = true;
      argument.kind = Argument::Kind::kNamed;
      argument.name = next().text;
      next();
    } else {
      in_order = !named && !star && !double_star;
    }
    if (!in_order) fail_at(line, "invalid syntax for function call expression");
    argument.value = expression();
    out.push_back(std::move(argument));
  }
  expect_operator(")");
  return out;
}

}  // namespace awq::chat_template
