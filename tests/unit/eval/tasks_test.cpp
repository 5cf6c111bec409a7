#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/error.h"
#include "eval/choice_task.h"
#include "eval/likelihood.h"
#include "eval/task_result.h"
#include "unit/model/golden.h"

namespace awq {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class TaskFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::temp_directory_path() / ("awq-tasks-" + std::to_string(::getpid()));
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(dir_ / name, std::ios::binary) << text;
    return (dir_ / name).string();
  }
  ChoiceItem only(const char* task, const std::string& line) const {
    const auto data = read_choice_data(*find_choice_task(task), write("one.jsonl", line + "\n"), "", 0, 0);
    return data.items.at(0);
  }
  std::string refusal(const char* task, const std::string& text) const {
    try {
      read_choice_data(*find_choice_task(task), write("bad.jsonl", text), "", 0, 0);
    } catch (const Error& e) {
      return e.what();
    }
    return "accepted";
  }
  std::filesystem::path dir_;
};

TEST_F(TaskFiles, PromptsAreTheHarnesss) {
  ChoiceItem i = only("arc_easy", R"({"question": "Why?", "choices": {"text": ["a", "bb"], "label": ["1", "2"]}, "answerKey": "2"})");
  EXPECT_THAT(i.contexts, ElementsAre("Question: Why?\nAnswer:"));
  EXPECT_THAT(i.continuations, ElementsAre(" a", " bb"));
  EXPECT_THAT(i.lengths, ElementsAre(1, 2));
  EXPECT_EQ(i.gold, 1);
  i = only("openbookqa", R"({"question": "The sky is", "choices": ["blue", "red"], "answer": 0})");
  EXPECT_THAT(i.contexts, ElementsAre("The sky is"));
  i = only("piqa", R"({"goal": "Open it", "sol1": "push", "sol2": "größer", "label": 1})");
  EXPECT_THAT(i.contexts, ElementsAre("Question: Open it\nAnswer:"));
  EXPECT_THAT(i.lengths, ElementsAre(4, 6));
  i = only("winogrande", R"({"sentence": "Ann met Bea and _ smiled. ", "option1": "Ann", "option2": "Bea", "answer": "2"})");
  EXPECT_THAT(i.contexts, ElementsAre("Ann met Bea and Ann", "Ann met Bea and Bea"));
  EXPECT_THAT(i.continuations, ElementsAre(" smiled."));
  EXPECT_EQ(i.gold, 1);
}

TEST_F(TaskFiles, HellaswagIsCleaned) {
  const ChoiceItem i = only("hellaswag", R"({"activity_label": "Roof", "ctx_a": "[header] How to [title] Start", "ctx_b": "THE man", "endings": [" goes  up.", "[step] down [substeps] again"], "label": "0"})");
  // The leading mark goes with its brackets, " [title]" becomes ". ", and two spaces become one.
  EXPECT_THAT(i.contexts, ElementsAre("Roof: How to. Start The man"));
  EXPECT_THAT(i.continuations, ElementsAre(" goes up.", "  down again"));
}

TEST_F(TaskFiles, MmluHasExamplesOfItsSubject) {
  const auto line = [](const char* subject, const char* question, int answer) {
    return fmt::format(R"({{"subject": "{}", "question": "{}", "choices": ["w", "x", "y", "z"], "answer": {}}})"
                       "\n",
                       subject, question, answer);
  };
  const std::string data = write("d.jsonl", line("high_school_physics", " q1 ", 0) + line("law", "q2", 1) + line("high_school_physics", "q3", 2));
  const std::string dev = write("f.jsonl", line("law", "e1", 3) + line("high_school_physics", "e2", 1) + line("law", "e3", 0));
  const ChoiceTask& mmlu = *find_choice_task("mmlu");
  const ChoiceData found = read_choice_data(mmlu, data, dev, 1, 1);
  ASSERT_EQ(found.items.size(), 2U);
  EXPECT_EQ(found.items[0].contexts[0],
            "The following are multiple choice questions (with answers) about high school physics.\n\n"
            "e2\nA. w\nB. x\nC. y\nD. z\nAnswer: B\n\nq1\nA. w\nB. x\nC. y\nD. z\nAnswer:");
  EXPECT_THAT(found.items[0].continuations, ElementsAre(" A", " B", " C", " D"));
  EXPECT_EQ(found.available.at("high_school_physics"), 2);
  EXPECT_THROW(read_choice_data(mmlu, data, dev, 2, 0), Error);
}

