// Filters of text and numbers, and the table of all (jinja2/filters.py; tojson is transformers').
#include "tokenizer/template/filters.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>

#include "tokenizer/template/functions.h"
#include "tokenizer/template/text.h"

namespace awq::chat_template {

Value soft_string(Renderer& r, const Value& v) { return v.is_string() ? v : r.string(r.text(v)); }

namespace {

using Args = const Arguments&;

template <std::string (*Change)(std::string_view)>
Value changed(Renderer& r, const Value& v, Signature& s, Args) {
  s.done();
  const Value text = soft_string(r, v);
  r.heap().copy(text.text().size());
  return make_string(r.heap(), Change(text.text()), text.as<StringObject>().markup);
}

// Each word begins in upper case, where a word follows one of these or white space.
std::string title_words(std::string_view text) {
  constexpr std::string_view kBreaks = "-({[<";
  const auto breaks = [&](char32_t c) {
    return is_space(c) || (c < 0x80 && kBreaks.find(static_cast<char>(c)) != std::string_view::npos);
  };
  std::string out;
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    const bool separator = breaks(point_at(text, at));
    while (end < text.size() && breaks(point_at(text, end)) == separator) end += point_length(text, end);
    const std::string_view word = text.substr(at, end - at);
    const size_t first = point_length(word, 0);
    out += separator ? std::string(word) : upper(word.substr(0, first)) + lower(word.substr(first));
    at = end;
  }
  return out;
}

Value trim(Renderer& r, const Value& v, Signature& s, Args) {
  const auto chars = s.string("chars");
  s.done();
  const Value text = soft_string(r, v);
  r.heap().copy(text.text().size());
  return make_string(r.heap(),
                     std::string(chars ? strip_chars(text.text(), *chars, Side::kBoth)
                                       : strip_space(text.text(), Side::kBoth)),
                     text.as<StringObject>().markup);
}

Value replace(Renderer& r, const Value& v, Signature& s, Args) {
  const std::string from = r.text(s.required("old")), to = r.text(s.required("new"));
  const int64_t limit = s.integer("count").value_or(-1);
  s.done();
  return replace_text(r, r.string(r.text(v)), from, to, limit);
}

Value indent(Renderer& r, const Value& v, Signature& s, Args) {
  const Value* width = s.next("width");
  const bool first = s.flag("first"), blank = s.flag("blank");
  s.done();
  require_defined(v);
  if (!v.is_string()) refuse("indent: expected a string, got '{}'", type_name(v));
  std::string indention;
  if (width && width->is_string())
    indention = width->text();
  else if (width && !width->is_integral())
    refuse("indent: expected a number or string for 'width', got '{}'", type_name(*width));
  else
    indention = pad(r.heap(), "", width ? std::max<int64_t>(width->as_int(), 0) : 4, 0, " ");
  const std::string with_end = std::string(v.text()) + "\n";
  const auto lines = split_lines(with_end, false);
  r.heap().copy(with_end.size());
  r.heap().afford(static_cast<int64_t>(with_end.size()) +
                  static_cast<int64_t>(std::min<size_t>(indention.size(), 1 << 30) * lines.size()));
  std::string out = first ? indention : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !lines[i].empty())) out += indention;
    out += lines[i];
  }
  return make_string(r.heap(), std::move(out), v.as<StringObject>().markup);
}

Value center(Renderer& r, const Value& v, Signature& s, Args) {
  const int64_t width = s.integer("width").value_or(80);
  s.done();
  Arguments arguments;
  arguments.positional.push_back(Value::integer(width));
  return call_string_method(r, soft_string(r, v), "center", arguments);
}

Value truncate(Renderer& r, const Value& v, Signature& s, Args) {
  const int64_t length = s.integer("length").value_or(255);
  const bool kill_words = s.flag("killwords");
  const std::string end(s.string("end").value_or("..."));
  const int64_t leeway = s.integer("leeway").value_or(5);
  s.done();
  const int64_t kept = length - count_points(end);
  if (kept < 0) refuse("expected length >= {}, got {}", count_points(end), length);
  if (leeway < 0) refuse("expected leeway >= 0, got {}", leeway);
  if (length_of(v) - leeway <= length) return v;
  if (!v.is_string()) refuse("truncate: expected a string, got '{}'", type_name(v));
  std::string_view text = substring(v.text(), 0, kept);
  if (!kill_words) text = split_at(text, " ", 1, true)[0];
  return r.string(std::string(text) + end);
}

