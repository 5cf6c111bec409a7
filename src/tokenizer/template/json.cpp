// JSON in (the context) and out (tojson).
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tokenizer/template/text.h"
#include "tokenizer/template/value.h"
#include "tokenizer/unicode.h"

namespace awq::chat_template {
namespace {

constexpr size_t kMaxDepth = 64;

// Builds values as they come: nothing is held twice.
class Reader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Reader(Heap& heap) : heap_(heap) {}
  Value take() { return std::move(root_); }

  bool null() override { return add(Value::none()); }
  bool boolean(bool v) override { return add(Value::boolean(v)); }
  bool number_integer(number_integer_t v) override { return add(Value::integer(v)); }
  bool number_unsigned(number_unsigned_t v) override {
    return v <= INT64_MAX ? add(Value::integer(static_cast<int64_t>(v))) : add(big(std::to_string(v)));
  }
  bool number_float(number_float_t v, const string_t& text) override {
    const bool whole = text.find_first_of(".eE") == std::string::npos;
    return add(whole ? big(text) : Value::real(v));
  }
  bool string(string_t& v) override { return add(make_string(heap_, std::move(v))); }
  bool binary(binary_t&) override { return false; }
  bool key(string_t& v) override {
    open_.back().key = make_string(heap_, std::move(v));
    return true;
  }
  bool start_object(size_t) override {
    open();
    open_.back().dict = new_dict(heap_);
    return true;
  }
  bool end_object() override {
    Value v = Value::shared(Kind::kDict, std::move(open_.back().dict));
    open_.pop_back();
    return add(std::move(v));
  }
  bool start_array(size_t) override {
    open();
    return true;
  }
  bool end_array() override {
    Value v = make_list(heap_, std::move(open_.back().items));
    open_.pop_back();
    return add(std::move(v));
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    refuse("expected the conversation as JSON, got invalid JSON at byte {}", position);
  }

 private:
  struct Open {
    Value key;
    Values items;
    std::shared_ptr<DictObject> dict;
  };

  Value big(std::string digits) const {
    const Value text = make_string(heap_, std::move(digits));
    auto object = std::make_shared<StringObject>();
    object->text = text.text();
    return Value::shared(Kind::kBigInt, std::move(object));
  }

  void open() {
    if (open_.size() >= kMaxDepth)
      refuse("expected a conversation nested at most {} deep, got more", kMaxDepth);
    open_.emplace_back();
  }

  bool add(Value v) {
    heap_.step();
    if (open_.empty()) {
      root_ = std::move(v);
    } else if (open_.back().dict) {
      open_.back().dict->set(heap_, open_.back().key, std::move(v));
    } else {
      heap_.afford(static_cast<int64_t>(open_.back().items.size() * sizeof(Value)));
      open_.back().items.push_back(std::move(v));
    }
    return true;
  }

  Heap& heap_;
  std::vector<Open> open_;
  Value root_;
};

class Writer {
 public:
  Writer(Heap& heap, const JsonStyle& style) : heap_(heap), style_(style) {}

  void value(const Value& v) {
    heap_.step();
    switch (v.kind()) {
      case Kind::kNone:
        put("null");
        break;
      case Kind::kBool:
        put(v.as_int() ? "true" : "false");
        break;
      case Kind::kInt:
        put(std::to_string(v.as_int()));
        break;
      case Kind::kBigInt:
        put(v.text());
        break;
      case Kind::kFloat:
        put(real(v.as_real()));
        break;
      case Kind::kString:
        string(v.text());
        break;
      case Kind::kList:
      case Kind::kTuple:
        list(v.as<ListObject>().items);
        break;
      case Kind::kDict:
        dict(v.as<DictObject>());
        break;
      default:
        refuse("Object of type {} is not JSON serializable", type_name(v));
    }
  }

  std::string take() { return std::move(out_); }

 private:
  void put(std::string_view text) {
    heap_.copy(text.size());
    heap_.afford(static_cast<int64_t>(out_.size() + text.size()));
    out_ += text;
  }

  static std::string real(double v) {
    if (std::isnan(v)) return "NaN";
    if (std::isinf(v)) return v < 0 ? "-Infinity" : "Infinity";
    return format_real(v);
  }

  void string(std::string_view text) {
    std::string quoted = "\"";
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at;
      const char32_t c = next_code_point(text, at);
      constexpr std::string_view kFrom = "\"\\\b\f\n\r\t", kTo = "\"\\bfnrt";
      if (const size_t known = c < 0x80 ? kFrom.find(static_cast<char>(c)) : std::string_view::npos;
          known != std::string_view::npos)
        quoted += '\\', quoted += kTo[known];
      else if (c < 0x20 || (style_.ensure_ascii && c >= 0x7f && c < 0x10000 && c != 0x7f))
        quoted += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
      else if (style_.ensure_ascii && c >= 0x10000)
        quoted += fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + ((static_cast<uint32_t>(c) - 0x10000) >> 10),
                              0xdc00 + ((static_cast<uint32_t>(c) - 0x10000) & 0x3ff));
      else
        quoted += text.substr(begin, at - begin);
    }
    put(quoted + '"');
  }

  void new_line() {
    if (!style_.indented) return;
    put("\n");
    for (int i = 0; i < level_; ++i) put(style_.indent_text);
  }

  template <class Items, class Write>
  void group(char open, const Items& items, char close, const Write& write) {
    put(std::string_view(&open, 1));
    ++level_;
    bool begun = false;
    for (const auto& item : items) {
      if (begun) put(style_.item_separator);
      begun = true;
      new_line();
      write(item);
    }
    --level_;
    if (begun) new_line();
    put(std::string_view(&close, 1));
  }

  void list(const Values& items) {
    group('[', items, ']', [this](const Value& v) { value(v); });
  }

  std::string key(const Value& k) {
    switch (k.kind()) {
      case Kind::kString:
        return std::string(k.text());
      case Kind::kNone:
        return "null";
      case Kind::kBool:
        return k.as_int() ? "true" : "false";
      case Kind::kInt:
        return std::to_string(k.as_int());
      case Kind::kFloat:
        return real(k.as_real());
      default:
        refuse("keys must be str, int, float, bool or None, not {}", type_name(k));
    }
  }

  void dict(const DictObject& d) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : d.entries) entries.push_back(&entry);
    if (style_.sort_keys)
      std::stable_sort(entries.begin(), entries.end(), [this](const auto* a, const auto* b) {
        return compare(heap_, a->first, b->first) == -1;
      });
    group('{', entries, '}', [this](const auto* entry) {
      string(key(entry->first));
      put(style_.key_separator);
      value(entry->second);
    });
  }

  Heap& heap_;
  const JsonStyle& style_;
  std::string out_;
  int level_ = 0;
};

}  // namespace

Value parse_context(Heap& heap, std::string_view json) {
  heap.copy(json.size());
  Reader reader(heap);
  nlohmann::json::sax_parse(json.begin(), json.end(), &reader);
  Value context = reader.take();
  if (!context.is(Kind::kDict))
    refuse("expected the conversation as a JSON object, got '{}'", type_name(context));
  return context;
}

std::string to_json(Heap& heap, const Value& v, const JsonStyle& style) {
  Writer writer(heap, style);
  writer.value(v);
  return writer.take();
}

}  // namespace awq::chat_template
