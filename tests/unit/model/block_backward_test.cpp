// The hand-written backward pass of a block against central differences of a forward pass in double, on a
// block of every recorded architecture: biases, norms of queries and keys, grouped queries, sliding windows
// and each rope type.
#include "model/block_backward.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "unit/kernels/kernel_testing.h"
#include "unit/model/golden.h"

namespace awq::testing {
namespace {

using Doubles = std::vector<double>;
constexpr std::array<Site, 4> kSites = {Site::kAttentionIn, Site::kAttentionOut, Site::kMlpIn,
                                        Site::kMlpDown};

// The block in plain double arithmetic.
struct DoubleBlock {
  ModelConfig config;
  BlockSpec spec;
  std::array<Doubles, 4> weights, biases;  // by site, [out, in] and [out]
  std::map<std::string, Doubles> norms;
  std::vector<int64_t> lengths;

  DoubleBlock(const ModelConfig& c, const BlockSpec& s, const BlockWeights& w, std::vector<int64_t> n)
      : config(c), spec(s), lengths(std::move(n)) {
    for (const LinearSpec& linear : spec.linears) {
      const auto site = static_cast<size_t>(linear.reads);
      const Tensor dense = w.dense(linear.module);
      weights[site].insert(weights[site].end(), dense.f32(), dense.f32() + dense.numel());
      const auto bias = w.biases.find(linear.module);
      for (int64_t i = 0; i < linear.out; ++i)
        biases[site].push_back(bias == w.biases.end() ? 0 : bias->second.f32()[i]);
    }
    for (const auto& [name, gain] : w.norms) norms[name].assign(gain.f32(), gain.f32() + gain.numel());
  }

  void norm(double* x, int64_t n, const Doubles& gain) const {
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += x[i] * x[i];
    const double r = 1 / std::sqrt(squares / static_cast<double>(n) + static_cast<double>(config.rms_eps));
    for (int64_t i = 0; i < n; ++i) x[i] *= r * gain[static_cast<size_t>(i)];
  }

  Doubles linear(Site site, const Doubles& x, int64_t tokens) const {
    const Doubles &w = weights[static_cast<size_t>(site)], &b = biases[static_cast<size_t>(site)];
    const int64_t in = static_cast<int64_t>(x.size()) / tokens, out = static_cast<int64_t>(b.size());
    Doubles y(static_cast<size_t>(tokens * out));
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t o = 0; o < out; ++o)
        y[t * out + o] = b[o] + std::inner_product(&x[t * in], &x[t * in] + in, &w[o * in], 0.0);
    return y;
  }

  void turn(double* head, int64_t position, const std::vector<double>& freq) const {
    const auto pairs = static_cast<int64_t>(freq.size());
    for (int64_t i = 0; i < pairs; ++i) {
      const double angle = static_cast<double>(position) * freq[i];
      const double c = std::cos(angle) * config.rope.magnitude, s = std::sin(angle) * config.rope.magnitude;
      const double a = head[i], b = head[i + pairs];
      head[i] = a * c - b * s, head[i + pairs] = b * c + a * s;
    }
  }

  // One sequence, qkv [tokens, width] after the projections.
  Doubles attention(Doubles qkv, int64_t tokens) const {
    const int64_t d = config.head_dim, width = static_cast<int64_t>(qkv.size()) / tokens;
    const bool beyond =
        config.rope.depends_on_length() && static_cast<double>(tokens) > config.rope.original_max_position;
    const std::vector<double> freq = rope_inv_freq(config.rope, beyond ? tokens : 0);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t h = 0; h < config.heads + config.kv_heads; ++h) {
        const std::string& name = h < config.heads ? spec.q_norm : spec.k_norm;
        double* head = &qkv[t * width + h * d];
        if (!name.empty()) norm(head, d, norms.at(name));
        turn(head, t, freq);
      }
    Doubles y(static_cast<size_t>(tokens * config.heads * d), 0.0);
    for (int64_t h = 0; h < config.heads; ++h) {
      const int64_t kv = h / (config.heads / config.kv_heads);
      const int64_t k = (config.heads + kv) * d, v = (config.heads + config.kv_heads + kv) * d;
      for (int64_t t = 0; t < tokens; ++t) {
        Doubles p;
        double sum = 0;
        const int64_t first = spec.window > 0 ? std::max<int64_t>(0, t - spec.window + 1) : 0;
        for (int64_t j = first; j <= t; ++j) {
          const double dot = std::inner_product(&qkv[t * width + h * d], &qkv[t * width + h * d] + d,
                                                &qkv[j * width + k], 0.0);
          p.push_back(std::exp(dot / std::sqrt(static_cast<double>(d))));
          sum += p.back();
        }
        for (int64_t j = first; j <= t; ++j)
          for (int64_t i = 0; i < d; ++i)
            y[(t * config.heads + h) * d + i] += p[j - first] / sum * qkv[j * width + v + i];
      }
    }
    return y;
  }

  Doubles forward(const Doubles& x) const {
    Doubles y;
    int64_t start = 0;
    for (const int64_t n : lengths) {
      const Doubles part =
          sequence(Doubles(x.begin() + start * config.hidden, x.begin() + (start + n) * config.hidden), n);
      y.insert(y.end(), part.begin(), part.end());
      start += n;
    }
    return y;
  }

