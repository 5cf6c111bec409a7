#include "eval/answer_task.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "runtime/engine.h"
#include "text/detokenizer.h"
#include "text/stop_strings.h"

namespace awq {
namespace {

constexpr const char* kInvalid = "[invalid]";
constexpr size_t kItemsAtOnce = 16;  // handed to the engine together, then logged
constexpr int64_t kSequences = 8;    // in one forward

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool in_number(char c) { return is_digit(c) || c == '.' || c == ','; }

std::string gsm8k_prompt(const TaskLine& line) { return "Question: " + line.text({"question"}) + "\nAnswer:"; }

std::string gsm8k_answer(const TaskLine& line) {
  std::string answer = line.text({"answer"});
  if (answer.find("#### ") == std::string::npos) line.refuse("\"answer\": expected the result behind \"#### \", which is missing");
  return answer;
}

// How gsm8k compares numbers.
std::string plain_number(std::string_view text) {
  if (const size_t mark = text.rfind("#### "); mark != std::string_view::npos) text.remove_prefix(mark + 5);
  std::string out;
  for (const char c : text)
    if (c != ',' && c != '$') out += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  if (out.ends_with('.')) out.pop_back();
  return out;
}

// One answer while it is written.
struct Writing {
  Writing(const std::shared_ptr<const Tokenizer>& tokenizer, const std::vector<std::string>& until) : pieces(tokenizer), stops(until) {}
  Detokenizer pieces;
  StopStrings stops;
  std::string text, error;

