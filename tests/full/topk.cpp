// Does a checkpoint mean to another program what it means to us? Compares our most likely tokens, teacher-forced,
// with the ones another inference engine recorded.
//
//   awq_topk CHECKPOINT RECORDED.json [TEXTS.jsonl]
//
// RECORDED.json: {"prompts": [{"ids": [...], "top": [...]}]}, top[i] being the most likely token after ids[0..i].
// With the texts ({"text": ...} per line) it also checks that our tokenizer gives the recorded ids: the recorded
// prompts are the first texts long enough, cut to one length. Exit status 0 when at least 97 % of all positions
// agree and every difference is a near tie, our two best logits being within 0.1 of each other; else 1.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>
#include <vector>

#include "base/error.h"
#include "checkpoint/tokenizer_source.h"
#include "model/model.h"

namespace {

using awq::Code;
using awq::fail;

constexpr double kLeastAgreement = 0.97;
constexpr float kNearTie = 0.1f;  // logits

struct Prompt {
  std::vector<int32_t> ids, top;
};

struct Best {
  int32_t token;
  float margin;  // to the second best, in logits
};

struct Tally {
  int64_t positions = 0, same = 0, clear = 0, clear_same = 0;
  float largest_margin = 0;  // of a position that differs

  void add(const Best& ours, int32_t theirs) {
    const bool equal = ours.token == theirs, is_clear = ours.margin > kNearTie;
    ++positions;
    same += equal;
    clear += is_clear;
    clear_same += is_clear && equal;
    if (!equal) largest_margin = std::max(largest_margin, ours.margin);
  }
};

std::ifstream open(const std::string& path) {
  std::ifstream file(path);
  if (!file) fail(Code::kNotFound, "{}: expected a file that can be read", path);
  return file;
}

std::vector<Prompt> read_recorded(const std::string& path) {
  std::ifstream file = open(path);
  const auto json = nlohmann::json::parse(file);
  std::vector<Prompt> prompts;
  for (const auto& entry : json.at("prompts")) {
    Prompt p{entry.at("ids").get<std::vector<int32_t>>(), entry.at("top").get<std::vector<int32_t>>()};
    if (p.ids.empty() || p.ids.size() != p.top.size())
      fail(Code::kBadFile, "{}: prompt {}: expected one top token per id, got {} for {}", path, prompts.size(),
           p.top.size(), p.ids.size());
    prompts.push_back(std::move(p));
  }
  if (prompts.empty()) fail(Code::kBadFile, "{}: expected at least one prompt, got none", path);
  return prompts;
}

// How many recorded prompts our tokenizer splits otherwise.
size_t prompts_tokenized_otherwise(const awq::Checkpoint& checkpoint, const std::vector<Prompt>& prompts,
                                   const std::string& texts) {
  const auto tokenizer = awq::load_tokenizer(checkpoint);
  const size_t length = prompts.front().ids.size();
  std::ifstream file = open(texts);
  std::string line;
  size_t at = 0, other = 0;
  while (at < prompts.size() && std::getline(file, line)) {
    auto ids = tokenizer->encode(nlohmann::json::parse(line).at("text").get<std::string>(), false);
    if (ids.size() < length) continue;
    ids.resize(length);
    other += ids != prompts[at++].ids;
  }
  return other + prompts.size() - at;
}

std::vector<Best> best_tokens(const awq::Model& model, const std::vector<int32_t>& ids) {
  const int64_t rows = static_cast<int64_t>(ids.size()), vocab = model.config().vocab;
  std::vector<int32_t> positions(ids.size());
  std::iota(positions.begin(), positions.end(), 0);
  const awq::SpanView whole{0, rows, 0, nullptr};
  awq::Scratch scratch;
  std::vector<float> hidden, logits(static_cast<size_t>(rows * vocab));
  model.forward({ids, positions, {&whole, 1}}, nullptr, scratch, hidden);
  model.logits(hidden.data(), rows, logits.data());
  std::vector<Best> best;
  for (int64_t row = 0; row < rows; ++row) {
    const auto begin = logits.begin() + row * vocab, end = begin + vocab;
    const auto first = std::max_element(begin, end);
    const float top = std::exchange(*first, std::numeric_limits<float>::lowest());
    best.push_back({static_cast<int32_t>(first - begin), top - *std::max_element(begin, end)});
  }
  return best;
}

bool compare(const std::string& path, const std::string& recorded, const std::string& texts) {
  const auto checkpoint = awq::Checkpoint::open(path);
  const std::vector<Prompt> prompts = read_recorded(recorded);
  size_t other = 0;
  if (!texts.empty()) {
    other = prompts_tokenized_otherwise(*checkpoint, prompts, texts);
    std::printf("token ids       equal in %zu of %zu prompts\n", prompts.size() - other, prompts.size());
  }
  const auto model = awq::Model::load(*checkpoint);
  Tally tally;
  for (const Prompt& p : prompts) {
    const std::vector<Best> ours = best_tokens(*model, p.ids);
    for (size_t i = 0; i < ours.size(); ++i) tally.add(ours[i], p.top[i]);
  }
  const double share = static_cast<double>(tally.same) / static_cast<double>(tally.positions);
  std::printf("same top token  %ld of %ld positions, %.2f %%\n", tally.same, tally.positions, 100 * share);
  std::printf("margin over %.1f %ld of %ld the same; largest margin of a difference %.4f\n", kNearTie,
              tally.clear_same, tally.clear, tally.largest_margin);
  return other == 0 && share >= kLeastAgreement && tally.clear_same == tally.clear;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) {
    std::fprintf(stderr, "usage: awq_topk CHECKPOINT RECORDED.json [TEXTS.jsonl]\n");
    return 2;
  }
  try {
    return compare(argv[1], argv[2], argc == 4 ? argv[3] : "") ? 0 : 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "awq_topk: %s\n", e.what());
    return 1;
  }
}
