#include "eval/task_result.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "base/error.h"
#include "base/system.h"
#include "checkpoint/json_file.h"
#include "eval/choice_task.h"

namespace awq {
namespace {

using nlohmann::ordered_json;

constexpr const char* kLogSchema = "awq.samples/1";

std::vector<double> column(const std::vector<TaskItem>& items, size_t metric) {
  std::vector<double> out;
  for (const TaskItem& item : items) out.push_back(item.scores.at(metric));
  return out;
}

// "acc,none" -> "acc_stderr,none"
std::string stderr_name(const std::string& metric) {
  const size_t comma = metric.find(',');
  return metric.substr(0, comma) + "_stderr" + metric.substr(comma);
}

void put(ordered_json& into, const std::string& metric, const TaskScore& score) {
  into[metric] = score.mean;
  into[stderr_name(metric)] = score.items > 1 ? ordered_json(score.stderr_of_mean) : ordered_json("N/A");
}

ordered_json item_json(const TaskItem& item) {
  ordered_json json = {{"doc_id", item.index}};
  if (!item.subject.empty()) json["subject"] = item.subject;
  json["scores"] = item.scores;
  if (item.details.is_object()) json.update(item.details);
  return json;
}

TaskItem parse_item(const ordered_json& json, const std::string& where) {
  try {
    TaskItem item{json.value("subject", ""), json.at("doc_id").get<int64_t>(), json.at("scores").get<std::vector<double>>(), {}};
    for (const auto& [key, value] : json.items())
      if (key != "doc_id" && key != "subject" && key != "scores") item.details[key] = value;
    return item;
  } catch (const nlohmann::json::exception& e) {
    fail(Code::kBadFile, "{}: expected an item of a task, got {}", where, e.what());
  }
}

// P(X <= k) for X ~ Binomial(n, 1/2), in logarithms so that no power under- or overflows.
double binomial_half_below(int64_t k, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i <= k; ++i) {
    const auto a = static_cast<double>(n), b = static_cast<double>(i);
    sum += std::exp(std::lgamma(a + 1) - std::lgamma(b + 1) - std::lgamma(a - b + 1) - a * std::log(2.0));
  }
  return sum;
}

struct Subject {
  std::string name;
  std::vector<TaskItem> items;
};

std::vector<Subject> by_subject(const std::vector<TaskItem>& items) {
  std::vector<Subject> out;
  for (const TaskItem& item : items) {
    auto at = std::find_if(out.begin(), out.end(), [&](const Subject& s) { return s.name == item.subject; });
    if (at == out.end()) at = out.insert(out.end(), {item.subject, {}});
    at->items.push_back(item);
  }
  return out;
}

struct HarnessJson {
  ordered_json results = ordered_json::object(), groups = ordered_json::object(), subtasks = ordered_json::object(),
               versions = ordered_json::object(), shots = ordered_json::object(), higher = ordered_json::object(),
               samples = ordered_json::object();

  void task(const std::string& name, const std::string& alias, const TaskReport& report, const std::vector<TaskItem>& items) {
    ordered_json entry = {{"alias", alias}};
    for (size_t m = 0; m < report.metrics.size(); ++m) put(entry, report.metrics[m], task_score(column(items, m)));
    results[name] = std::move(entry);
    describe(name, report);
    const auto all = items.empty() ? report.available.end() : report.available.find(items.front().subject);
    samples[name] = {{"original", all == report.available.end() ? static_cast<int64_t>(items.size()) : all->second}, {"effective", items.size()}};
  }

  void group(const std::string& name, const std::string& alias, const TaskReport& report, const std::vector<const Subject*>& parts,
             std::vector<std::string> members) {
    ordered_json entry = {{"alias", alias}};
    for (size_t m = 0; m < report.metrics.size(); ++m) {
      std::vector<TaskScore> scores;
      for (const Subject* s : parts) scores.push_back(task_score(column(s->items, m)));
      put(entry, report.metrics[m], pooled_score(scores));
    }
    results[name] = entry;
    groups[name] = std::move(entry);
    subtasks[name] = std::move(members);
    describe(name, report);
  }

