// Formatting: "..." % values, "...".format(values), strftime.
#include <algorithm>
#include <cmath>
#include <ctime>

#include "tokenizer/template/eval.h"
#include "tokenizer/template/text.h"

namespace awq::chat_template {
namespace {

constexpr int64_t kMaxWidth = 10'000;  // of a field: more would only be asked for to fill memory

// What stands behind % or ':' in a format.
struct Spec {
  std::string fill = " ";
  char align = '\0', sign = '-', type = '\0', grouping = '\0';
  bool alternate = false, zero = false;
  int64_t width = 0, precision = -1;
};

int64_t checked_width(int64_t width) {
  if (width > kMaxWidth)
    refuse("expected a field of at most {} characters in a format, got {}", kMaxWidth, width);
  return width;
}

std::string signed_text(const Spec& spec, bool negative, std::string digits) {
  if (negative) return "-" + digits;
  if (spec.sign == '+' || spec.sign == ' ') return spec.sign + digits;
  return digits;
}

std::string grouped(const std::string& digits, char separator) {
  const size_t begin = digits.starts_with('-') || digits.starts_with('+') || digits.starts_with(' ');
  const size_t end = std::min(digits.find_first_not_of("0123456789", begin), digits.size());
  std::string out = digits.substr(0, end);
  for (size_t at = end; at > begin + 3;) out.insert(at -= 3, 1, separator);
  return out + digits.substr(end);
}

std::string integer_text(const Spec& spec, int64_t v, char type) {
  const uint64_t magnitude = v < 0 ? 0 - static_cast<uint64_t>(v) : static_cast<uint64_t>(v);
  std::string digits;
  switch (type) {
    case 'x':
      digits = fmt::format("{:x}", magnitude);
      break;
    case 'X':
      digits = fmt::format("{:X}", magnitude);
      break;
    case 'o':
      digits = fmt::format("{:o}", magnitude);
      break;
    case 'b':
      digits = fmt::format("{:b}", magnitude);
      break;
    default:
      digits = std::to_string(magnitude);
  }
  if (spec.precision > 0 && static_cast<int64_t>(digits.size()) < spec.precision)
    digits.insert(0, static_cast<size_t>(spec.precision) - digits.size(), '0');
  if (spec.alternate && type != 'd') digits = std::string("0") + type + digits;
  return signed_text(spec, v < 0, digits);
}

std::string real_text(const Spec& spec, double v, char type) {
  if (std::isnan(v)) return signed_text(spec, false, "nan");
  if (std::isinf(v)) return signed_text(spec, v < 0, "inf");
  const int precision = static_cast<int>(spec.precision < 0 ? 6 : checked_width(spec.precision));
  const double a = std::fabs(v);
  std::string digits;
  switch (type) {
    case 'e':
      digits = fmt::format("{:.{}e}", a, precision);
      break;
    case 'E':
      digits = fmt::format("{:.{}E}", a, precision);
      break;
    case 'g':
      digits = fmt::format("{:.{}g}", a, std::max(precision, 1));
      break;
    case 'G':
      digits = fmt::format("{:.{}G}", a, std::max(precision, 1));
      break;
    default:
      digits = fmt::format("{:.{}f}", a, precision);
  }
  return signed_text(spec, std::signbit(v), digits);
}

std::string place(Heap& heap, const Spec& spec, std::string text, bool number) {
  const int64_t missing = checked_width(spec.width) - count_points(text);
  if (missing <= 0) return text;
  const char align = spec.align ? spec.align : spec.zero && number ? '=' : number ? '>' : '<';
  const std::string fill = spec.zero && number && !spec.align ? "0" : spec.fill;
  if (align == '=') {  // between sign and digits
    const size_t sign = !text.empty() && (text[0] == '-' || text[0] == '+' || text[0] == ' ');
    return text.substr(0, sign) + pad(heap, text.substr(sign), missing, 0, fill);
  }
  const int64_t left = align == '<' ? 0 : align == '>' ? missing : missing / 2;
  return pad(heap, text, left, missing - left, fill);
}

double real_of(const Value& v, char type) {
  require_defined(v);
  if (!v.is_number()) refuse("%{} format: a real number is required, not {}", type, type_name(v));
  return v.as_real();
}

// --- "%..." % values

class Percent {
 public:
  Percent(Renderer& r, std::string_view format, const Value& values)
      : r_(r), format_(format), values_(values) {}

