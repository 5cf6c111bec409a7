#include "eval/mtbench.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/printable.h"
#include "eval/task_text.h"
#include "runtime/engine.h"
#include "text/detokenizer.h"

namespace awq {
namespace {

constexpr size_t kItemsAtOnce = 8;
constexpr int kVerdicts = 3;  // asked for until one holds a rating

constexpr const char* kJudgeSystem =
    "You rate the answers of an AI assistant. Look at how well an answer does what was asked, whether it is correct, complete, clear and as long as it should be. "
    "Length alone is no merit. Explain your view in a few sentences, then end with a whole number from 1 (useless) to 10 (could not be better) in double square "
    "brackets, for instance: [[6]]";

std::vector<std::string> texts(const TaskLine& line, const char* key, size_t least, size_t most) {
  const auto& json = line.json();
  const auto found = json.find(key);
  const auto wrong = [&] { line.refuse(fmt::format("\"{}\": expected a list of {} texts", key, least == most ? fmt::format("{}", least) : fmt::format("{} to {}", least, most))); };
  if (found == json.end() || !found->is_array() || found->size() < least || found->size() > most) wrong();
  std::vector<std::string> out;
  for (const auto& text : *found) {
    if (!text.is_string()) wrong();
    out.push_back(text.get<std::string>());
  }
  return out;
}

std::string conversation(const MtBenchItem& item, const std::vector<std::string>& answers) {
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  for (size_t turn = 0; turn <= answers.size(); ++turn) {
    messages.push_back({{"role", "user"}, {"content", item.turns[turn]}});
    if (turn < answers.size()) messages.push_back({{"role", "assistant"}, {"content", answers[turn]}});
  }
  return messages.dump();
}

struct Writing {
  explicit Writing(const std::shared_ptr<const Tokenizer>& tokenizer) : pieces(tokenizer) {}
  Detokenizer pieces;
  std::string text, error;
};

class Bench {
 public:
  Bench(const AnswerModel& model, const ChatRenderer& chat, int64_t max_tokens, uint64_t seed)
      : model_(model), chat_(chat), max_tokens_(max_tokens), seed_(seed), engine_(model.model, options()) {}

  // The next answer of each conversation.
  void answer(const std::vector<const MtBenchItem*>& items, std::vector<std::vector<std::string>>& answers) {
    std::vector<Writing> writing(items.size(), Writing(model_.tokenizer));
    for (size_t i = 0; i < items.size(); ++i) {
      Request request;
      request.prompt = prompt(*items[i], answers[i]);
      request.max_tokens = max_tokens_;
      request.sampling.temperature = mtbench_temperature(items[i]->category);
      request.sampling.seed = seed_ + static_cast<uint64_t>(items[i]->id) * 2 + answers[i].size();
      request.on_token = [&writing, i](const TokenEvent& e) {
        writing[i].text += writing[i].pieces.push(e.token);
        return true;
      };
      request.on_finish = [&writing, i](const FinishEvent& e) {
        writing[i].text += writing[i].pieces.flush();
        if (e.reason == FinishReason::kError) writing[i].error = e.error;
      };
      engine_.add(std::move(request));
    }
    engine_.run_until_idle();
    for (size_t i = 0; i < items.size(); ++i) {
      if (!writing[i].error.empty()) fail(Code::kBadFile, "answering question {}: {}", items[i]->id, writing[i].error);
      answers[i].push_back(std::move(writing[i].text));
    }
  }

  EngineStats stats() const { return engine_.stats(); }

 private:
  EngineOptions options() const {
    EngineOptions o;
    o.end_ids = model_.end_ids;
    if (const auto end = chat_.turn_end(*model_.tokenizer); end && std::find(o.end_ids.begin(), o.end_ids.end(), *end) == o.end_ids.end())
      o.end_ids.push_back(*end);
    o.max_sequences = kItemsAtOnce;
    // Both questions, both answers, and a question far longer than usual.
    const int64_t most = model_.model->config().max_position, room = 4 * max_tokens_ + 2048;
    o.kv_pages = static_cast<int64_t>(kItemsAtOnce + 1) * PageAllocator::pages_for(most > 0 ? std::min(most, room) : room);
    return o;
  }

  std::vector<int32_t> prompt(const MtBenchItem& item, const std::vector<std::string>& answers) const {
    Conversation c;
    c.messages = conversation(item, answers);
    std::vector<int32_t> tokens = chat_.encode(c, *model_.tokenizer);
    const int64_t most = model_.model->config().max_position;
    if (most > 0 && static_cast<int64_t>(tokens.size()) + max_tokens_ > most)
      fail(Code::kBadArgument, "--task mtbench: question {} takes {} tokens and its answer up to {}, the model's context holds {}: use a smaller --max-tokens",
           item.id, tokens.size(), max_tokens_, most);
    return tokens;
  }