 private:
  void describe(const std::string& name, const TaskReport& report) {
    versions[name] = report.version;
    shots[name] = report.shots;
    for (const std::string& metric : report.metrics) higher[name][metric.substr(0, metric.find(','))] = true;
  }
};

void mmlu_json(const TaskReport& report, HarnessJson& json) {
  const std::vector<Subject> subjects = by_subject(report.items);
  std::vector<const Subject*> all;
  std::map<std::string, std::vector<const Subject*>> fields;
  std::vector<std::string> names;
  for (const Subject& s : subjects) {
    all.push_back(&s);
    fields[mmlu_category(s.name)].push_back(&s);
  }
  for (const auto& [field, parts] : fields)
    if (!field.empty()) names.push_back("mmlu_" + field);
  json.group("mmlu", "mmlu", report, all, names);
  for (const auto& [field, parts] : fields) {
    std::vector<std::string> members;
    for (const Subject* s : parts) members.push_back("mmlu_" + s->name);
    if (!field.empty()) json.group("mmlu_" + field, " - " + field, report, parts, members);
    for (const Subject* s : parts) json.task("mmlu_" + s->name, "  - " + s->name, report, s->items);
  }
}

}  // namespace

TaskScore task_score(std::span<const double> scores) {
  TaskScore out;
  out.items = static_cast<int64_t>(scores.size());
  const auto n = static_cast<double>(scores.size());
  for (const double s : scores) out.mean += s;
  out.mean /= std::max(n, 1.0);
  double square = 0;
  for (const double s : scores) square += (s - out.mean) * (s - out.mean);
  if (scores.size() > 1) out.stderr_of_mean = std::sqrt(square / (n - 1) / n);
  return out;
}

TaskScore pooled_score(std::span<const TaskScore> parts) {
  TaskScore out;
  double sum = 0, variance = 0;
  for (const TaskScore& p : parts) {
    const auto n = static_cast<double>(p.items);
    out.items += p.items;
    sum += n * p.mean;
    variance += (n - 1) * n * p.stderr_of_mean * p.stderr_of_mean;
  }
  const auto n = static_cast<double>(out.items), freedom = n - static_cast<double>(parts.size());
  out.mean = sum / std::max(n, 1.0);
  if (freedom > 0) out.stderr_of_mean = std::sqrt(variance / freedom / n);
  return out;
}

PairedScore paired_score(std::span<const double> model, std::span<const double> reference) {
  check_internal(model.size() == reference.size(), "paired scores of different numbers of items");
  PairedScore out;
  out.items = static_cast<int64_t>(model.size());
  const auto n = static_cast<double>(model.size());
  double sum = 0, square = 0;
  bool yes_or_no = true;
  for (size_t i = 0; i < model.size(); ++i) {
    const double d = model[i] - reference[i];
    sum += d;
    square += d * d;
    out.only_model += d > 0;
    out.only_reference += d < 0;
    for (const double s : {model[i], reference[i]}) yes_or_no = yes_or_no && (s == 0 || s == 1);
  }
  if (model.empty()) return out;
  out.difference = sum / n;
  out.ci95 = 1.96 * std::sqrt(std::max(square - sum * sum / n, 0.0)) / n;
  out.tie = std::fabs(out.difference) <= out.ci95 || out.difference == 0;
  const int64_t discordant = out.only_model + out.only_reference;
  out.p = std::min(1.0, 2 * binomial_half_below(std::min(out.only_model, out.only_reference), discordant));
  if (!yes_or_no) out.p = std::numeric_limits<double>::quiet_NaN();
  return out;
}

ordered_json harness_json(const TaskReport& report) {
  HarnessJson json;
  if (report.task == "mmlu")
    mmlu_json(report, json);
  else
    json.task(report.task, report.task, report, report.items);
  ordered_json out = {{"results", json.results}};
  if (!json.groups.empty()) out["groups"] = json.groups;
  out["group_subtasks"] = json.groups.empty() ? ordered_json{{report.task, ordered_json::array()}} : json.subtasks;
  out["versions"] = json.versions;
  out["n-shot"] = json.shots;
  out["higher_is_better"] = json.higher;
  out["n-samples"] = json.samples;
  return out;
}

