#include "eval/choice_task.h"

#include <algorithm>
#include <map>

#include "base/error.h"

namespace awq {
namespace {

// A question as the model reads it, its possible answers, and which is right. Solved, it is prompt + answer of the right one.
struct Question {
  std::string subject;
  std::vector<std::string> prompts, answers;  // one prompt for all answers, or one prompt each for the one answer
  std::vector<std::string> choices;           // by whose lengths acc_norm divides
  int64_t gold = 0;
};

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) text.replace(at, from.size(), to);
}

// Removes "[...]" within a line: traces of WikiHow's markup.
void remove_brackets(std::string& text) {
  for (size_t open = 0; (open = text.find('[', open)) != std::string::npos;) {
    const size_t close = text.find_first_of("]\n", open);
    if (close == std::string::npos || text[close] == '\n') {
      ++open;
      continue;
    }
    text.erase(open, close - open + 1);
  }
}

std::string hellaswag_text(std::string_view raw) {
  std::string text{stripped(raw)};
  replace_all(text, " [title]", ". ");
  remove_brackets(text);
  replace_all(text, "  ", " ");
  return text;
}

// Python's str.capitalize() of the letters that ASCII has.
std::string capitalised(std::string text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (i == 0 && c >= 'a' && c <= 'z') text[i] = static_cast<char>(c - 'a' + 'A');
    if (i > 0 && c >= 'A' && c <= 'Z') text[i] = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

Question read_mmlu(const TaskLine& line) {
  Question q;
  q.subject = line.text({"subject"});
  q.choices = line.choices("choices");
  if (q.choices.size() != 4) line.refuse(fmt::format("\"choices\": expected 4, got {}", q.choices.size()));
  q.answers = {"A", "B", "C", "D"};
  q.gold = line.index({"answer"}, 4);
  std::string prompt{stripped(line.text({"question"}))};
  for (size_t i = 0; i < 4; ++i) prompt += fmt::format("\n{}. {}", q.answers[i], q.choices[i]);
  q.prompts = {prompt + "\nAnswer:"};
  q.choices = q.answers;
  return q;
}

Question read_arc(const TaskLine& line) {
  Question q;
  q.prompts = {"Question: " + line.text({"question"}) + "\nAnswer:"};
  q.choices = q.answers = line.choices("choices");
  q.gold = line.answer(static_cast<int64_t>(q.choices.size()));
  return q;
}

Question read_openbookqa(const TaskLine& line) {
  Question q = {{}, {line.text({"question_stem", "question"})}, line.choices("choices"), {}, 0};
  q.choices = q.answers;
  q.gold = line.answer(static_cast<int64_t>(q.choices.size()));
  return q;
}

// With "ctx_a" and "ctx_b" as the data set's authors publish it; "ctx" alone is taken for the whole context.
Question read_hellaswag(const TaskLine& line) {
  Question q;
  const std::string context = line.has("ctx_a") ? line.text({"activity_label"}) + ": " + line.text({"ctx_a"}, true) + " " +
                                                      capitalised(line.text({"ctx_b"}, true))
                                                : line.text({"ctx"});
  q.prompts = {hellaswag_text(context)};
  for (const std::string& ending : line.choices("endings")) q.answers.push_back(hellaswag_text(ending));
  q.choices = q.answers;
  q.gold = line.index({"label"}, static_cast<int64_t>(q.answers.size()));
  return q;
}

// The choices stand in the prompt, what follows the gap is scored (Trinh and Le 2018).
Question read_winogrande(const TaskLine& line) {
  Question q;
  const std::string sentence = line.text({"sentence", "question"});
  const size_t gap = sentence.find('_');
  if (gap == std::string::npos) line.refuse(fmt::format("\"sentence\": expected a gap written as _, got \"{}\"", sentence));
  const bool published = line.has("option1");
  const auto options = published ? std::vector<std::string>{line.text({"option1"}), line.text({"option2"})} : line.choices("choices");
  if (options.size() != 2) line.refuse(fmt::format("\"choices\": expected 2, got {}", options.size()));
  for (const std::string& option : options) q.prompts.push_back(sentence.substr(0, gap) + option);
  q.answers = {std::string(stripped(std::string_view(sentence).substr(gap + 1)))};
  if (q.answers.front().empty()) line.refuse("\"sentence\": expected text after the gap, got none");
  q.choices = q.prompts;
  q.gold = line.index({"answer"}, 2, published ? 1 : 0);
  return q;
}

Question read_piqa(const TaskLine& line) {
  Question q;
  q.prompts = {"Question: " + line.text({"goal"}) + "\nAnswer:"};
  q.choices = q.answers = {line.text({"sol1"}), line.text({"sol2"})};
  q.gold = line.index({"label"}, 2);
  return q;
}

struct Reader {
  ChoiceTask task;
  Question (*read)(const TaskLine& line);
};
const Reader kReaders[] = {{{"mmlu", false, true, 2}, read_mmlu},
                           {{"arc_easy", true, false, 1}, read_arc},
                           {{"arc_challenge", true, false, 1}, read_arc},
                           {{"hellaswag", true, false, 1}, read_hellaswag},
                           {{"winogrande", false, false, 1}, read_winogrande},
                           {{"piqa", true, false, 1}, read_piqa},
                           {{"openbookqa", true, false, 1}, read_openbookqa}};

const Reader& reader_of(const ChoiceTask& task) {
  const auto at = std::find_if(std::begin(kReaders), std::end(kReaders), [&](const Reader& r) { return std::string_view(task.name) == r.task.name; });
  check_internal(at != std::end(kReaders), "a task without a reader");
  return *at;
}

struct Grouped {
  std::vector<std::string> subjects;  // in the order they first appear
  std::map<std::string, std::vector<Question>> questions;
};

Grouped read_questions(const TaskFile& file, const Reader& reader) {
  Grouped out;
  for (const TaskLine& line : file.lines) {
    Question q = reader.read(line);
    auto [at, is_new] = out.questions.try_emplace(q.subject);
    if (is_new) out.subjects.push_back(q.subject);
    at->second.push_back(std::move(q));
  }
  return out;
}

const std::string& at_or_only(const std::vector<std::string>& list, size_t i) { return list.size() == 1 ? list.front() : list[i]; }

// Solved examples, one after the other.
std::string solved(const std::vector<Question>& examples, int64_t shots) {
  std::string text;
  for (int64_t i = 0; i < shots; ++i) {
    const Question& q = examples[static_cast<size_t>(i)];
    const auto gold = static_cast<size_t>(q.gold);
    text += at_or_only(q.prompts, gold) + " " + at_or_only(q.answers, gold) + "\n\n";
  }
  return text;
}

std::string description(const ChoiceTask& task, const std::string& subject) {
  if (!task.by_subject) return "";
  std::string spaced = subject;
  std::replace(spaced.begin(), spaced.end(), '_', ' ');
  return fmt::format("The following are multiple choice questions (with answers) about {}.\n\n", spaced);
}

size_t first_largest(const std::vector<double>& values) {
  return static_cast<size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

}  // namespace

std::vector<ChoiceTask> choice_tasks() {
  std::vector<ChoiceTask> tasks;
  for (const Reader& r : kReaders) tasks.push_back(r.task);
  return tasks;
}

const ChoiceTask* find_choice_task(std::string_view name) {
  for (const Reader& r : kReaders)
    if (name == r.task.name) return &r.task;
  return nullptr;
}

ChoiceData read_choice_data(const ChoiceTask& task, const std::string& path, const std::string& fewshot, int64_t shots, int64_t limit) {
  const Reader& reader = reader_of(task);
  const TaskFile file = read_task_file(path);
  Grouped all = read_questions(file, reader), examples;
  ChoiceData data{{}, file.name, file.sha256, {}, fewshot.empty() ? 0 : shots, {}};
  if (data.shots > 0) {
    const TaskFile solved_file = read_task_file(fewshot);
    examples = read_questions(solved_file, reader);
    data.fewshot_sha256 = solved_file.sha256;
  }
  for (const std::string& subject : all.subjects) {
    const std::vector<Question>& solvable = examples.questions[subject];
    if (static_cast<int64_t>(solvable.size()) < data.shots)
      fail(Code::kBadArgument, "{}: expected {} examples{}, got {}", fewshot, data.shots, subject.empty() ? "" : " of subject " + subject,
           solvable.size());
    const std::string front = description(task, subject) + solved(solvable, data.shots);
    auto& questions = all.questions[subject];
    data.available[subject] = static_cast<int64_t>(questions.size());
    if (limit > 0 && static_cast<int64_t>(questions.size()) > limit) questions.resize(static_cast<size_t>(limit));
    for (Question& q : questions) {
      ChoiceItem item{subject, {}, {}, {}, q.gold};
      for (const std::string& prompt : q.prompts) item.contexts.push_back(front + prompt);
      for (const std::string& answer : q.answers) item.continuations.push_back(" " + answer);
      for (const std::string& choice : q.choices) item.lengths.push_back(characters(choice));
      data.items.push_back(std::move(item));
    }
  }
  return data;
}

std::vector<LikelihoodRequest> choice_requests(const ChoiceItem& item, const Tokenizer& tokenizer) {
  std::vector<LikelihoodRequest> requests;
  for (size_t i = 0; i < item.lengths.size(); ++i) {
    // White space at the end of the context goes to the continuation, where tokenizers have it.
    const std::string& whole_context = at_or_only(item.contexts, i);
    const std::string_view context = stripped_right(whole_context);
    const std::string whole = whole_context + at_or_only(item.continuations, i);
    LikelihoodRequest request{encode_prompt(tokenizer, context), encode_prompt(tokenizer, whole)};
    const size_t front = request.context.size();
    if (front == 0 || request.continuation.size() <= front)
      fail(Code::kUnsupported, "the tokenizer gives {} tokens for a prompt and {} for it with a choice: nothing to compare", front,
           request.continuation.size());
    request.continuation.erase(request.continuation.begin(), request.continuation.begin() + static_cast<std::ptrdiff_t>(front));
    requests.push_back(std::move(request));
  }
  return requests;
}

ChoiceOutcome judge(const ChoiceItem& item, std::vector<double> logprobs) {
  std::vector<double> normalised;
  for (size_t i = 0; i < logprobs.size(); ++i)
    normalised.push_back(item.lengths[i] > 0 ? logprobs[i] / static_cast<double>(item.lengths[i]) : logprobs[i]);
  ChoiceOutcome out;
  out.chosen = static_cast<int64_t>(first_largest(logprobs));
  out.chosen_norm = static_cast<int64_t>(first_largest(normalised));
  out.right = out.chosen == item.gold;
  out.right_norm = out.chosen_norm == item.gold;
  out.logprobs = std::move(logprobs);
  return out;
}

std::string mmlu_category(std::string_view subject) {
  static const std::map<std::string, std::vector<std::string_view>, std::less<>> kCategories = {
      {"stem",
       {"abstract_algebra", "anatomy", "astronomy", "college_biology", "college_chemistry", "college_computer_science", "college_mathematics",
        "college_physics", "computer_security", "conceptual_physics", "electrical_engineering", "elementary_mathematics", "high_school_biology",
        "high_school_chemistry", "high_school_computer_science", "high_school_mathematics", "high_school_physics", "high_school_statistics",
        "machine_learning"}},
      {"other",
       {"business_ethics", "clinical_knowledge", "college_medicine", "global_facts", "human_aging", "management", "marketing",
        "medical_genetics", "miscellaneous", "nutrition", "professional_accounting", "professional_medicine", "virology"}},
      {"social_sciences",
       {"econometrics", "high_school_geography", "high_school_government_and_politics", "high_school_macroeconomics",
        "high_school_microeconomics", "high_school_psychology", "human_sexuality", "professional_psychology", "public_relations",
        "security_studies", "sociology", "us_foreign_policy"}},
      {"humanities",
       {"formal_logic", "high_school_european_history", "high_school_us_history", "high_school_world_history", "international_law",
        "jurisprudence", "logical_fallacies", "moral_disputes", "moral_scenarios", "philosophy", "prehistory", "professional_law",
        "world_religions"}}};
  for (const auto& [name, subjects] : kCategories)
    if (std::find(subjects.begin(), subjects.end(), subject) != subjects.end()) return name;
  return "";
}

}  // namespace awq