  std::string run() {
    while (at_ < format_.size()) {
      const size_t percent = std::min(format_.find('%', at_), format_.size());
      out_ += format_.substr(at_, percent - at_);
      at_ = percent;
      if (at_ < format_.size()) field();
    }
    const bool tuple = values_.is(Kind::kTuple);
    const bool unused = tuple
                            ? next_ < values_.as<ListObject>().items.size()
                            : next_ == 0 && !mapped_ && !values_.is(Kind::kDict) && !values_.is(Kind::kList);
    if (unused) refuse("not all arguments converted during string formatting");
    return std::move(out_);
  }

 private:
  char peek() const {
    if (at_ >= format_.size()) refuse("incomplete format");
    return format_[at_];
  }

  Value value() {
    if (!values_.is(Kind::kTuple)) {
      if (next_++ > 0) refuse("not enough arguments for format string");
      return values_;
    }
    const Values& items = values_.as<ListObject>().items;
    if (next_ >= items.size()) refuse("not enough arguments for format string");
    return items[next_++];
  }

  int64_t number() {
    if (peek() == '*') {
      ++at_;
      const Value v = value();
      if (!v.is_integral()) refuse("* wants int");
      return v.as_int();
    }
    int64_t n = 0;
    while (peek() >= '0' && peek() <= '9') n = checked_width(n * 10 + (format_[at_++] - '0'));
    return n;
  }

  void field() {
    ++at_;
    Spec spec;
    bool left = false, has_key = false;
    Value keyed;
    if (peek() == '(') {
      const size_t close = format_.find(')', at_);
      if (close == std::string_view::npos) refuse("incomplete format key");
      if (!values_.is(Kind::kDict)) refuse("format requires a mapping");
      const Value key = r_.string(std::string(format_.substr(at_ + 1, close - at_ - 1)));
      const Value* found = values_.as<DictObject>().find(r_.heap(), key);
      if (!found) refuse("the format's key {} is missing", to_literal(r_.heap(), key));
      keyed = *found;
      has_key = mapped_ = true;
      at_ = close + 1;
    }
    for (; std::string_view("#0- +").find(peek()) != std::string_view::npos; ++at_) {
      left = left || format_[at_] == '-';
      spec.zero = spec.zero || format_[at_] == '0';
      spec.alternate = spec.alternate || format_[at_] == '#';
      if (format_[at_] == '+' || (format_[at_] == ' ' && spec.sign != '+')) spec.sign = format_[at_];
    }
    spec.width = number();
    if (spec.width < 0) left = true, spec.width = -spec.width;
    if (peek() == '.') {
      ++at_;
      spec.precision = std::max<int64_t>(number(), 0);
    }
    while (peek() == 'l' || peek() == 'h' || peek() == 'L') ++at_;
    const char type = format_[at_++];
    if (type == '%') {
      out_ += '%';
      return;
    }
    spec.align = left ? '<' : '\0';
    const std::string text = converted(spec, type, has_key ? keyed : value());
    const bool is_number = std::string_view("diuxXofFeEgG").find(type) != std::string_view::npos;
    if (!is_number && !left) spec.align = '>';
    if (!is_number) spec.zero = false;
    out_ += place(r_.heap(), spec, text, is_number);
    r_.heap().afford(static_cast<int64_t>(out_.size()));
  }

  std::string converted(const Spec& spec, char type, const Value& v) {
    switch (type) {
      case 's':
      case 'r':
      case 'a': {
        std::string text = type == 's' ? r_.text(v) : to_literal(r_.heap(), v);
        if (spec.precision >= 0) text = substring(text, 0, spec.precision);
        return text;
      }
      case 'd':
      case 'i':
      case 'u': {
        require_defined(v);
        if (!v.is_number() || !std::isfinite(v.as_real()) || std::fabs(v.as_real()) > 9e18)
          if (!v.is_integral()) refuse("%{} format: a real number is required, not {}", type, type_name(v));
        return integer_text(spec, v.is_integral() ? v.as_int() : static_cast<int64_t>(v.as_real()), 'd');
      }
      case 'x':
      case 'X':
      case 'o':
        require_defined(v);
        if (!v.is_integral()) refuse("%{} format: an integer is required, not {}", type, type_name(v));
        return integer_text(spec, v.as_int(), type);
      case 'c':
        if (v.is_string() && length_of(v) == 1) return std::string(v.text());
        refuse("%c requires a string of one character");
      case 'f':
      case 'F':
      case 'e':
      case 'E':
      case 'g':
      case 'G':
        return real_text(spec, real_of(v, type), type);
      default:
        refuse("unsupported format character '{}'", type);
    }
  }