  bool take(int32_t token) {
    text += stops.push(pieces.push(token));
    return !stops.stopped();
  }
  void end() {
    if (stops.stopped()) return;
    text += stops.push(pieces.flush());
    if (!stops.stopped()) text += stops.flush();
  }
};

EngineOptions engine_for(const AnswerModel& m, const AnswerTask& task, const std::vector<std::vector<int32_t>>& prompts) {
  size_t longest = 1;
  for (const auto& p : prompts) longest = std::max(longest, p.size());
  EngineOptions options;
  options.end_ids = m.end_ids;
  options.max_sequences = kSequences;
  options.kv_pages = (kSequences + 1) * PageAllocator::pages_for(static_cast<int64_t>(longest) + task.max_tokens);
  return options;
}

// The model's context holds prompt and answer: what is too much of a prompt's beginning goes, as in the harness.
std::vector<int32_t> prompt_tokens(const AnswerModel& m, const AnswerTask& task, const std::string& text) {
  std::vector<int32_t> tokens = encode_prompt(*m.tokenizer, text);
  const int64_t room = m.model->config().max_position - task.max_tokens;
  if (m.model->config().max_position > 0 && room <= 0)
    fail(Code::kBadArgument, "--task {}: answers have up to {} tokens, the model's context only {}", task.name, task.max_tokens, m.model->config().max_position);
  if (m.model->config().max_position > 0 && static_cast<int64_t>(tokens.size()) > room) tokens.erase(tokens.begin(), tokens.end() - room);
  return tokens;
}

// The answers to each prompt.
std::vector<std::vector<std::string>> write_answers(Engine& engine, const AnswerModel& m, const AnswerTask& task, const Drawing& drawing,
                                                    const std::vector<std::vector<int32_t>>& prompts, const std::vector<uint64_t>& seeds) {
  std::vector<std::vector<Writing>> writing(prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    for (int64_t a = 0; a < drawing.answers; ++a) writing[i].emplace_back(m.tokenizer, task.until);
    Request request;
    request.prompt = prompts[i];
    request.max_tokens = task.max_tokens;
    request.n = static_cast<int32_t>(drawing.answers);
    request.sampling.seed = seeds[i];
    if (drawing.answers > 1) {
      request.sampling.temperature = drawing.temperature;
      request.sampling.top_p = drawing.top_p;
    }
    request.on_token = [&writing, i](const TokenEvent& e) { return writing[i][static_cast<size_t>(e.choice)].take(e.token); };
    request.on_finish = [&writing, i](const FinishEvent& e) {
      Writing& w = writing[i][static_cast<size_t>(e.choice)];
      w.end();
      if (e.reason == FinishReason::kError) w.error = e.error;
    };
    engine.add(std::move(request));
  }
  engine.run_until_idle();
  std::vector<std::vector<std::string>> out(prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i)
    for (Writing& w : writing[i]) {
      if (!w.error.empty()) fail(Code::kBadFile, "answering: {}", w.error);
      out[i].push_back(std::move(w.text));
    }
  return out;
}

TaskItem judge_number(const AnswerItem& item, int64_t index, const std::vector<std::string>& answers) {
  const std::string strict = strict_number(answers.front()), flexible = flexible_number(answers.front());
  TaskItem out{"", index, {same_number(strict, item.target) ? 1.0 : 0.0, same_number(flexible, item.target) ? 1.0 : 0.0}, {}};
  out.details = {{"target", plain_number(item.target)}, {"strict", strict}, {"flexible", flexible}, {"resps", answers}};
  return out;
}

TaskItem judge_program(const AnswerItem& item, int64_t index, const std::vector<std::string>& answers, const Sandbox& sandbox) {
  int64_t right = 0;
  std::vector<std::string> reasons;
  for (const std::string& answer : answers) {
    const SandboxResult result = sandbox.run(item.prompt + answer + item.test);
    right += result.end == SandboxEnd::kPassed;
    reasons.push_back(result.reason);
  }
  TaskItem out{"", index, {}, {{"task_id", item.target}, {"outcomes", reasons}, {"resps", answers}}};
  const auto n = static_cast<int64_t>(answers.size());
  for (const int64_t k : pass_ks(n)) out.scores.push_back(pass_at_k(n, right, k));
  return out;
}

}  // namespace

const AnswerTask& gsm8k_task() {
  static const AnswerTask task{"gsm8k", 256, {"Question:", "</s>", "<|im_end|>"}, 3};
  return task;
}

const AnswerTask& humaneval_task() {
  static const AnswerTask task{"humaneval", 1024, {"\nclass", "\ndef", "\n#", "\nif", "\nprint"}, 1};
  return task;
}

AnswerData read_gsm8k(const std::string& path, const std::string& fewshot, int64_t shots, int64_t limit) {
  const TaskFile file = read_task_file(path);
  AnswerData data{{}, file.name, file.sha256, {}, fewshot.empty() ? 0 : shots, static_cast<int64_t>(file.lines.size())};
  std::string front;
  if (data.shots > 0) {
    const TaskFile examples = read_task_file(fewshot);
    data.fewshot_sha256 = examples.sha256;
    if (static_cast<int64_t>(examples.lines.size()) < shots)
      fail(Code::kBadArgument, "{}: expected {} examples, got {}", fewshot, shots, examples.lines.size());
    for (int64_t i = 0; i < shots; ++i) {
      const TaskLine& line = examples.lines[static_cast<size_t>(i)];
      front += gsm8k_prompt(line) + " " + gsm8k_answer(line) + "\n\n";
    }
  }
  for (const TaskLine& line : file.lines) {
    if (limit > 0 && static_cast<int64_t>(data.items.size()) == limit) break;
    data.items.push_back({front + gsm8k_prompt(line), gsm8k_answer(line), {}});
  }
  return data;
}

AnswerData read_humaneval(const std::string& path, int64_t limit) {
  const TaskFile file = read_task_file(path);
  AnswerData data{{}, file.name, file.sha256, {}, 0, static_cast<int64_t>(file.lines.size())};
  for (const TaskLine& line : file.lines) {
    if (limit > 0 && static_cast<int64_t>(data.items.size()) == limit) break;
    const std::string test = "\n" + line.text({"test"}) + "\ncheck(" + line.text({"entry_point"}) + ")";
    data.items.push_back({line.text({"prompt"}), line.text({"task_id"}), test});
  }
  return data;
}

std::string strict_number(std::string_view answer) {
  for (size_t at = 0; (at = answer.find("#### ", at)) != std::string_view::npos; at += 5) {
    size_t end = at + 5;
    if (end < answer.size() && answer[end] == '-') ++end;
    const size_t digits = end;
    while (end < answer.size() && in_number(answer[end])) ++end;
    if (end > digits) return std::string(answer.substr(at + 5, end - at - 5));
  }
  return kInvalid;
}

std::string flexible_number(std::string_view answer) {
  std::string last = kInvalid;
  for (size_t at = 0; at < answer.size();) {
    const size_t begin = answer[at] == '-' ? at + 1 : at;
    size_t end = begin;
    while (end < answer.size() && (in_number(answer[end]) || answer[end] == '$')) ++end;
    const bool long_enough = end - begin >= 2, digit = end - begin == 1 && is_digit(answer[begin]);
    if (!long_enough && !digit) {
      ++at;
      continue;
    }
    last = std::string(answer.substr(at, end - at));
    at = end;
  }
  return last;
}

bool same_number(std::string_view found, std::string_view target) { return plain_number(found) == plain_number(target); }

double pass_at_k(int64_t n, int64_t right, int64_t k) {
  if (n - right < k) return 1;
  double none = 1;
  for (int64_t i = n - right + 1; i <= n; ++i) none *= 1 - static_cast<double>(k) / static_cast<double>(i);
  return 1 - none;
}

std::vector<int64_t> pass_ks(int64_t n) {
  std::vector<int64_t> out;
  for (const int64_t k : {1, 2, 5, 10, 20, 50, 100})
    if (k <= n) out.push_back(k);
  return out;
}

std::vector<std::string> answer_metrics(const AnswerTask& task, const Drawing& drawing) {
  if (std::string_view(task.name) == "gsm8k") return {"exact_match,strict-match", "exact_match,flexible-extract"};
  std::vector<std::string> out;
  for (const int64_t k : pass_ks(drawing.answers)) out.push_back(fmt::format("pass@{},create_test", k));
  return out;
}

TaskRun run_answer_task(const AnswerModel& m, const AnswerTask& task, const AnswerData& data, const Drawing& drawing, const Sandbox* sandbox,
                        TaskLog& log, const ProgressFn& progress) {
  TaskRun run;
  run.items.resize(data.items.size());
  std::vector<std::vector<int32_t>> prompts;
  for (const AnswerItem& item : data.items) prompts.push_back(prompt_tokens(m, task, item.prompt));
  Engine engine(m.model, engine_for(m, task, prompts));
  for (size_t begin = 0; begin < data.items.size(); begin += kItemsAtOnce) {
    check_cancelled();
    const size_t end = std::min(begin + kItemsAtOnce, data.items.size());
    std::vector<size_t> open;
    std::vector<std::vector<int32_t>> asked;
    std::vector<uint64_t> seeds;
    for (size_t i = begin; i < end; ++i) {
      if (const TaskItem* done = log.find("", static_cast<int64_t>(i))) {
        run.items[i] = *done;
        ++run.restored;
        continue;
      }
      open.push_back(i);
      asked.push_back(prompts[i]);
      seeds.push_back(mix(drawing.seed + i));
    }
    const auto answers = write_answers(engine, m, task, drawing, asked, seeds);
    for (size_t k = 0; k < open.size(); ++k) {
      const size_t i = open[k];
      const auto index = static_cast<int64_t>(i);
      run.items[i] = sandbox == nullptr ? judge_number(data.items[i], index, answers[k]) : judge_program(data.items[i], index, answers[k], *sandbox);
      log.add(run.items[i]);
    }
    if (progress) progress({task.name, static_cast<double>(end), static_cast<double>(data.items.size()), "items"});
  }
  const EngineStats stats = engine.stats();
  run.tokens_asked = stats.prompt_tokens;
  run.tokens_run = stats.prompt_tokens - stats.reused_tokens;
  return run;
}

}  // namespace awq