Value wordcount(Renderer& r, const Value& v, Signature& s, Args) {
  s.done();
  const Value text = soft_string(r, v);
  r.heap().copy(text.text().size());
  return Value::integer(count_words(text.text()));
}

Value format(Renderer& r, const Value& v, Signature&, Args args) {
  if (!args.positional.empty() && !args.named.empty())
    refuse("can't handle positional and keyword arguments at the same time");
  const Value text = soft_string(r, v);
  if (args.named.empty()) return r.binary(kMod, text, make_tuple(r.heap(), args.positional));
  auto named = new_dict(r.heap());
  for (const auto& [key, value] : args.named) named->set(r.heap(), r.string(key), value);
  return r.binary(kMod, text, Value::shared(Kind::kDict, std::move(named)));
}

Value to_string(Renderer& r, const Value& v, Signature& s, Args) {
  s.done();
  return soft_string(r, v);
}

Value safe(Renderer& r, const Value& v, Signature& s, Args) {
  s.done();
  return make_string(r.heap(), r.text(v), true);
}

Value escape(Renderer& r, const Value& v, Signature& s, Args) {
  s.done();
  if (v.is_string() && v.as<StringObject>().markup) return v;
  return make_string(r.heap(), escape_html(r.text(v)), true);
}

Value force_escape(Renderer& r, const Value& v, Signature& s, Args) {
  s.done();
  return make_string(r.heap(), escape_html(r.text(v)), true);
}

// urllib.parse.quote; in a query "/" is quoted, too, and a blank is "+".
std::string url_quoted(std::string_view text, bool in_query) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("_.-~").find(c) != std::string_view::npos || (c == '/' && !in_query);
    if (plain)
      out += c;
    else if (c == ' ' && in_query)
      out += '+';
    else
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

Value url_encode(Renderer& r, const Value& v, Signature& s, Args) {
  s.done();
  if (v.is_string() || !is_iterable(v)) return r.string(url_quoted(r.text(v), false));
  const bool is_dict = v.is(Kind::kDict);
  Values pairs;
  if (!is_dict) pairs = items_of(r.heap(), v);
  std::string out;
  const auto add = [&](const Value& key, const Value& value) {
    if (!out.empty()) out += '&';
    out += url_quoted(r.text(key), true) + "=" + url_quoted(r.text(value), true);
    r.heap().afford(static_cast<int64_t>(out.size()));
  };
  if (is_dict)
    for (const auto& [key, value] : v.as<DictObject>().entries) add(key, value);
  for (const Value& pair : pairs) {
    const Values parts = items_of(r.heap(), pair);
    if (parts.size() != 2) refuse("urlencode: expected pairs, got {} values", parts.size());
    add(parts[0], parts[1]);
  }
  return r.string(std::move(out));
}

// transformers' tojson: json.dumps with its defaults, but without escaping what is not ASCII.
Value tojson(Renderer& r, const Value& v, Signature& s, Args) {
  JsonStyle style;
  style.ensure_ascii = s.flag("ensure_ascii");
  const Value* indent_value = s.next("indent");
  const Value* separators = s.next("separators");
  style.sort_keys = s.flag("sort_keys");
  s.done();
  if (indent_value && !indent_value->is(Kind::kNone)) {
    require_defined(*indent_value);
    if (indent_value->is_string())
      style.indent_text = indent_value->text();
    else if (indent_value->is_integral())
      style.indent_text = pad(r.heap(), "", std::clamp<int64_t>(indent_value->as_int(), 0, 1000), 0, " ");
    else
      refuse("tojson: expected a number or string for 'indent', got '{}'", type_name(*indent_value));
    style.indented = true;
    style.item_separator = ",";
  }
  if (separators && !separators->is(Kind::kNone)) {
    const Values pair = items_of(r.heap(), *separators);
    if (pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string())
      refuse("tojson: expected two strings for 'separators'");
    style.item_separator = pair[0].text(), style.key_separator = pair[1].text();
  }
  return r.string(to_json(r.heap(), v, style));
}

// --- numbers

