// Methods of strings.
#include <algorithm>
#include <iterator>

#include "tokenizer/template/eval.h"
#include "tokenizer/template/text.h"

namespace awq::chat_template {
namespace {

struct Call {
  Renderer& r;
  const Value& self;
  const char* name;
  Signature& args;

  std::string_view text() const { return self.text(); }
  int64_t length() const { return self.as<StringObject>().length; }
  bool markup() const { return self.as<StringObject>().markup; }
  // A string like the one the method belongs to.
  Value like(std::string out) const { return make_string(r.heap(), std::move(out), markup()); }
  std::string_view required_string(const char* parameter) const {
    const Value& v = args.required(parameter);
    require_defined(v);
    if (!v.is_string()) refuse("{}(): expected a string, got '{}'", name, type_name(v));
    return v.text();
  }
};

Value list_of(const Call& c, const std::vector<std::string_view>& parts) {
  c.r.heap().step(static_cast<int64_t>(parts.size()));
  Values out;
  for (const std::string_view part : parts) out.push_back(c.like(std::string(part)));
  return make_list(c.r.heap(), std::move(out));
}

template <std::string (*Change)(std::string_view)>
Value changed(const Call& c) {
  c.args.done();
  return c.like(Change(c.text()));
}

template <Side kSide>
Value stripped(const Call& c) {
  const auto chars = c.args.string("chars");
  c.args.done();
  return c.like(std::string(chars ? strip_chars(c.text(), *chars, kSide) : strip_space(c.text(), kSide)));
}

template <bool kFromRight>
Value split(const Call& c) {
  const auto separator = c.args.string("sep");
  const int64_t limit = c.args.integer("maxsplit").value_or(-1);
  c.args.done();
  if (!separator) return list_of(c, split_space(c.text(), limit, kFromRight));
  if (separator->empty()) refuse("empty separator");
  return list_of(c, split_at(c.text(), *separator, limit, kFromRight));
}

Value splitlines(const Call& c) {
  const bool keep = c.args.flag("keepends");
  c.args.done();
  return list_of(c, split_lines(c.text(), keep));
}

// The optional arguments start and end, the last ones of a method, as Python slices: code points [begin,
// end).
struct Range {
  explicit Range(const Call& c) {
    const auto clamp = [&](int64_t i) {
      return std::min(std::max<int64_t>(python_index(i, c.length()), 0), c.length());
    };
    const int64_t start = python_index(c.args.integer("start").value_or(0), c.length());
    begin = clamp(start), end = clamp(c.args.integer("end").value_or(c.length()));
    is_nowhere = start > c.length() || begin > end;
    c.args.done();
  }
  std::string_view of(std::string_view text) const { return substring(text, begin, std::max(begin, end)); }