  Renderer& r_;
  std::string_view format_;
  const Value& values_;
  size_t at_ = 0, next_ = 0;
  bool mapped_ = false;
  std::string out_;
};

// --- "{...}".format(values)

Spec parse_spec(std::string_view text) {
  Spec spec;
  constexpr std::string_view kAligns = "<>=^";
  const size_t first = text.empty() ? 0 : point_length(text, 0);
  if (first < text.size() && kAligns.find(text[first]) != std::string_view::npos) {
    spec.fill = text.substr(0, first);
    spec.align = text[first];
    text.remove_prefix(first + 1);
  } else if (!text.empty() && kAligns.find(text[0]) != std::string_view::npos) {
    spec.align = text[0];
    text.remove_prefix(1);
  }
  const auto take = [&](std::string_view any) {
    const bool there = !text.empty() && any.find(text[0]) != std::string_view::npos;
    const char c = there ? text[0] : '\0';
    if (there) text.remove_prefix(1);
    return c;
  };
  const auto number = [&] {
    int64_t n = 0;
    while (const char c = take("0123456789")) n = checked_width(n * 10 + (c - '0'));
    return n;
  };
  if (const char sign = take("+- ")) spec.sign = sign;
  spec.alternate = take("#") != '\0';
  spec.zero = take("0") != '\0';
  spec.width = number();
  spec.grouping = take(",_");
  if (take(".")) spec.precision = number();
  spec.type = text.size() == 1 ? text[0] : '\0';
  if (text.size() > 1) refuse("invalid format specifier");
  return spec;
}

std::string formatted(Renderer& r, const Value& v, std::string_view spec_text) {
  if (spec_text.empty()) return r.text(v);
  require_defined(v);
  const Spec spec = parse_spec(spec_text);
  const bool real_type =
      spec.type != '\0' && std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos;
  const bool integer_type =
      spec.type != '\0' && std::string_view("dxXob").find(spec.type) != std::string_view::npos;
  std::string text;
  if (v.is_integral() && spec.precision >= 0 && !real_type)
    refuse("precision not allowed in integer format specifier");
  if (v.is_integral() && (spec.type == '\0' || integer_type)) {
    text = integer_text(spec, v.as_int(), spec.type ? spec.type : 'd');
  } else if (v.is_number() && real_type) {
    const bool percent = spec.type == '%';
    text = real_text(spec, percent ? v.as_real() * 100 : v.as_real(), percent ? 'f' : spec.type) +
           (percent ? "%" : "");
  } else if (v.is(Kind::kFloat) && spec.type == '\0') {
    text = spec.precision < 0
               ? signed_text(spec, std::signbit(v.as_real()), format_real(std::fabs(v.as_real())))
               : real_text(spec, v.as_real(), 'g');
  } else if (v.is_string() && (spec.type == '\0' || spec.type == 's')) {
    text = spec.precision < 0 ? std::string(v.text()) : std::string(substring(v.text(), 0, spec.precision));
    if (spec.align == '=' || spec.sign != '-' || spec.grouping)
      refuse("format specifier not allowed for a string");
    Spec left = spec;
    if (spec.zero && !spec.align) left.fill = "0";
    return place(r.heap(), left, text, false);
  } else {
    refuse("unsupported format specifier '{}' for a value of type '{}'", spec_text, type_name(v));
  }
  if (spec.grouping) text = grouped(text, spec.grouping);
  return place(r.heap(), spec, text, true);
}

class Braces {
 public:
  Braces(Renderer& r, const Arguments& arguments) : r_(r), arguments_(arguments) {}

  std::string run(std::string_view format, int depth) {
    if (depth > 2) refuse("Max string recursion exceeded");
    std::string out;
    for (size_t at = 0; at < format.size();) {
      const char c = format[at];
      if ((c == '{' || c == '}') && at + 1 < format.size() && format[at + 1] == c) {
        out += c;
        at += 2;
      } else if (c == '}') {
        refuse("Single '}}' encountered in format string");
      } else if (c == '{') {
        const size_t end = closing(format, at);
        out += field(format.substr(at + 1, end - at - 1), depth);
        r_.heap().afford(static_cast<int64_t>(out.size()));
        at = end + 1;
      } else {
        out += c;
        ++at;
      }
    }
    return out;
  }

