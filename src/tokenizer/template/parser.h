// Builds jinja2's nodes from tokens (parser.py): expressions here, statements in parser_statements.cpp.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/template/ast.h"
#include "tokenizer/template/lexer.h"

namespace awq::chat_template {

class Parser {
 public:
  Parser(std::vector<Token> tokens, Program& program) : tokens_(std::move(tokens)), program_(program) {}
  void parse();

 private:
  // One level of nesting of the template's text; bounds the parser's own recursion.
  class Nested {
   public:
    explicit Nested(Parser& parser);
    ~Nested() { --parser_.depth_; }

   private:
    Parser& parser_;
  };

  const Token& current() const { return tokens_[at_]; }
  const Token& next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool is(Token::Kind kind) const { return current().kind == kind; }
  bool is_operator(std::string_view text) const {
    return is(Token::Kind::kOperator) && current().text == text;
  }
  bool is_name(std::string_view text) const { return is(Token::Kind::kName) && current().text == text; }
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);
  void expect_operator(std::string_view text);
  std::string expect_name(const char* what);
  void expect(Token::Kind kind, const char* what);
  std::string found() const;
  [[noreturn]] void fail_here(std::string message) const { fail_at(current().line, std::move(message)); }
  [[noreturn]] static void fail_at(int line, std::string message) {
    throw SyntaxFailure{line, std::move(message)};
  }

  ExprPtr make(Expr::Kind kind, int line) const;
  ExprPtr grown(ExprPtr e) const;  // with its height set, or refused

  ExprPtr expression(bool with_condition = true);
  ExprPtr condition();
  ExprPtr either();
  ExprPtr both();
  ExprPtr negation();
  ExprPtr comparison();
  ExprPtr sum();
  ExprPtr concatenation();
  ExprPtr product();
  ExprPtr power();
  ExprPtr unary(bool with_filter = true);
  ExprPtr primary();
  ExprPtr list();
  ExprPtr dict();
  ExprPtr tuple(bool with_condition, bool parenthesised, bool ends_at_recursive = false);
  ExprPtr postfix(ExprPtr e);
  ExprPtr subscript(ExprPtr e);
  ExprPtr subscribed();
  ExprPtr filters_and_tests(ExprPtr e);
  ExprPtr filters(ExprPtr e, bool inline_start);
  ExprPtr test(ExprPtr e);
  ExprPtr call(ExprPtr e);
  std::vector<Argument> arguments();
  ExprPtr binary(ExprPtr left, int op, ExprPtr right, int line) const;

  Body statements(const std::vector<std::string_view>& ends);
  std::unique_ptr<Stmt> statement();
  std::unique_ptr<Stmt> output();
  std::unique_ptr<Stmt> make_statement(Stmt::Kind kind) const;
  Body body(const std::vector<std::string_view>& ends);  // the end's name is current
  Body body_to(std::string_view end);                    // and is taken
  std::unique_ptr<Stmt> parse_if();
  std::unique_ptr<Stmt> parse_for();
  std::unique_ptr<Stmt> parse_set();
  std::unique_ptr<Stmt> parse_macro();
  std::unique_ptr<Stmt> parse_call();
  std::unique_ptr<Stmt> parse_filter_block();
  std::unique_ptr<Stmt> parse_with();
  std::unique_ptr<Stmt> parse_generation();
  std::unique_ptr<Stmt> parse_jump(Stmt::Kind kind);
  void signature(Stmt& macro);
  void macro_body(Stmt& macro, std::string_view end);
  bool reads_since(size_t mark, std::string_view name) const;
  Target target(bool with_member, bool tuples);
  Target simple_target(bool with_member);

  std::vector<Token> tokens_;
  Program& program_;
  size_t at_ = 0;
  int depth_ = 0;
  int conditional_ = 0;  // inside a branch: unknown filters are an error only when they are reached
  int loops_ = 0;
};

}  // namespace awq::chat_template
