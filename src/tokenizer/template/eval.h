// Runs a parsed template. One Renderer is one rendering; it owns what lives as long as that.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/template/ast.h"
#include "tokenizer/template/value.h"

namespace awq::chat_template {

struct Frame {  // the variables of a scope that has been entered
  const Scope* scope = nullptr;
  Frame* parent = nullptr;
  Values slots;
};

struct Arguments {
  Values positional;
  std::vector<std::pair<std::string, Value>> named;

  const Value* find(std::string_view name) const;
};

// Takes a function's arguments one after the other, by position or by name, as Python would; refuses what is
// left.
class Signature {
 public:
  Signature(const char* function, const Arguments& arguments) : function_(function), arguments_(arguments) {}
  const Value* next(const char* name);  // null: not given
  const Value& required(const char* name);
  std::optional<int64_t> integer(const char* name);  // None counts as not given
  std::optional<std::string_view> string(const char* name);
  bool flag(const char* name, bool fallback = false);
  void done() const;

 private:
  const char* function_;
  const Arguments& arguments_;
  size_t at_ = 0, named_used_ = 0;
};

struct MacroObject : Object {
  const Stmt* macro = nullptr;
  Frame* home = nullptr;  // where it was defined
};

struct LoopObject : Object {
  const Stmt* loop = nullptr;
  Frame* home = nullptr;
  bool running = true;
  bool completed = false;  // the body was run to its end once: jinja2 takes {% else %} when it never was
  int depth0 = 0;
  int64_t index0 = -1;
  Value iterable;
  // What is still to come, before the loop's test: the iterable's items from `at` on, `source` where the
  // iterable is neither a list nor an iterator.
  Values source;
  size_t at = 0;
  bool tested = false;                 // what is to come has passed the test already
  Value previous, current, following;  // kMissing: none (yet)
  std::optional<Values> last_changed;
  std::optional<int64_t> length;
};

class Renderer {
 public:
  Renderer(const Program& program, const TemplateLimits& limits) : heap_(limits), program_(program) {}
  RenderedChat run(std::string_view context_json);
  int line() const { return line_; }

  // --- used by filters and tests
  Heap& heap() { return heap_; }
  Value string(std::string text) { return make_string(heap_, std::move(text)); }
  std::string text(const Value& v) { return to_text(heap_, v); }
  Value attribute(const Value& object, const std::string& name);  // object.name
  Value item(const Value& object, const Value& key);              // object[key]
  // object.a.0.b of a path "a.0.b", or object[3]
  Value path(const Value& object, const Value& path);
  Value call(const Value& callee, Arguments arguments);
  Value filter(int index, const std::string& name, const Value& value, Arguments arguments);
  bool test(int index, const std::string& name, const Value& value, const Arguments& arguments);
  Value binary(int op, const Value& a, const Value& b);
  bool compare(int op, const Value& a, const Value& b);
  Value slice(const Value& object, const Value& start, const Value& stop, const Value& step);
  template <class T>
  T& own(std::unique_ptr<T> object, int64_t bytes = sizeof(T)) {
    T& out = *object;
    out.charge(&heap_, bytes + 64);
    owned_.push_back(std::move(object));
    return out;
  }

 private:
  enum class Flow : uint8_t { kNext, kBreak, kContinue };
  class Deeper;

  // statements (exec.cpp)
  Flow body(const Body& statements);
  Flow statement(const Stmt& s);
  Flow branch(const Stmt& s);
  Flow for_loop(const Stmt& s, Frame* home, const Value& iterable, int depth0);
  Flow iterations(const Stmt& s, LoopObject& loop);
  Flow scoped(const Scope& scope, Frame* parent, const Body& statements);
  bool advance(LoopObject& loop);
  bool draw(LoopObject& loop, Value& out);  // the next item that passes the test
  Flow filtered_block(const Stmt& s);
  Flow with(const Stmt& s);
  void generation(const Stmt& s);
  void call_block(const Stmt& s);
  void assign(const Target& target, const Value& value);
  void write(std::string_view text);
  // The text that `work` renders; its Flow goes to `flow`.
  template <class Work>
  std::string captured(const Work& work, Flow& flow);
  std::string render_captured(const Body& statements);
  std::string render_loop(const Stmt& s, Frame* home, const Value& iterable, int depth0);
  Frame* enter(const Scope& scope, Frame* parent);
  void leave(Frame* frame);
  Value resolve(const std::string& name);
  Value& slot(const Ref& ref);

  // expressions (eval.cpp)
  Value eval(const Expr& e);
  Value name(const Expr& e);
  Value dict(const Expr& e);
  Value item_or_slice(const Expr& e);
  Value comparison(const Expr& e);
  Value concatenation(const Expr& e);
  Arguments arguments(const std::vector<Argument>& args);
  Values all(const std::vector<ExprPtr>& parts);

  // calls (call.cpp)
  Value call_macro(const MacroObject& macro, Arguments arguments);
  void bind(const Stmt& macro, Frame& frame, Arguments& arguments);
  Value call_function(Global function, const Arguments& arguments);
  Value call_method(const Value& self, const std::string& name, const Arguments& arguments);
  Value call_loop(LoopObject& loop, const Arguments& arguments);
  Value loop_attribute(LoopObject& loop, const std::string& name);
  Value peek(LoopObject& loop);
  int64_t loop_length(LoopObject& loop);
  std::optional<Value> member(const Value& object, const std::string& name);

  Heap heap_;  // first: everything else is charged to it
  const Program& program_;
  Value context_;
  std::vector<std::unique_ptr<Object>> owned_;
  std::vector<std::unique_ptr<Frame>> frames_;
  std::vector<Frame*> spare_;  // of frames_: left, to be used again
  Frame* frame_ = nullptr;
  std::string output_;   // of the block that is rendered now
  size_t captured_ = 0;  // how many blocks are captured around it
  size_t root_length_ = 0;
  Value rendered_;  // of a filter block: what its filter is applied to
  RenderedChat result_;
  int depth_ = 0, line_ = 1;
};

// Counts one level of evaluation, within TemplateLimits::depth.
class Renderer::Deeper {
 public:
  explicit Deeper(Renderer& r) : r_(r) {
    if (++r.depth_ > r.heap_.limits().depth) {
      --r.depth_;
      refuse("the template's budget of {} nested evaluations is used up (endless recursion?)",
             r.heap_.limits().depth);
    }
  }
  ~Deeper() { --r_.depth_; }

 private:
  Renderer& r_;
};

// printf-style and str.format formatting, strftime (format.cpp)
std::string format_percent(Renderer& r, std::string_view format, const Value& values);
std::string format_braces(Renderer& r, std::string_view format, const Arguments& arguments);
std::string format_time(Heap& heap, std::string_view format);

// Methods of str (methods.cpp)
bool has_string_method(std::string_view name);
Value call_string_method(Renderer& r, const Value& self, const std::string& name, const Arguments& arguments);

std::string pad(Heap& heap, std::string_view text, int64_t left, int64_t right, std::string_view fill);
Value replace_text(Renderer& r, const Value& text, std::string_view from, std::string_view to, int64_t limit);

int64_t python_index(int64_t index, int64_t length);  // from the end when negative

}  // namespace awq::chat_template
