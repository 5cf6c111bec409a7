// A block over whole sequences on the GPU against the CPU's: states, and what flows into the linears.
#include "model/block_runner.h"

#include <fmt/core.h>

#include "device_testing.h"
#include "model/random_model.h"
#include "quant/sequences.h"
#include "quant/stats.h"

namespace awq {
namespace {

using testing::config_of;

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double diff = 0, size = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    if (!std::isfinite(a[i])) return INFINITY;
    diff += (double{a[i]} - b[i]) * (double{a[i]} - b[i]), size += double{b[i]} * b[i];
  }
  return std::sqrt(diff / size);
}

void expect_like_cpu(const char* type, int heads, int kv_heads, int head_dim, DType activations, double bound) {
  const auto config = std::make_shared<const ModelConfig>(parse_model_config(config_of(type, heads, kv_heads, head_dim, 1), "test"));
  const BlockSpec spec = find_arch(type, "test").block(*config, 0);
  BlockWeights block;
  uint32_t seed = 1;
  for (const NormSpec& norm : spec.norms(*config)) {
    std::vector<float> gain = testing::random_floats(norm.dim, seed++, 0.2f);
    for (float& g : gain) g += 1;
    block.norms[norm.name] = Tensor::from(gain, {norm.dim});
  }
  for (const LinearSpec& l : spec.linears) {
    block.weights[l.module] = Tensor::from(testing::random_floats(l.out * l.in, seed++, 0.06f), {l.out, l.in}).to(activations).to_f32();
    if (l.bias) block.biases[l.module] = Tensor::from(testing::random_floats(l.out, seed++, 0.1f), {l.out});
  }
  TokenSequences sequences;
  for (const int64_t length : {70, 1, 33, 128, 40}) {
    sequences.lengths.push_back(length);
    for (int64_t i = 0; i < length; ++i) sequences.ids.push_back(static_cast<int32_t>((i * 37 + length * 11) % 1000));
  }
  const Tensor embedding = Tensor::from(testing::random_floats(1000 * 256, seed, 1.0f), {1000, 256});
  HiddenStates want(sequences, *config, embedding), got(sequences, *config, embedding);
  StatsObserver stats(false);
  Scratch scratch;
  want.advance(Block(config, spec, block, Precision::kExact), scratch, &stats);

  const auto backend = make_cuda_quant_backend(0);
  const auto runner = make_cuda_block_runner(config, activations, *backend);
  std::map<std::string, QuantMatrix> matrices;
  for (const auto& [module, weight] : block.weights) matrices.emplace(module, backend->load(std::get<Tensor>(weight)));
  runner->use(spec, block, matrices);
  SiteSums sums;
  runner->advance(sequences.lengths, got.mutable_values(), &sums);
  const auto values = [](const HiddenStates& s) { return std::vector<float>(s.values().begin(), s.values().end()); };
  const double states = distance(values(got), values(want));
  EXPECT_LT(states, bound);
  double worst = 0;
  for (size_t i = 0; i < sums.size(); ++i) {
    const SiteStats& site = stats.at(static_cast<Site>(i));
    ASSERT_EQ(sums[i].dim, site.dim);
    EXPECT_EQ(sums[i].tokens, site.tokens);
    worst = std::max(worst, distance(backend->read_gram(sums[i].gram.view()), site.gram));
    for (int64_t k = 0; k < site.dim; ++k) {
      ASSERT_NEAR(sums[i].abs_sum[k], site.abs_sum[k], bound * site.abs_sum[k] + 1e-3) << i;
      ASSERT_NEAR(sums[i].channel_max[k], site.channel_max[k], 3 * bound * site.channel_max[k] + 1e-2) << i;
    }
  }
  EXPECT_LT(worst, bound);
  fmt::print("{} {} heads of {}: states {:.5f}, Gram matrices {:.5f}\n", type, heads, head_dim, states, worst);
}

TEST(DeviceBlockRunner, FollowsTheCpu) {
  SKIP_WITHOUT_GPU();
  expect_like_cpu("llama", 4, 2, 64, DType::kF16, 0.005);
  expect_like_cpu("llama", 2, 2, 128, DType::kBF16, 0.03);
  expect_like_cpu("qwen2", 4, 1, 64, DType::kF16, 0.005);
  expect_like_cpu("qwen3", 4, 2, 64, DType::kF16, 0.005);
}

TEST(DeviceBlockRunner, ComparesTwoOutputs) {
  SKIP_WITHOUT_GPU();
  const int64_t rows = 70, hidden = 256, vocab = 1000;
  const auto config = std::make_shared<const ModelConfig>(parse_model_config(config_of("llama", 4, 2, 64, 1), "test"));
  const std::vector<float> a = testing::random_floats(rows * hidden, 1, 1.0f), norm = testing::random_floats(hidden, 2, 1.0f);
  std::vector<float> b = a;
  for (size_t i = 0; i < b.size(); ++i) b[i] += 0.05f * static_cast<float>(i % 5) - 0.1f;
  const Tensor head = Tensor::from(testing::random_floats(vocab * hidden, 3, 0.2f), {vocab, hidden}).to(DType::kF16).to_f32();
  std::vector<int32_t> targets;
  for (int64_t r = 0; r < rows; ++r) targets.push_back(static_cast<int32_t>(r * 13 % vocab));
  const auto backend = make_cuda_quant_backend(0);
  const auto got = make_cuda_block_runner(config, DType::kF16, *backend)->compare(a, {norm.data(), &head}, b, {norm.data(), &head}, targets);

  const auto packed = pack_linear(head, Precision::kExact);
  const auto logits = [&](const std::vector<float>& states) {
    std::vector<float> normed(states.size()), out(static_cast<size_t>(rows * vocab));
    rms_norm(states.data(), norm.data(), 0, config->rms_eps, rows, hidden, normed.data());
    packed->run(normed.data(), rows, out.data(), vocab);
    return out;
  };
  const std::vector<float> p = logits(a), q = logits(b);
  std::vector<double> kl(rows), log_p(rows), log_q(rows);
  std::vector<uint8_t> same(rows);
  kl_divergence(p.data(), q.data(), rows, vocab, kl.data(), same.data());
  log_softmax_gather(p.data(), rows, vocab, targets.data(), log_p.data());
  log_softmax_gather(q.data(), rows, vocab, targets.data(), log_q.data());
  ASSERT_EQ(got.size(), static_cast<size_t>(rows));
  int agree = 0;
  for (int64_t r = 0; r < rows; ++r) {
    EXPECT_NEAR(got[r].kl, kl[r], 0.02 * kl[r] + 1e-4);
    EXPECT_NEAR(got[r].logprob_source, log_p[r], 0.02);
    EXPECT_NEAR(got[r].logprob, log_q[r], 0.02);
    agree += got[r].same_top == same[r];
  }
  EXPECT_GE(agree, rows - 1);
}

}  // namespace
}  // namespace awq