 private:
  static size_t closing(std::string_view format, size_t open) {
    int depth = 0;
    for (size_t at = open; at < format.size(); ++at) {
      depth += format[at] == '{';
      if (format[at] == '}' && --depth == 0) return at;
    }
    refuse("expected '}}' before end of string");
  }

  std::string field(std::string_view text, int depth) {
    const size_t bracket_end = text.find(']') == std::string_view::npos ? 0 : text.rfind(']');
    const size_t colon = text.find(':', bracket_end);
    std::string_view name = text.substr(0, std::min(colon, text.size()));
    const std::string spec = colon == std::string_view::npos ? "" : run(text.substr(colon + 1), depth + 1);
    char conversion = '\0';
    if (name.size() >= 2 && name[name.size() - 2] == '!') {
      conversion = name.back();
      name.remove_suffix(2);
    }
    Value v = lookup(name);
    if (conversion == 'r' || conversion == 'a') v = r_.string(to_literal(r_.heap(), v));
    if (conversion == 's') v = r_.string(r_.text(v));
    return formatted(r_, v, spec);
  }

  Value lookup(std::string_view name) {
    size_t at = std::min(name.find_first_of(".["), name.size());
    const std::string_view first = name.substr(0, at);
    const bool digits = !first.empty() && first.size() < 10 &&
                        first.find_first_not_of("0123456789") == std::string_view::npos;
    Value v;
    if (first.empty() || digits) {
      if (first.empty() ? numbered_ : automatic_ > 0)
        refuse("cannot switch between automatic field numbering and manual field specification");
      numbered_ = numbered_ || digits;
      const size_t index = digits ? static_cast<size_t>(std::stoll(std::string(first))) : automatic_++;
      if (index >= arguments_.positional.size())
        refuse("Replacement index {} out of range for positional args tuple", index);
      v = arguments_.positional[index];
    } else {
      const Value* named = arguments_.find(first);
      if (!named) refuse("the format's key '{}' is missing", first);
      v = *named;
    }
    while (at < name.size()) {
      const bool bracket = name[at] == '[';
      const size_t end =
          bracket ? name.find(']', at) : std::min(name.find_first_of(".[", at + 1), name.size());
      if (end == std::string_view::npos) refuse("Missing ']' in format string");
      const std::string key(name.substr(at + 1, end - at - 1));
      if (key.empty()) refuse("Empty attribute in format string");
      const bool index = key.size() < 18 && key.find_first_not_of("0123456789") == std::string::npos;
      v = !bracket ? r_.attribute(v, key)
                   : r_.item(v, index ? Value::integer(std::stoll(key)) : r_.string(key));
      at = end + bracket;
    }
    return v;
  }

  Renderer& r_;
  const Arguments& arguments_;
  size_t automatic_ = 0;
  bool numbered_ = false;
};

}  // namespace

std::string format_percent(Renderer& r, std::string_view format, const Value& values) {
  r.heap().copy(format.size());
  return Percent(r, format, values).run();
}

std::string format_braces(Renderer& r, std::string_view format, const Arguments& arguments) {
  r.heap().copy(format.size());
  return Braces(r, arguments).run(format, 0);
}

std::string format_time(Heap& heap, std::string_view format) {
  constexpr size_t kMaxFormat = 1000;
  if (format.size() > kMaxFormat) refuse("strftime_now: expected a format of at most {} bytes", kMaxFormat);
  heap.step(static_cast<int64_t>(format.size()));
  const std::time_t now = heap.limits().now_seconds ? heap.limits().now_seconds : std::time(nullptr);
  std::tm local{};
  if (heap.limits().now_seconds)
    gmtime_r(&now, &local);  // the seconds given are of local time
  else
    localtime_r(&now, &local);
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 == format.size()) {
      out += format[i];
      continue;
    }
    std::string one = "%";
    one += format[++i];
    if (one[1] == '-' && i + 1 < format.size()) one += format[++i];
    if (one == "%f") {
      out += "000000";
      continue;
    }
    char piece[256];
    out.append(piece, std::strftime(piece, sizeof piece, one.c_str(), &local));
  }
  return out;
}

}  // namespace awq::chat_template
