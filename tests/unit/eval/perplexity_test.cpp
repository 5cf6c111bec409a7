#include "eval/perplexity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "base/error.h"
#include "unit/model/golden.h"

namespace awq {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kVocab = 8;
using Table = std::vector<std::vector<double>>;  // [previous][next]: probability

// A model without blocks whose prediction depends on the last token alone. Embeddings are one-hot, which the
// final norm turns into sqrt(vocab) times one-hot, so the head holds ln p / sqrt(vocab).
std::shared_ptr<const Model> bigram(const Table& p) {
  const int64_t n = static_cast<int64_t>(p.size());
  auto config = std::make_shared<ModelConfig>();
  config->hidden = config->vocab = n;
  config->rms_eps = 0;
  Tensor embedding = Tensor::zeros(DType::kF32, {n, n}), head(DType::kF32, {n, n});
  for (int64_t i = 0; i < n; ++i) {
    embedding.f32()[i * n + i] = 1;
    for (int64_t j = 0; j < n; ++j)
      head.f32()[j * n + i] = static_cast<float>(std::log(p[static_cast<size_t>(i)][static_cast<size_t>(j)]) /
                                                 std::sqrt(static_cast<double>(n)));
  }
  const Tensor norm = Tensor::from(std::vector<float>(static_cast<size_t>(n), 1.0F), {n});
  return std::make_shared<Model>(config, embedding, norm, head, std::vector<std::unique_ptr<Block>>{},
                                 Precision::kExact);
}

Table uniform(int64_t n) {
  return Table(static_cast<size_t>(n),
               std::vector<double>(static_cast<size_t>(n), 1.0 / static_cast<double>(n)));
}

Table random_table(uint32_t seed) {
  std::mt19937 random(seed);
  Table p = uniform(kVocab);
  for (auto& row : p) {
    double sum = 0;
    for (double& v : row) sum += v = std::exp(std::normal_distribution<double>(0, 1.5)(random));
    for (double& v : row) v /= sum;
  }
  return p;
}

std::vector<int32_t> random_tokens(size_t n) {
  std::mt19937 random(7);
  std::vector<int32_t> tokens(n);
  for (int32_t& t : tokens) t = static_cast<int32_t>(random() % kVocab);
  return tokens;
}

double half_width(const std::vector<double>& window_means) {
  double mean = 0, square = 0;
  const double n = static_cast<double>(window_means.size());
  for (const double m : window_means) mean += m / n;
  for (const double m : window_means) square += (m - mean) * (m - mean);
  return 1.96 * std::sqrt(square / (n - 1) / n);
}

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

TEST(Evaluate, UniformPredictionsHaveThePerplexityOfTheVocabulary) {
  const Evaluation e = evaluate(*bigram(uniform(kVocab)), nullptr, random_tokens(100), {.length = 10});
  EXPECT_NEAR(e.perplexity, 8, 1e-6);
  EXPECT_NEAR(e.perplexity_ci95, 0, 1e-6);
  EXPECT_EQ(e.windows, 10);
  EXPECT_EQ(e.targets, 90);
  EXPECT_FALSE(e.divergence);
}

struct Windows {
  WindowSpec spec;
  int64_t tokens, limit;
  int64_t windows;  // expected
};

// Against the definition, in double over the probability tables. 600 tokens take several chunks of logits.
TEST(Evaluate, EqualsTheDefinition) {
  const Table p = random_table(1), q = random_table(2);
  const auto reference = bigram(p), model = bigram(q);
  const Windows cases[] = {{{.length = 600}, 1900, 0, 3},
                           {{.length = 600}, 1900, 2, 2},
                           {{.length = 600}, 1200, 9, 2},
                           {{.length = 16, .unscored = 8}, 163, 0, 10},
                           {{.length = 16, .unscored = 0, .first_token = 5}, 160, 0, 10},
                           {{.length = 512, .unscored = 256, .first_token = 0}, 1024, 0, 2},
                           {{.length = 2}, 40, 0, 20}};
  for (const Windows& c : cases) {
    const std::vector<int32_t> tokens = random_tokens(static_cast<size_t>(c.tokens));
    std::vector<double> nll, reference_nll, kl, same, all_kl;
    for (int64_t w = 0; w < c.windows; ++w) {
      std::vector<double> n, rn, k, s;
      for (int64_t t = c.spec.unscored; t + 1 < c.spec.length; ++t) {
        const int64_t at = w * c.spec.length + t;
        const auto before = static_cast<size_t>(
            t == 0 && c.spec.first_token ? *c.spec.first_token : tokens[static_cast<size_t>(at)]);
        const auto next = static_cast<size_t>(tokens[static_cast<size_t>(at + 1)]);
        n.push_back(-std::log(q[before][next]));
        rn.push_back(-std::log(p[before][next]));
        double sum = 0;
        for (size_t v = 0; v < kVocab; ++v) sum += p[before][v] * std::log(p[before][v] / q[before][v]);
        k.push_back(sum);
        all_kl.push_back(sum);
        const auto top = [&](const Table& t_) {
          return std::max_element(t_[before].begin(), t_[before].end()) - t_[before].begin();
        };
        s.push_back(top(p) == top(q));
      }
      nll.push_back(mean_of(n)), reference_nll.push_back(mean_of(rn)), kl.push_back(mean_of(k)),
          same.push_back(mean_of(s));
    }
    std::sort(all_kl.begin(), all_kl.end());
    const Evaluation e = evaluate(*model, reference.get(), tokens, c.spec, c.limit);
    SCOPED_TRACE(fmt::format("length {}, limit {}", c.spec.length, c.limit));
    EXPECT_EQ(e.windows, c.windows);
    EXPECT_EQ(e.targets, static_cast<int64_t>(all_kl.size()));
    EXPECT_NEAR(e.nll, mean_of(nll), 1e-5);
    EXPECT_NEAR(e.perplexity, std::exp(mean_of(nll)), 1e-4);
    EXPECT_NEAR(e.nll_ci95, half_width(nll), 1e-5);
    EXPECT_NEAR(e.perplexity_ci95, e.perplexity * half_width(nll), 1e-4);
    ASSERT_TRUE(e.divergence);
    const Divergence& d = *e.divergence;
    EXPECT_NEAR(d.reference_perplexity, std::exp(mean_of(reference_nll)), 1e-4);
    EXPECT_NEAR(d.kl, mean_of(kl), 1e-5);
    EXPECT_NEAR(d.kl_ci95, half_width(kl), 1e-5);
    EXPECT_NEAR(d.kl_median, all_kl[(all_kl.size() - 1) / 2], 1e-5);
    EXPECT_NEAR(d.kl_p99,
                all_kl[static_cast<size_t>(std::ceil(0.99 * static_cast<double>(all_kl.size()))) - 1], 1e-5);
    EXPECT_NEAR(d.kl_max, all_kl.back(), 1e-5);
    EXPECT_NEAR(d.top1_agreement, mean_of(same), 1e-12);
    EXPECT_NEAR(d.top1_agreement_ci95, half_width(same), 1e-12);
  }
}

TEST(Evaluate, AModelAgreesWithItself) {
  const auto model = bigram(random_table(3));
  const Evaluation e = evaluate(*model, model.get(), random_tokens(64), {.length = 32});
  EXPECT_EQ(e.divergence->kl_max, 0);
  EXPECT_EQ(e.divergence->top1_agreement, 1);
  EXPECT_EQ(e.divergence->reference_perplexity, e.perplexity);
}

// Logits that transformers computed for whole decoders, attention included.
TEST(Evaluate, EqualsRecordedLogits) {
  for (const char* name : {"llama-rope-llama3-v5", "qwen2-tied"}) {
    const testing::Expected golden = testing::load_expected(name);
    const auto model = Model::load(*Checkpoint::open(testing::golden_root() / name));
    const int64_t vocab = model->config().vocab, length = testing::kGoldenLength;
    double nll = 0;
    for (int64_t i = 0; i < testing::kGoldenSequences * length; ++i) {
      if (i % length == length - 1) continue;
      const float* row = golden.logits.data() + i * vocab;
      double sum = 0;
      for (int64_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(row[v]));
      nll += std::log(sum) - static_cast<double>(row[golden.ids[static_cast<size_t>(i + 1)]]);
    }
    const Evaluation e = evaluate(*model, nullptr, golden.ids, {.length = length});
    EXPECT_EQ(e.targets, 2 * (length - 1));
    EXPECT_NEAR(e.nll, nll / static_cast<double>(e.targets), 1e-4) << name;
  }
}

TEST(Evaluate, ReportsProgressInTokens) {
  std::vector<double> done;
  evaluate(*bigram(uniform(kVocab)), nullptr, random_tokens(35), {.length = 10}, 0, [&](const Progress& p) {
    EXPECT_EQ(p.unit, "tokens");
    EXPECT_EQ(p.total, 30);
    done.push_back(p.done);
  });
  EXPECT_EQ(done, (std::vector<double>{10, 20, 30}));
}

TEST(Evaluate, StopsWhenAsked) {
  request_cancel();
  EXPECT_THROW(evaluate(*bigram(uniform(kVocab)), nullptr, random_tokens(35), {.length = 10}), Error);
  clear_cancel();
}

TEST(Evaluate, Errors) {
  const auto model = bigram(uniform(kVocab)), other = bigram(uniform(9));
  Table broken = uniform(kVocab);
  broken[3][2] = std::nan("");
  const auto check = [](Code code, const char* message, auto&& call) {
    try {
      call();
      ADD_FAILURE() << "accepted: " << message;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_THAT(error.what(), HasSubstr(message));
    }
  };
  const auto tokens = random_tokens(20);
  check(Code::kBadArgument, "the text has 20 tokens: expected at least 21",
        [&] { evaluate(*model, nullptr, tokens, {.length = 21}); });
  check(Code::kBadArgument, "8 tokens, the reference's 9",
        [&] { evaluate(*model, other.get(), tokens, {.length = 10}); });
  check(Code::kBadArgument, "leave no target",
        [&] { evaluate(*model, nullptr, tokens, {.length = 10, .unscored = 9}); });
  check(Code::kBadArgument, "8", [&] {
    evaluate(*model, nullptr, std::vector<int32_t>{1, 8, 2}, {.length = 3});
  });
  check(Code::kBadFile, "expected a finite log-likelihood",
        [&] { evaluate(*bigram(broken), nullptr, tokens, {.length = 20}); });
}

// A cache of the model's own precision changes nothing that counts, one in int8 a little.
TEST(Evaluate, KeysAndValuesMayComeFromACache) {
  const auto model = Model::load(*Checkpoint::open(testing::golden_root() / "llama-tied"));
  const std::vector<int32_t> tokens = testing::load_expected("llama-tied").ids;
  const auto kl = [&](std::optional<DType> dtype) {
    return evaluate(*model, model.get(), tokens, {.length = 40}, 0, {}, dtype).divergence->kl;
  };
  EXPECT_EQ(kl(std::nullopt), 0);
  EXPECT_LT(kl(DType::kF32), 1e-9);
  const double half = kl(DType::kF16), int8 = kl(DType::kI8);
  EXPECT_GT(int8, half);
  EXPECT_GT(int8, 0);
  EXPECT_LT(int8, 0.01);
}

}  // namespace
}  // namespace awq