std::map<std::string, PairedScore> paired_scores(const TaskReport& report, const std::vector<TaskItem>& reference) {
  std::map<std::pair<std::string, int64_t>, const TaskItem*> other;
  for (const TaskItem& item : reference) other[{item.subject, item.index}] = &item;
  std::vector<TaskItem> aligned;
  for (const TaskItem& item : report.items) {
    const auto at = other.find({item.subject, item.index});
    if (at == other.end() || at->second->scores.size() != item.scores.size())
      fail(Code::kBadArgument, "--reference: expected an answer to every item, item {}{} has none", item.index,
           item.subject.empty() ? "" : " of " + item.subject);
    aligned.push_back(*at->second);
  }
  std::map<std::string, PairedScore> out;
  for (size_t m = 0; m < report.metrics.size(); ++m)
    out[report.metrics[m]] = paired_score(column(report.items, m), column(aligned, m));
  return out;
}

ordered_json paired_json(const TaskReport& report, const std::vector<TaskItem>& reference) {
  ordered_json out = ordered_json::object();
  for (const auto& [metric, p] : paired_scores(report, reference))
    out[metric] = {{"items", p.items},
                   {"difference", p.difference},
                   {"difference_ci95", p.ci95},
                   {"only_model", p.only_model},
                   {"only_reference", p.only_reference},
                   {"mcnemar_p", std::isnan(p.p) ? ordered_json(nullptr) : ordered_json(p.p)},
                   {"tie", p.tie}};
  return out;
}

LoggedTask read_task_log(const std::string& path) {
  const std::string bytes = read_text_file(path);
  LoggedTask out;
  size_t number = 0;
  for (size_t begin = 0; begin < bytes.size();) {
    const size_t end = bytes.find('\n', begin);
    if (end == std::string::npos) break;  // cut off while it was written
    const std::string where = fmt::format("{}:{}", path, ++number);
    ordered_json json = parse_json(std::string_view(bytes).substr(begin, end - begin), where);
    begin = end + 1;
    if (number > 1) {
      out.items.push_back(parse_item(json, where));
    } else if (json.is_object() && json.value("schema", "") == kLogSchema) {
      json.erase("schema");
      out.identity = std::move(json);
    } else {
      fail(Code::kBadFile, "{}: expected a file that --samples wrote ({}), got another", path, kLogSchema);
    }
  }
  if (number == 0) fail(Code::kBadFile, "{}: expected a file that --samples wrote ({}), got an empty one", path, kLogSchema);
  return out;
}

TaskLog::TaskLog(const std::string& path, const ordered_json& identity) : path_(path) {
  if (path.empty()) return;
  std::string whole;
  if (std::filesystem::exists(path)) {
    whole = read_text_file(path);
    whole.resize(whole.rfind('\n') == std::string::npos ? 0 : whole.rfind('\n') + 1);
  }
  if (whole.empty()) {
    ordered_json first = {{"schema", kLogSchema}};
    first.update(identity);
    write_file_atomic(path, first.dump() + "\n");
    return;
  }
  LoggedTask old = read_task_log(path);
  for (const auto& [key, value] : identity.items())
    if (!old.identity.contains(key) || old.identity.at(key) != value)
      fail(Code::kBadArgument, "--samples {}: belongs to another run: its {} is {}, now {}; name another file or remove it", path, key,
           old.identity.contains(key) ? old.identity.at(key).dump() : "missing", value.dump());
  write_file_atomic(path, whole);
  for (TaskItem& item : old.items) done_.emplace(std::pair(item.subject, item.index), std::move(item));
}

const TaskItem* TaskLog::find(const std::string& subject, int64_t index) const {
  const auto at = done_.find({subject, index});
  return at == done_.end() ? nullptr : &at->second;
}

void TaskLog::add(const TaskItem& item) {
  if (path_.empty()) return;
  std::ofstream file(path_, std::ios::app | std::ios::binary);
  file << item_json(item).dump(-1, ' ', false, ordered_json::error_handler_t::replace) << "\n" << std::flush;
  if (!file) fail(Code::kIo, "{}: cannot append a finished item", path_);
}

}  // namespace awq