// int(text, base) of Python: surrounding space, a sign, a prefix that fits the base, single underscores.
std::optional<int64_t> parse_integer(std::string_view text, int64_t base) {
  if (base != 0 && (base < 2 || base > 36)) refuse("int() base must be >= 2 and <= 36, or 0");
  text = strip_space(text, Side::kBoth);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  const auto prefixed = [&](char letter) {
    return text.size() > 2 && text[0] == '0' && (text[1] | 32) == letter;
  };
  for (const auto& [letter, value] : {std::pair('x', 16), std::pair('o', 8), std::pair('b', 2)})
    if (prefixed(letter) && (base == value || base == 0)) {
      text.remove_prefix(2);
      if (text.starts_with('_')) text.remove_prefix(1);
      base = value;
      break;
    }
  if (base == 0) base = 10;
  if (text.empty() || text.starts_with('_') || text.ends_with('_') ||
      text.find("__") != std::string_view::npos)
    return std::nullopt;
  std::string digits = negative ? "-" : "";
  for (const char c : text)
    if (std::isalnum(static_cast<unsigned char>(c)))
      digits += c;
    else if (c != '_')
      return std::nullopt;
  char* end = nullptr;
  errno = 0;
  const int64_t value = std::strtoll(digits.c_str(), &end, static_cast<int>(base));
  if (*end != '\0' || digits == "-") return std::nullopt;
  if (errno == ERANGE) refuse("integers beyond 64 bits are not supported");
  return value;
}

std::optional<double> parse_real(std::string_view text) {
  text = strip_space(text, Side::kBoth);
  if (text.empty() || text.starts_with('_') || text.ends_with('_') ||
      text.find("__") != std::string_view::npos)
    return std::nullopt;
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const auto digit = [&](size_t k) { return k < text.size() && text[k] >= '0' && text[k] <= '9'; };
    if (c == '_') {
      if (!digit(i - 1) || !digit(i + 1)) return std::nullopt;
      continue;
    }
    if (c == 'x' || c == 'X' || c == '(') return std::nullopt;  // what strtod takes and Python does not
    digits += c;
  }
  char* end = nullptr;
  const double value = std::strtod(digits.c_str(), &end);
  return *end == '\0' && end != digits.c_str() ? std::optional(value) : std::nullopt;
}

Value whole(double v) {
  if (!std::isfinite(v)) refuse("cannot convert float {} to integer", format_real(v));
  if (std::fabs(v) >= 9.2e18) refuse("integers beyond 64 bits are not supported");
  return Value::integer(static_cast<int64_t>(v));
}

Value to_int(Renderer&, const Value& v, Signature& s, Args) {
  const Value* fallback = s.next("default");
  const int64_t base = s.integer("base").value_or(10);
  s.done();
  const Value otherwise = fallback ? *fallback : Value::integer(0);
  require_defined(v);
  if (v.is(Kind::kBigInt)) return v;
  if (v.is_integral()) return Value::integer(v.as_int());
  if (v.is(Kind::kFloat)) return std::isnan(v.as_real()) ? otherwise : whole(v.as_real());
  if (!v.is_string()) return otherwise;
  if (const auto value = parse_integer(v.text(), base)) return Value::integer(*value);
  const auto real = parse_real(v.text());
  return real && std::isfinite(*real) ? whole(*real) : otherwise;
}

Value to_real(Renderer&, const Value& v, Signature& s, Args) {
  const Value* fallback = s.next("default");
  s.done();
  require_defined(v);
  if (v.is_number()) return Value::real(v.as_real());
  const auto value = v.is_string()         ? parse_real(v.text())
                     : v.is(Kind::kBigInt) ? parse_real(v.text())
                                           : std::nullopt;
  return value ? Value::real(*value) : fallback ? *fallback : Value::real(0);
}

Value absolute(Renderer& r, const Value& v, Signature& s, Args) {
  s.done();
  require_defined(v);
  if (v.is(Kind::kFloat)) return Value::real(std::fabs(v.as_real()));
  if (!v.is_integral()) refuse("bad operand type for abs(): '{}'", type_name(v));
  return v.as_int() < 0 ? r.binary(kSub, Value::integer(0), v) : Value::integer(v.as_int());
}