TEST_F(TaskFiles, BadLinesAreNamed) {
  EXPECT_THAT(refusal("piqa", "{\"goal\": \"a\", \"sol1\": \"b\", \"sol2\": \"c\", \"label\": 0}\n\n{\"goal\": \"a\"}\n"), HasSubstr("bad.jsonl:3: expected the key \"sol1\""));
  EXPECT_THAT(refusal("arc_easy", R"({"question": "q", "choices": ["a", "b"], "answer": 2})"), HasSubstr("expected a whole number from 0 to 1, the right choice, got 2"));
  EXPECT_THAT(refusal("arc_easy", R"({"question": "q", "choices": ["a", "b"], "labels": ["A", "B"], "answerKey": "C"})"), HasSubstr("got \"C\""));
  EXPECT_THAT(refusal("winogrande", R"({"question": "no gap", "choices": ["a", "b"], "answer": 0})"), HasSubstr("a gap written as _"));
  EXPECT_THAT(refusal("openbookqa", "[1]"), HasSubstr("expected a JSON object, got [1]"));
  EXPECT_THAT(refusal("openbookqa", "\n \n"), HasSubstr("expected one JSON object a line"));
  EXPECT_THAT(refusal("openbookqa", "{\"question\": \""), HasSubstr("bad.jsonl:1"));
}

TEST(Stripping, KnowsUnicodesSpaces) {
  EXPECT_EQ(stripped("\u00a0\u3000 a b\u2003\x1c\n"), "a b");
  EXPECT_EQ(stripped(" \xff "), "\xff");
  EXPECT_EQ(stripped(" \n"), "");
}

TEST(Judging, TakesTheFirstOfTheLargest) {
  const ChoiceItem item{"", {"c"}, {" a", " b", " c"}, {1, 4, 2}, 1};
  const ChoiceOutcome o = judge(item, {-2, -4, -2});
  EXPECT_EQ(o.chosen, 0);
  EXPECT_EQ(o.chosen_norm, 1);
  EXPECT_FALSE(o.right);
  EXPECT_TRUE(o.right_norm);
}

// Of each input on its own, without a cache.
double alone(const Model& model, const LikelihoodRequest& r) {
  std::vector<int32_t> tokens = r.context, positions;
  tokens.insert(tokens.end(), r.continuation.begin(), r.continuation.end() - 1);
  for (size_t i = 0; i < tokens.size(); ++i) positions.push_back(static_cast<int32_t>(i));
  const SpanView whole{0, static_cast<int64_t>(tokens.size()), 0, nullptr};
  Scratch scratch;
  std::vector<float> hidden, logits(tokens.size() * static_cast<size_t>(model.config().vocab));
  model.forward({tokens, positions, {&whole, 1}}, nullptr, scratch, hidden);
  model.logits(hidden.data(), whole.tokens, logits.data());
  double sum = 0;
  for (size_t i = 0; i < r.continuation.size(); ++i) {
    double logprob = 0;
    const size_t row = r.context.size() + i - 1;
    log_softmax_gather(logits.data() + row * static_cast<size_t>(model.config().vocab), 1, model.config().vocab, &r.continuation[i], &logprob);
    sum += logprob;
  }
  return sum;
}

TEST(LikelihoodScorer, SharedBeginningsChangeNothing) {
  for (const char* name : {"llama-defaults", "llama-dynamic"}) {
    const auto model = Model::load(*Checkpoint::open(testing::golden_root() / name));
    std::mt19937 random(3);
    const auto tokens = [&](size_t n) {
      std::vector<int32_t> out(n);
      for (int32_t& t : out) t = static_cast<int32_t>(random() % static_cast<uint32_t>(model->config().vocab));
      return out;
    };
    const auto joined = [](std::vector<int32_t> a, const std::vector<int32_t>& b) {
      a.insert(a.end(), b.begin(), b.end());
      return a;
    };
    const std::vector<int32_t> front = tokens(21);
    {
      LikelihoodScorer scorer(*model, 64);
      for (int call = 0; call < 2; ++call) {
        std::vector<LikelihoodRequest> requests;
        for (int question = 0; question < 5; ++question) {
          const std::vector<int32_t> context = joined(front, tokens(1 + random() % 14));
          for (int choice = 0; choice < 3; ++choice) requests.push_back({context, tokens(1 + random() % 4)});
          requests.push_back({context, requests.back().continuation});  // asked twice
        }
        const auto found = scorer.score(requests);
        for (size_t i = 0; i < requests.size(); ++i) EXPECT_NEAR(found[i].logprob, alone(*model, requests[i]), 2e-4) << name << " " << i;
        for (size_t i = 3; i < requests.size(); i += 4) EXPECT_EQ(found[i].logprob, found[i - 1].logprob);
      }
      if (!model->config().rope.depends_on_length()) {
        EXPECT_LT(2 * scorer.tokens_run(), scorer.tokens_asked()) << "nothing was shared";
      }
    }
  }
}