  const AnswerModel& model_;
  const ChatRenderer& chat_;
  int64_t max_tokens_;
  uint64_t seed_;
  Engine engine_;
};

double rate(const JudgeFn& judge, const MtBenchItem& item, const std::vector<std::string>& answers, std::string& verdict) {
  for (int i = 0; i < kVerdicts; ++i) {
    check_cancelled();
    verdict = judge(kJudgeSystem, judge_question(item, answers));
    if (const auto rating = judge_rating(verdict)) return *rating;
  }
  fail(Code::kBadFile, "question {}: expected a rating as [[1]] to [[10]] from the judge, got '{}'", item.id, printable(verdict, 160));
}

}  // namespace

MtBenchData read_mtbench(const std::string& path, int64_t limit) {
  const TaskFile file = read_task_file(path);
  MtBenchData data{{}, file.name, file.sha256, static_cast<int64_t>(file.lines.size())};
  for (const TaskLine& line : file.lines) {
    if (limit > 0 && static_cast<int64_t>(data.items.size()) == limit) break;
    MtBenchItem item;
    const auto id = line.json().find("question_id");
    if (id == line.json().end() || !id->is_number_integer()) line.refuse("\"question_id\": expected a whole number");
    item.id = id->get<int64_t>();
    item.category = line.text({"category"});
    item.turns = texts(line, "turns", 2, 2);
    if (line.has("reference")) item.references = texts(line, "reference", 1, 2);
    data.items.push_back(std::move(item));
  }
  return data;
}

float mtbench_temperature(const std::string& category) {
  if (category == "writing" || category == "roleplay") return 0.7F;
  if (category == "stem" || category == "humanities") return 0.1F;
  return 0;
}

std::string judge_question(const MtBenchItem& item, const std::vector<std::string>& answers) {
  std::string out;
  for (size_t turn = 0; turn < answers.size(); ++turn) {
    const std::string number = answers.size() > 1 ? fmt::format(" {}", turn + 1) : "";
    out += fmt::format("<question{0}>\n{1}\n</question{0}>\n\n", number, item.turns[turn]);
    if (turn < item.references.size()) out += fmt::format("<correct answer{0}>\n{1}\n</correct answer{0}>\n\n", number, item.references[turn]);
    out += fmt::format("<assistant's answer{0}>\n{1}\n</assistant's answer{0}>\n\n", number, answers[turn]);
  }
  return out + (answers.size() > 1 ? "Rate the last of the assistant's answers, as the next step of this conversation." : "Rate the assistant's answer.");
}

std::optional<double> judge_rating(const std::string& verdict) {
  size_t end = std::string::npos;
  while ((end = verdict.rfind("]]", end)) != std::string::npos) {
    const size_t begin = verdict.rfind("[[", end);
    if (begin == std::string::npos) return {};
    double rating = 0;
    const char *first = verdict.data() + begin + 2, *last = verdict.data() + end;
    const auto [stop, error] = std::from_chars(first, last, rating, std::chars_format::fixed);
    if (error == std::errc() && stop == last && rating >= 1 && rating <= 10) return rating;
    if (end == 0) return {};
    --end;
  }
  return {};
}

std::vector<std::string> mtbench_metrics() { return {"rating,turn-1", "rating,turn-2", "rating,mean"}; }

TaskRun run_mtbench(const AnswerModel& model, const ChatRenderer& chat, const MtBenchData& data, int64_t max_tokens, uint64_t seed, const JudgeFn& judge,
                    TaskLog& log, const ProgressFn& progress) {
  TaskRun run;
  run.items.resize(data.items.size());
  Bench bench(model, chat, max_tokens, seed);
  for (size_t begin = 0; begin < data.items.size(); begin += kItemsAtOnce) {
    const size_t end = std::min(begin + kItemsAtOnce, data.items.size());
    std::vector<size_t> open;
    std::vector<const MtBenchItem*> items;
    for (size_t i = begin; i < end; ++i) {
      if (const TaskItem* done = log.find("", static_cast<int64_t>(i))) {
        run.items[i] = *done;
        ++run.restored;
      } else {
        open.push_back(i);
        items.push_back(&data.items[i]);
      }
    }
    std::vector<std::vector<std::string>> answers(items.size());
    for (int turn = 0; turn < 2; ++turn) bench.answer(items, answers);
    for (size_t k = 0; k < open.size(); ++k) {
      std::vector<std::string> verdicts(2);
      const double first = rate(judge, *items[k], {answers[k][0]}, verdicts[0]), second = rate(judge, *items[k], answers[k], verdicts[1]);
      TaskItem& item = run.items[open[k]];
      item = {"", static_cast<int64_t>(open[k]), {first, second, (first + second) / 2}, {}};
      item.details = {{"question_id", items[k]->id}, {"category", items[k]->category}, {"resps", answers[k]}, {"verdicts", verdicts}};
      log.add(item);
    }
    if (progress) progress({"mtbench", static_cast<double>(end), static_cast<double>(data.items.size()), "items"});
  }
  const EngineStats stats = bench.stats();
  run.tokens_asked = stats.prompt_tokens;
  run.tokens_run = stats.prompt_tokens - stats.reused_tokens;
  return run;
}

}  // namespace awq