  Doubles sequence(Doubles x, int64_t tokens) const {
    const auto normed = [&](const std::string& name) {
      Doubles out = x;
      for (int64_t t = 0; t < tokens; ++t) norm(&out[t * config.hidden], config.hidden, norms.at(name));
      return out;
    };
    const auto add = [&](const Doubles& delta) {
      for (size_t i = 0; i < x.size(); ++i) x[i] += delta[i];
    };
    add(linear(Site::kAttentionOut,
               attention(linear(Site::kAttentionIn, normed(spec.input_norm), tokens), tokens), tokens));
    const Doubles gate_up = linear(Site::kMlpIn, normed(spec.post_norm), tokens);
    const int64_t inner = config.intermediate;
    Doubles act(static_cast<size_t>(tokens * inner));
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < inner; ++i) {
        const double g = gate_up[t * 2 * inner + i];
        act[t * inner + i] = g / (1 + std::exp(-g)) * gate_up[t * 2 * inner + inner + i];
      }
    add(linear(Site::kMlpDown, act, tokens));
    return x;
  }
};

class BlockBackward : public ::testing::TestWithParam<std::string> {};

TEST_P(BlockBackward, AgreesWithCentralDifferences) {
  const auto checkpoint = Checkpoint::open(golden_root() / GetParam());
  const auto config =
      std::make_shared<const ModelConfig>(parse_model_config(checkpoint->config(), GetParam()));
  const BlockSpec spec = find_arch(config->model_type, GetParam()).block(*config, config->layers - 1);
  const BlockWeights weights = load_block(*checkpoint, *config, spec, true);
  const std::vector<int64_t> lengths = {kGoldenLength, 7};
  DoubleBlock reference(*config, spec, weights, lengths);
  DifferentiableBlock block(*config, spec, weights, false);

  std::vector<SpanView> spans;
  std::vector<int32_t> positions;
  int64_t tokens = 0;
  for (const int64_t n : lengths) {
    spans.push_back({tokens, n, 0, nullptr});
    for (int32_t p = 0; p < n; ++p) positions.push_back(p);
    tokens += n;
  }
  const std::vector<int32_t> ids(positions.size(), 1);
  const BatchView batch{ids, positions, spans};
  const std::vector<float> x = random_floats(tokens * config->hidden, 3),
                           dy = random_floats(tokens * config->hidden, 4);
  std::vector<float> y(x.size()), dx(x.size());
  block.forward(x.data(), batch, y.data());
  block.backward(dy.data(), {true, true, true, true}, dx.data());

  // The forward is Block's.
  std::vector<float> expected = x;
  Scratch scratch;
  Block(config, spec, weights, Precision::kExact).forward(expected.data(), batch, nullptr, scratch, nullptr);
  EXPECT_LT(relative_error(y, expected), 1e-5);

  // L = sum of dy * y, along `moved` += e * direction.
  Doubles at(x.begin(), x.end());
  const auto loss = [&] {
    const Doubles out = reference.forward(at);
    return std::inner_product(out.begin(), out.end(), dy.begin(), 0.0);
  };
  const auto difference = [&](Doubles& moved, const Doubles& direction) {
    constexpr double kStep = 1e-5;
    const Doubles before = moved;
    double value[2];
    for (const int side : {0, 1}) {
      for (size_t i = 0; i < moved.size(); ++i)
        moved[i] = before[i] + (side == 0 ? kStep : -kStep) * direction[i];
      value[side] = loss();
    }
    moved = before;
    return (value[0] - value[1]) / (2 * kStep);
  };
  std::mt19937 rng(5);
  const auto check = [&](Doubles& moved, const std::vector<float>& gradient, const std::string& what) {
    ASSERT_EQ(moved.size(), gradient.size()) << what;
    const double norm =
        std::sqrt(std::inner_product(gradient.begin(), gradient.end(), gradient.begin(), 0.0));
    ASSERT_GT(norm, 0) << what;
    // Along the gradient the difference is its norm, which no other vector gives; then some random directions
    // and single entries.
    for (int trial = 0; trial < 5; ++trial) {
      Doubles direction(moved.size(), 0.0);
      std::normal_distribution<double> normal;
      for (size_t i = 0; i < direction.size() && trial < 3; ++i)
        direction[i] =
            trial == 0 ? gradient[i] / norm : normal(rng) / std::sqrt(static_cast<double>(direction.size()));
      if (trial >= 3) direction[rng() % direction.size()] = 1;
      const double given = std::inner_product(direction.begin(), direction.end(), gradient.begin(), 0.0);
      EXPECT_NEAR(difference(moved, direction) / norm, given / norm, 2e-4) << what << ", direction " << trial;
    }
  };
  for (const Site site : kSites)
    check(reference.weights[static_cast<size_t>(site)], block.at(site).gradient, site_name(site));
  check(at, dx, "inputs");
}

// Gemma's blocks have no backward pass: plan_quantize refuses them (BlockTuning.GemmaIsRefused).
std::vector<std::string> models_going_backward() {
  std::vector<std::string> names = golden_names(false);
  std::erase_if(names, [](const std::string& name) { return name.starts_with("gemma"); });
  return names;
}

INSTANTIATE_TEST_SUITE_P(Golden, BlockBackward, ::testing::ValuesIn(models_going_backward()),
                         [](const auto& named) { return test_name(named.param); });

}  // namespace
}  // namespace awq::testing