TEST(LikelihoodScorer, GreedyMeansEveryTokenIsTheLikeliest) {
  const auto model = Model::load(*Checkpoint::open(testing::golden_root() / "llama-defaults"));
  LikelihoodScorer scorer(*model);
  std::vector<LikelihoodRequest> requests;
  for (int32_t t = 0; t < model->config().vocab; ++t) requests.push_back({{3, 4}, {t}});
  const auto found = scorer.score(requests);
  size_t best = 0;
  double sum = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i].logprob > found[best].logprob) best = i;
    sum += std::exp(found[i].logprob);
  }
  for (size_t i = 0; i < found.size(); ++i) EXPECT_EQ(found[i].greedy, i == best);
  EXPECT_NEAR(sum, 1, 1e-5);
  EXPECT_EQ(scorer.tokens_run(), 2) << "one input, read once";
}

TEST(Scores, StandardErrorsAreTheHarnesss) {
  const std::vector<double> a = {1, 0, 1, 1}, b = {0, 1};
  EXPECT_NEAR(task_score(a).mean, 0.75, 1e-12);
  EXPECT_NEAR(task_score(a).stderr_of_mean, 0.25, 1e-12);  // sqrt((3/16 * 4 / 3) / 4)
  const std::vector<TaskScore> parts = {task_score(a), task_score(b)};
  const TaskScore all = pooled_score(parts);
  EXPECT_NEAR(all.mean, 4.0 / 6, 1e-12);
  // (3 * 4 * 0.0625 + 1 * 2 * 0.25) / (6 - 2) / 6
  EXPECT_NEAR(all.stderr_of_mean, std::sqrt((0.75 + 0.5) / 4 / 6), 1e-12);
}

TEST(Scores, PairedComparison) {
  // 20 items: 9 only the model, 1 only the reference. Exact two-sided p: 2 (1 + 10) / 2^10.
  std::vector<double> model(20, 1), reference(20, 1);
  for (int i = 0; i < 9; ++i) reference[static_cast<size_t>(i)] = 0;
  model[19] = 0;
  PairedScore p = paired_score(model, reference);
  EXPECT_EQ(p.only_model, 9);
  EXPECT_EQ(p.only_reference, 1);
  EXPECT_NEAR(p.p, 22.0 / 1024, 1e-12);
  EXPECT_NEAR(p.difference, 0.4, 1e-12);
  EXPECT_NEAR(p.ci95, 1.96 * std::sqrt(10 - 64.0 / 20) / 20, 1e-12);
  EXPECT_FALSE(p.tie);
  p = paired_score(model, model);
  EXPECT_EQ(p.p, 1);
  EXPECT_TRUE(p.tie);
}

TEST_F(TaskFiles, ALogGoesOnWhereItWasCutOff) {
  const std::string path = (dir_ / "log.jsonl").string();
  const nlohmann::ordered_json identity = {{"task", "piqa"}, {"data_sha256", "ab"}};
  {
    TaskLog log(path, identity);
    log.add({"", 0, {1, 0}, {{"chosen", 1}}});
    log.add({"", 1, {0, 0}, {{"chosen", 0}}});
  }
  std::string text;
  {
    std::ifstream in(path, std::ios::binary);
    text.assign(std::istreambuf_iterator<char>(in), {});
  }
  std::ofstream(path, std::ios::binary) << text.substr(0, text.size() - 5);
  TaskLog again(path, identity);
  EXPECT_EQ(again.restored(), 1U);
  ASSERT_NE(again.find("", 0), nullptr);
  EXPECT_THAT(again.find("", 0)->scores, ElementsAre(1, 0));
  EXPECT_EQ(again.find("", 0)->details.at("chosen"), 1);
  EXPECT_EQ(again.find("", 1), nullptr);
  again.add({"", 1, {1, 1}, {}});
  EXPECT_EQ(read_task_log(path).items.size(), 2U);
  EXPECT_THROW(TaskLog(path, {{"task", "mmlu"}, {"data_sha256", "ab"}}), Error);
}

TEST(HarnessJson, MmluHasSubjectsFieldsAndAll) {
  TaskReport report{"mmlu", {"acc,none"}, 2, 5, {}, {{"anatomy", 9}}};
  for (int i = 0; i < 3; ++i) report.items.push_back({"anatomy", i, {i == 0 ? 1.0 : 0.0}, {}});
  report.items.push_back({"virology", 0, {1}, {}});
  const auto json = harness_json(report);
  EXPECT_EQ(json["results"]["mmlu"]["acc,none"], 0.5);
  EXPECT_EQ(json["results"]["mmlu_other"]["acc,none"], 1.0);
  EXPECT_EQ(json["results"]["mmlu_virology"]["acc_stderr,none"], "N/A");
  EXPECT_EQ(json["n-samples"]["mmlu_anatomy"]["original"], 9);
  EXPECT_EQ(json["n-samples"]["mmlu_anatomy"]["effective"], 3);
  EXPECT_EQ(json["n-shot"]["mmlu_stem"], 5);
  EXPECT_THAT(json["group_subtasks"]["mmlu_stem"].dump(), "[\"mmlu_anatomy\"]");
}

}  // namespace
}  // namespace awq