  int64_t begin, end;
  bool is_nowhere;  // not even the empty string is found there
};

template <bool kAtEnd>
Value affix(const Call& c) {
  const Value& wanted = c.args.required(kAtEnd ? "suffix" : "prefix");
  require_defined(wanted);
  const Range range(c);
  const bool whole = range.begin == 0 && range.end == c.length();
  const std::string_view text = whole ? c.text() : range.of(c.text());
  const auto has = [&](const Value& v) {
    if (!v.is_string()) refuse("{}() first arg must be str or a tuple of str, not {}", c.name, type_name(v));
    return !range.is_nowhere && (kAtEnd ? text.ends_with(v.text()) : text.starts_with(v.text()));
  };
  if (!wanted.is(Kind::kTuple)) return Value::boolean(has(wanted));
  const Values& any = wanted.as<ListObject>().items;
  return Value::boolean(std::any_of(any.begin(), any.end(), has));
}

// find, rfind, index, rindex: positions in code points, -1 or an error when there is none.
template <bool kFromRight, bool kMustExist>
Value find(const Call& c) {
  const std::string_view wanted = c.required_string("sub");
  const Range range(c);
  c.r.heap().copy(c.text().size());
  const std::string_view text = range.of(c.text());
  const size_t at = range.is_nowhere ? std::string_view::npos
                    : kFromRight     ? text.rfind(wanted)
                                     : text.find(wanted);
  if (at == std::string_view::npos) {
    if (kMustExist) refuse("substring not found");
    return Value::integer(-1);
  }
  return Value::integer(range.begin + count_points(text.substr(0, at)));
}

Value count(const Call& c) {
  const std::string_view wanted = c.required_string("sub");
  const Range range(c);
  c.r.heap().copy(c.text().size());
  if (range.is_nowhere) return Value::integer(0);
  return Value::integer(count_occurrences(range.of(c.text()), wanted));
}

Value replaced(const Call& c) {
  const std::string_view from = c.required_string("old"), to = c.required_string("new");
  const int64_t limit = c.args.integer("count").value_or(-1);
  c.args.done();
  return replace_text(c.r, c.self, from, to, limit);
}

Value join(const Call& c) {
  const Value iterable = c.args.required("iterable");
  c.args.done();
  std::string out;
  bool first = true;
  require_defined(iterable.is_undefined() ? Value::none() : iterable);
  for (const Value& v : items_of(c.r.heap(), iterable)) {
    if (!v.is_string()) refuse("sequence item: expected str instance, {} found", type_name(v));
    c.r.heap().afford(static_cast<int64_t>(out.size() + c.text().size() + v.text().size()));
    c.r.heap().copy(c.text().size());
    if (!first) out += c.text();
    out += v.text();
    first = false;
  }
  return c.like(std::move(out));
}

// center, ljust, rjust: how much of the padding stands on the left.
enum class Place : uint8_t { kCenter, kLeft, kRight };
template <Place kPlace>
Value padded(const Call& c) {
  const Value& width = c.args.required("width");
  if (!width.is_integral()) refuse("'{}' object cannot be interpreted as an integer", type_name(width));
  const std::string fill(c.args.string("fillchar").value_or(" "));
  c.args.done();
  if (count_points(fill) != 1) refuse("The fill character must be exactly one character long");
  const int64_t total = std::max<int64_t>(width.as_int() - c.length(), 0);
  // CPython's centring: the odd blank goes left when the width is odd.
  const int64_t centred = total / 2 + (total & width.as_int() & 1);
  const int64_t left = kPlace == Place::kLeft ? 0 : kPlace == Place::kRight ? total : centred;
  return c.like(pad(c.r.heap(), c.text(), left, total - left, fill));
}

Value zfill(const Call& c) {
  const Value& width = c.args.required("width");
  c.args.done();
  if (!width.is_integral()) refuse("'{}' object cannot be interpreted as an integer", type_name(width));
  const int64_t total = std::max<int64_t>(width.as_int() - c.length(), 0);
  const bool sign = c.text().starts_with('-') || c.text().starts_with('+');
  const std::string digits = pad(c.r.heap(), c.text().substr(sign), total, 0, "0");
  return c.like((sign ? std::string(1, c.text()[0]) : "") + digits);
}

template <Property kProperty>
Value has(const Call& c) {
  c.args.done();
  c.r.heap().copy(c.text().size());
  return Value::boolean(has_property(c.text(), kProperty));
}

template <bool kFromRight>
Value partition(const Call& c) {
  const std::string_view separator = c.required_string("sep");
  c.args.done();
  if (separator.empty()) refuse("empty separator");
  const size_t at = kFromRight ? c.text().rfind(separator) : c.text().find(separator);
  const auto s = [&](std::string_view text) { return c.like(std::string(text)); };
  if (at == std::string_view::npos)
    return make_tuple(c.r.heap(),
                      kFromRight ? Values{s(""), s(""), s(c.text())} : Values{s(c.text()), s(""), s("")});
  return make_tuple(c.r.heap(),
                    {s(c.text().substr(0, at)), s(separator), s(c.text().substr(at + separator.size()))});
}

template <bool kAtEnd>
Value removed(const Call& c) {
  const std::string_view part = c.required_string(kAtEnd ? "suffix" : "prefix");
  c.args.done();
  const bool there = kAtEnd ? c.text().ends_with(part) : c.text().starts_with(part);
  const size_t kept = c.text().size() - (there ? part.size() : 0);
  return c.like(std::string(kAtEnd ? c.text().substr(0, kept) : c.text().substr(c.text().size() - kept)));
}

Value expandtabs(const Call& c) {
  const int64_t size = c.args.integer("tabsize").value_or(8);
  c.args.done();
  std::string out;
  int64_t column = 0;
  for (size_t at = 0; at < c.text().size();) {
    const size_t length = point_length(c.text(), at);
    const char first = c.text()[at];
    if (first == '\t') {
      const int64_t blanks = size > 0 ? size - column % size : 0;
      c.r.heap().afford(static_cast<int64_t>(out.size()) + blanks);
      c.r.heap().copy(static_cast<size_t>(blanks));
      out.append(static_cast<size_t>(blanks), ' ');
      column += blanks;
    } else {
      out += c.text().substr(at, length);
      column = first == '\n' || first == '\r' ? 0 : column + 1;
    }
    at += length;
  }
  return c.like(std::move(out));
}

Value unsupported(const Call& c) { refuse("the string method '{}' is not supported", c.name); }

constexpr std::pair<std::string_view, Value (*)(const Call&)> kMethods[] = {
    {"capitalize", changed<capitalize>},
    {"casefold", changed<casefold>},
    {"center", padded<Place::kCenter>},
    {"count", count},
    {"encode", unsupported},
    {"endswith", affix<true>},
    {"expandtabs", expandtabs},
    {"find", find<false, false>},
    {"index", find<false, true>},
    {"isalnum", has<Property::kAlnum>},
    {"isalpha", has<Property::kAlpha>},
    {"isascii", has<Property::kAscii>},
    {"isdecimal", has<Property::kDecimal>},
    {"isdigit", has<Property::kDigit>},
    {"isidentifier", has<Property::kIdentifier>},
    {"islower", has<Property::kLower>},
    {"isnumeric", has<Property::kNumeric>},
    {"isprintable", has<Property::kPrintable>},
    {"isspace", has<Property::kSpace>},
    {"istitle", has<Property::kTitle>},
    {"isupper", has<Property::kUpper>},
    {"join", join},
    {"ljust", padded<Place::kLeft>},
    {"lower", changed<lower>},
    {"lstrip", stripped<Side::kLeft>},
    {"maketrans", unsupported},
    {"partition", partition<false>},
    {"removeprefix", removed<false>},
    {"removesuffix", removed<true>},
    {"replace", replaced},
    {"rfind", find<true, false>},
    {"rindex", find<true, true>},
    {"rjust", padded<Place::kRight>},
    {"rpartition", partition<true>},
    {"rsplit", split<true>},
    {"rstrip", stripped<Side::kRight>},
    {"split", split<false>},
    {"splitlines", splitlines},
    {"startswith", affix<false>},
    {"strip", stripped<Side::kBoth>},
    {"swapcase", changed<swapcase>},
    {"title", changed<title>},
    {"translate", unsupported},
    {"upper", changed<upper>},
    {"zfill", zfill},
};

}  // namespace

std::string pad(Heap& heap, std::string_view text, int64_t left, int64_t right, std::string_view fill) {
  heap.afford((left | right) >> 40
                  ? INT64_MAX
                  : (left + right) * static_cast<int64_t>(fill.size()) + static_cast<int64_t>(text.size()));
  heap.step((left + right) / 16);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += text;
  for (int64_t i = 0; i < right; ++i) out += fill;
  return out;
}

Value replace_text(Renderer& r, const Value& text, std::string_view from, std::string_view to,
                   int64_t limit) {
  const std::string_view s = text.text();
  r.heap().copy(s.size());
  // How long the result will be, before it is made.
  int64_t times = from.empty() ? text.as<StringObject>().length + 1 : count_occurrences(s, from);
  if (limit >= 0) times = std::min(times, limit);
  int64_t grown = 0;
  if (__builtin_mul_overflow(times, static_cast<int64_t>(to.size()), &grown)) grown = INT64_MAX / 2;
  r.heap().afford(grown + static_cast<int64_t>(s.size()));
  return make_string(r.heap(), replace_all(s, from, to, limit), text.as<StringObject>().markup);
}

bool has_string_method(std::string_view name) {
  return name == "format" || name == "format_map" ||
         std::any_of(std::begin(kMethods), std::end(kMethods),
                     [&](const auto& m) { return m.first == name; });
}

Value call_string_method(Renderer& r, const Value& self, const std::string& name,
                         const Arguments& arguments) {
  r.heap().copy(self.text().size());
  if (name == "format") return r.string(format_braces(r, self.text(), arguments));
  Signature signature(name.c_str(), arguments);
  if (name == "format_map") {
    const Value& mapping = signature.required("mapping");
    signature.done();
    if (!mapping.is(Kind::kDict))
      refuse("format_map() argument must be a mapping, not {}", type_name(mapping));
    Arguments named;
    for (const auto& [key, value] : mapping.as<DictObject>().entries)
      if (key.is_string()) named.named.emplace_back(key.text(), value);
    return r.string(format_braces(r, self.text(), named));
  }
  const auto* method =
      std::find_if(std::begin(kMethods), std::end(kMethods), [&](const auto& m) { return m.first == name; });
  return method->second(Call{r, self, name.c_str(), signature});
}

}  // namespace awq::chat_template