// To the nearest, halves to even, of an integer in units of 10^digits.
Value round_integer(Renderer& r, int64_t v, int64_t digits) {
  if (digits > 18) return Value::integer(0);
  int64_t unit = 1;
  for (int64_t i = 0; i < digits; ++i) unit *= 10;
  int64_t quotient = v / unit, rest = v % unit;
  if (rest < 0) rest += unit, --quotient;
  if (rest > unit - rest || (rest == unit - rest && quotient % 2 != 0)) ++quotient;
  return r.binary(kMul, Value::integer(quotient), Value::integer(unit));
}

Value round_number(Renderer& r, const Value& v, Signature& s, Args) {
  const int64_t precision = s.integer("precision").value_or(0);
  const std::string method(s.string("method").value_or("common"));
  s.done();
  if (method != "common" && method != "ceil" && method != "floor")
    refuse("method must be common, ceil or floor");
  require_defined(v);
  if (!v.is_number()) refuse("round: expected a number, got '{}'", type_name(v));
  if (precision > 300 || precision < -300)
    refuse("round: expected a precision between -300 and 300, got {}", precision);
  if (method == "common") {
    if (v.is_integral())
      return precision >= 0 ? Value::integer(v.as_int()) : round_integer(r, v.as_int(), -precision);
    if (!std::isfinite(v.as_real())) return v;
    if (precision >= 0)
      return Value::real(std::strtod(fmt::format("{:.{}f}", v.as_real(), precision).c_str(), nullptr));
    const double unit = std::pow(10.0, static_cast<double>(-precision));
    return Value::real(std::nearbyint(v.as_real() / unit) * unit);
  }
  const Value unit = r.binary(kPow, Value::integer(10), Value::integer(precision));
  const Value scaled = r.binary(kMul, v, unit);
  const double moved = method == "ceil" ? std::ceil(scaled.as_real()) : std::floor(scaled.as_real());
  return r.binary(kDiv, scaled.is_integral() ? scaled : whole(moved), unit);
}

Value default_value(Renderer& r, const Value& v, Signature& s, Args) {
  const Value* otherwise = s.next("default_value");
  const bool boolean = s.flag("boolean");
  s.done();
  if (!v.is_undefined() && !(boolean && !truth(v))) return v;
  return otherwise ? *otherwise : r.string("");
}

Value attr(Renderer& r, const Value& v, Signature& s, Args) {
  const std::string name = r.text(s.required("name"));
  s.done();
  // Only an attribute, never an item: of what templates can reach, a dict's items are no attributes.
  if (v.is(Kind::kDict) && !name.starts_with("__")) {
    const Value empty = Value::shared(Kind::kDict, new_dict(r.heap()));
    const Value found = r.attribute(empty, name);
    if (found.is_undefined()) return found;
  }
  return r.attribute(v, name);
}

constexpr NamedFilter kFilters[] = {
    {"abs", absolute},
    {"attr", attr},
    {"capitalize", changed<capitalize>},
    {"center", center},
    {"d", default_value},
    {"default", default_value},
    {"e", escape},
    {"escape", escape},
    {"float", to_real},
    {"forceescape", force_escape},
    {"format", format},
    {"indent", indent},
    {"int", to_int},
    {"lower", changed<lower>},
    {"replace", replace},
    {"round", round_number},
    {"safe", safe},
    {"string", to_string},
    {"title", changed<title_words>},
    {"tojson", tojson},
    {"trim", trim},
    {"truncate", truncate},
    {"upper", changed<upper>},
    {"urlencode", url_encode},
    {"wordcount", wordcount},
};

const std::vector<NamedFilter>& filters() {
  static const std::vector<NamedFilter> all = [] {
    std::vector<NamedFilter> out(std::begin(kFilters), std::end(kFilters));
    const auto& more = sequence_filters();
    out.insert(out.end(), more.begin(), more.end());
    return out;
  }();
  return all;
}

}  // namespace

int find_filter(std::string_view name) {
  const auto& all = filters();
  const auto it = std::find_if(all.begin(), all.end(), [&](const auto& f) { return f.name == name; });
  return it == all.end() ? -1 : static_cast<int>(it - all.begin());
}

Value Renderer::filter(int index, const std::string& name, const Value& value, Arguments arguments) {
  if (index < 0) refuse("there is no filter '{}'", name);
  heap_.step();
  Signature signature(name.c_str(), arguments);
  return filters()[static_cast<size_t>(index)].run(*this, value, signature, arguments);
}

}  // namespace awq::chat_template
