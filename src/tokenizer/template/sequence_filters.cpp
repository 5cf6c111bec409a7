// Filters of sequences and mappings.
#include <algorithm>
#include <iterator>

#include "tokenizer/template/filters.h"
#include "tokenizer/template/functions.h"
#include "tokenizer/template/text.h"

namespace awq::chat_template {
namespace {

using Args = const Arguments&;

Value folded(Renderer& r, const Value& v, bool case_sensitive) {
  return !case_sensitive && v.is_string() ? r.string(lower(v.text())) : v;
}

Value length(Renderer&, const Value& v, Signature& s, Args) {
  s.done();
  return Value::integer(length_of(v));
}

Value first(Renderer& r, const Value& v, Signature& s, Args) {
  s.done();
  const Value nothing = Value::undefined("No first item, sequence was empty.");
  if (v.is(Kind::kIterator)) {
    auto& it = v.as<IteratorObject>();
    return it.next < it.items.size() ? it.items[it.next++] : nothing;
  }
  if (v.is_string())
    return v.text().empty() ? nothing : r.string(std::string(v.text().substr(0, point_length(v.text(), 0))));
  if (v.is(Kind::kList) || v.is(Kind::kTuple))
    return length_of(v) > 0 ? r.item(v, Value::integer(0)) : nothing;
  const Values items = items_of(r.heap(), v);
  return items.empty() ? nothing : items[0];
}

Value last(Renderer& r, const Value& v, Signature& s, Args) {
  s.done();
  if (!has_length(v)) refuse("'{}' object is not reversible", type_name(v));
  if (length_of(v) == 0) return Value::undefined("No last item, sequence was empty.");
  if (v.is(Kind::kList) || v.is(Kind::kTuple) || v.is_string()) return r.item(v, Value::integer(-1));
  return items_of(r.heap(), v).back();
}

Value to_list(Renderer& r, const Value& v, Signature& s, Args) {
  s.done();
  return make_list(r.heap(), items_of(r.heap(), v));
}

Value join(Renderer& r, const Value& v, Signature& s, Args) {
  const Value* separator_value = s.next("d");
  const Value* attribute = s.next("attribute");
  s.done();
  const std::string separator = separator_value ? r.text(*separator_value) : "";
  std::string out;
  bool begun = false;
  for (const Value& item : items_of(r.heap(), v)) {
    const Value shown = attribute ? r.path(item, *attribute) : item;
    const std::string text = shown.is_string() ? std::string() : r.text(shown);
    const std::string_view piece = shown.is_string() ? shown.text() : std::string_view(text);
    r.heap().afford(static_cast<int64_t>(out.size() + separator.size() + piece.size()));
    r.heap().copy(separator.size() + piece.size());
    if (begun) out += separator;
    out += piece;
    begun = true;
  }
  return r.string(std::move(out));
}

Value reverse(Renderer& r, const Value& v, Signature& s, Args) {
  s.done();
  if (v.is_string()) return r.slice(v, Value::none(), Value::none(), Value::integer(-1));
  const bool is_list = v.is(Kind::kIterator);  // not reversible: drawn first
  Values items = items_of(r.heap(), v);
  std::reverse(items.begin(), items.end());
  return is_list ? make_list(r.heap(), std::move(items))
                 : make_iterator(r.heap(), std::move(items), "reversed");
}

Value items(Renderer& r, const Value& v, Signature& s, Args) {
  s.done();
  if (v.is_undefined()) return make_iterator(r.heap(), {});
  if (!v.is(Kind::kDict)) refuse("Can only get item pairs from a mapping.");
  Values out;
  for (const auto& [key, value] : v.as<DictObject>().entries)
    out.push_back(make_tuple(r.heap(), {key, value}));
  return make_iterator(r.heap(), std::move(out));
}

// Orders `values` by `keys`, stably; `reverse` keeps equal ones in their order, too, as Python does.
Values sorted(Renderer& r, Values values, const Values& keys, bool reverse) {
  std::vector<size_t> order(values.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return reverse ? compare(r.heap(), keys[b], keys[a]) == -1 : compare(r.heap(), keys[a], keys[b]) == -1;
  });
  Values out;
  for (const size_t i : order) out.push_back(values[i]);
  return out;
}

Value dictsort(Renderer& r, const Value& v, Signature& s, Args) {
  const bool case_sensitive = s.flag("case_sensitive");
  const std::string by(s.string("by").value_or("key"));
  const bool reverse_order = s.flag("reverse");
  s.done();
  if (by != "key" && by != "value") refuse("You can only sort by either \"key\" or \"value\"");
  require_defined(v);
  if (!v.is(Kind::kDict)) refuse("dictsort: expected a mapping, got '{}'", type_name(v));
  Values pairs, keys;
  for (const auto& [key, value] : v.as<DictObject>().entries) {
    pairs.push_back(make_tuple(r.heap(), {key, value}));
    keys.push_back(folded(r, by == "key" ? key : value, case_sensitive));
  }
  return make_list(r.heap(), sorted(r, std::move(pairs), keys, reverse_order));
}

// The keys that "a.b,c" names, as a list; without attribute the item itself, as a list, too.
Value sort_key(Renderer& r, const Value& item, const Value* attribute, bool case_sensitive) {
  Values key;
  if (attribute && attribute->is_string())
    for (const std::string_view part : split_at(attribute->text(), ",", -1, false))
      key.push_back(folded(r, r.path(item, r.string(std::string(part))), case_sensitive));
  else
    key.push_back(folded(r, attribute ? r.path(item, *attribute) : item, case_sensitive));
  return make_list(r.heap(), std::move(key));
}

Value sort(Renderer& r, const Value& v, Signature& s, Args) {
  const bool reverse_order = s.flag("reverse"), case_sensitive = s.flag("case_sensitive");
  const Value* attribute = s.next("attribute");
  s.done();
  Values values = items_of(r.heap(), v), keys;
  for (const Value& item : values) keys.push_back(sort_key(r, item, attribute, case_sensitive));
  return make_list(r.heap(), sorted(r, std::move(values), keys, reverse_order));
}

Value unique(Renderer& r, const Value& v, Signature& s, Args) {
  const bool case_sensitive = s.flag("case_sensitive");
  const Value* attribute = s.next("attribute");
  s.done();
  const auto seen = new_dict(r.heap());
  Values out;
  for (const Value& item : items_of(r.heap(), v)) {
    const Value key = folded(r, attribute ? r.path(item, *attribute) : item, case_sensitive);
    if (seen->find(r.heap(), key)) continue;
    seen->set(r.heap(), key, Value::none());
    out.push_back(item);
  }
  return make_iterator(r.heap(), std::move(out));
}

template <bool kLargest>
Value extreme(Renderer& r, const Value& v, Signature& s, Args) {
  const bool case_sensitive = s.flag("case_sensitive");
  const Value* attribute = s.next("attribute");
  s.done();
  const Values values = items_of(r.heap(), v);
  if (values.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  const auto key = [&](const Value& item) {
    return folded(r, attribute ? r.path(item, *attribute) : item, case_sensitive);
  };
  size_t best = 0;
  Value best_key = key(values[0]);
  for (size_t i = 1; i < values.size(); ++i) {
    Value other = key(values[i]);
    if (compare(r.heap(), kLargest ? best_key : other, kLargest ? other : best_key) != -1) continue;
    best = i;
    best_key = std::move(other);
  }
  return values[best];
}

Value sum(Renderer& r, const Value& v, Signature& s, Args) {
  const Value* attribute = s.next("attribute");
  const Value* start = s.next("start");
  s.done();
  Value total = start ? *start : Value::integer(0);
  if (total.is_string()) refuse("sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& item : items_of(r.heap(), v))
    total = r.binary(kAdd, total, attribute && !attribute->is(Kind::kNone) ? r.path(item, *attribute) : item);
  return total;
}

Value batch(Renderer& r, const Value& v, Signature& s, Args) {
  const int64_t count = s.integer("linecount").value_or(0);
  const Value* fill = s.next("fill_with");
  s.done();
  Values out, row;
  for (const Value& item : items_of(r.heap(), v)) {
    if (static_cast<int64_t>(row.size()) == count) out.push_back(make_list(r.heap(), std::exchange(row, {})));
    row.push_back(item);
  }
  if (!row.empty()) {
    if (fill && !fill->is(Kind::kNone)) {
      r.heap().afford(count > (1 << 30) ? INT64_MAX : count * static_cast<int64_t>(sizeof(Value)));
      while (static_cast<int64_t>(row.size()) < count) r.heap().step(), row.push_back(*fill);
    }
    out.push_back(make_list(r.heap(), std::move(row)));
  }
  return make_iterator(r.heap(), std::move(out));
}

Value slice(Renderer& r, const Value& v, Signature& s, Args) {
  const int64_t slices = s.integer("slices").value_or(0);
  const Value* fill = s.next("fill_with");
  s.done();
  const Values values = items_of(r.heap(), v);
  if (slices == 0) refuse("integer division or modulo by zero");
  const auto total = static_cast<int64_t>(values.size());
  const int64_t each = slices > 0 ? total / slices : 0, extra = slices > 0 ? total % slices : 0;
  Values out;
  int64_t offset = 0;
  for (int64_t i = 0; i < slices; ++i) {
    r.heap().step();
    const int64_t begin = offset + i * each;
    if (i < extra) ++offset;
    const int64_t end = offset + (i + 1) * each;
    Values part(values.begin() + begin, values.begin() + end);
    if (fill && !fill->is(Kind::kNone) && i >= extra) part.push_back(*fill);
    out.push_back(make_list(r.heap(), std::move(part)));
  }
  return make_iterator(r.heap(), std::move(out));
}

Value groupby(Renderer& r, const Value& v, Signature& s, Args) {
  const Value attribute = s.required("attribute");
  const Value* fallback = s.next("default");
  const bool case_sensitive = s.flag("case_sensitive");
  s.done();
  const auto key = [&](const Value& item) {
    Value found = r.path(item, attribute);
    return found.is_undefined() && fallback && !fallback->is(Kind::kNone) ? *fallback : found;
  };
  Values values = items_of(r.heap(), v), keys;
  for (const Value& item : values) keys.push_back(folded(r, key(item), case_sensitive));
  values = sorted(r, std::move(values), keys, false);
  Values out;
  for (size_t i = 0; i < values.size();) {
    const Value group = folded(r, key(values[i]), case_sensitive);
    Values members;
    const Value shown = key(values[i]);
    for (; i < values.size() && equal(r.heap(), folded(r, key(values[i]), case_sensitive), group); ++i)
      members.push_back(values[i]);
    Value pair = make_tuple(r.heap(), {shown, make_list(r.heap(), std::move(members))});
    pair.as<ListObject>().is_group = true;
    out.push_back(std::move(pair));
  }
  return make_list(r.heap(), std::move(out));
}

// --- map, select and their kin

Arguments rest_of(Args args, size_t from) {
  Arguments rest;
  rest.positional.assign(
      args.positional.begin() + static_cast<std::ptrdiff_t>(std::min(from, args.positional.size())),
      args.positional.end());
  rest.named = args.named;
  return rest;
}

Value map_attribute(Renderer& r, const Value& v, Args args) {
  const Value* attribute = args.find("attribute");
  const Value* fallback = args.find("default");
  for (const auto& [name, value] : args.named)
    if (name != "attribute" && name != "default") refuse("Unexpected keyword argument '{}'", name);
  Values out;
  for (const Value& item : items_of(r.heap(), v)) {
    Value found = r.path(item, *attribute);
    out.push_back(found.is_undefined() && fallback && !fallback->is(Kind::kNone) ? *fallback : found);
  }
  return make_iterator(r.heap(), std::move(out));
}

Value map(Renderer& r, const Value& v, Signature&, Args args) {
  if (!truth(v)) return make_iterator(r.heap(), {});
  if (args.positional.empty() && args.find("attribute")) return map_attribute(r, v, args);
  if (args.positional.empty()) refuse("map requires a filter argument");
  const std::string name = r.text(args.positional[0]);
  const int index = find_filter(name);
  const Arguments rest = rest_of(args, 1);
  Values out;
  for (const Value& item : items_of(r.heap(), v)) out.push_back(r.filter(index, name, item, rest));
  return make_iterator(r.heap(), std::move(out));
}

template <bool kByAttribute, bool kWanted>
Value select(Renderer& r, const Value& v, Signature&, Args args) {
  if (!truth(v)) return make_iterator(r.heap(), {});
  if (kByAttribute && args.positional.empty()) refuse("Missing parameter for attribute name");
  const size_t at = kByAttribute ? 1 : 0;
  const bool has_test = args.positional.size() > at;
  const std::string name = has_test ? r.text(args.positional[at]) : "";
  const int index = has_test ? find_test(name) : -1;
  const Arguments rest = rest_of(args, at + 1);
  Values out;
  for (const Value& item : items_of(r.heap(), v)) {
    const Value tested = kByAttribute ? r.path(item, args.positional[0]) : item;
    if ((has_test ? r.test(index, name, tested, rest) : truth(tested)) == kWanted) out.push_back(item);
  }
  return make_iterator(r.heap(), std::move(out));
}

}  // namespace

const std::vector<NamedFilter>& sequence_filters() {
  static const std::vector<NamedFilter> table = {
      {"batch", batch},
      {"count", length},
      {"dictsort", dictsort},
      {"first", first},
      {"groupby", groupby},
      {"items", items},
      {"join", join},
      {"last", last},
      {"length", length},
      {"list", to_list},
      {"map", map},
      {"max", extreme<true>},
      {"min", extreme<false>},
      {"reject", select<false, false>},
      {"rejectattr", select<true, false>},
      {"reverse", reverse},
      {"select", select<false, true>},
      {"selectattr", select<true, true>},
      {"slice", slice},
      {"sort", sort},
      {"sum", sum},
      {"unique", unique},
  };
  return table;
}

}  // namespace awq::chat_template
