#include "model/random_model.h"

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/half.h"
#include "base/system.h"
#include "base/thread_pool.h"

namespace awq {
namespace {

// splitmix64 (Steele et al. 2014): a number per index, so that threads may take any part.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// out [bytes] = random words & mask | set, eight bytes at a time.
void fill(void* out, int64_t bytes, uint64_t seed, uint64_t mask, uint64_t set) {
  constexpr int64_t kChunk = 1 << 16;
  parallel_for((bytes + kChunk - 1) / kChunk, [&](int64_t i) {
    auto* at = static_cast<char*>(out) + i * kChunk;
    const int64_t n = std::min(kChunk, bytes - i * kChunk);
    for (int64_t j = 0; j < n; j += 8) {
      const uint64_t word = (mix(seed + static_cast<uint64_t>(i * kChunk + j)) & mask) | set;
      std::memcpy(at + j, &word, static_cast<size_t>(std::min<int64_t>(8, n - j)));
    }
  });
}

uint64_t each_byte(int value) { return 0x0101010101010101u * static_cast<uint64_t>(value); }

// Magnitudes from 2^-7 to 2^-6 with either sign.
Tensor random_dense(int64_t out, int64_t in, uint64_t seed) {
  Tensor t(DType::kBF16, {out, in});
  fill(t.mutable_bytes(), t.nbytes(), seed, 0x807f807f807f807fu, 0x3c003c003c003c00u);
  return t;
}

int fitting_group(const BlockSpec& spec, int group) {
  const auto divides = [&](int g) {
    for (const LinearSpec& l : spec.linears)
      if (l.in % g != 0) return false;
    return true;
  };
  if (group < 0 || divides(group)) return group;
  for (const int g : {128, 64, 32})
    if (divides(g)) return g;
  return -1;
}

BlockWeights random_block(const ModelConfig& config, const BlockSpec& spec, RandomWeights weights) {
  weights.group = fitting_group(spec, weights.group);
  const auto vector = [](int64_t n, float value) {
    return Tensor::from(std::vector<float>(static_cast<size_t>(n), value), {n});
  };
  BlockWeights block;
  for (const NormSpec& norm : spec.norms(config)) block.norms[norm.name] = vector(norm.dim, 1.0f);
  for (const LinearSpec& linear : spec.linears) {
    weights.seed = mix(weights.seed);
    block.weights[linear.module] = random_weight(linear.out, linear.in, weights);
    if (linear.bias) block.biases[linear.module] = vector(linear.out, 0.0f);
  }
  return block;
}

}  // namespace

WeightSource random_weight(int64_t out, int64_t in, const RandomWeights& weights) {
  if (weights.bits == 16) return random_dense(out, in, weights.seed);
  QuantWeight w;
  w.scheme = {.bits = weights.bits, .group = weights.group, .zero = ZeroKind::kInteger};
  if (weights.int8_activations) w.scheme = {.bits = 8, .group = -1, .zero = ZeroKind::kNone, .activations = Activations::kInt8Token};
  if (weights.code == CodeKind::kNf4) {
    w.scheme = {CodeKind::kNf4, 4, 64, ZeroKind::kNone};
    if (in % w.scheme.group != 0) fail(Code::kBadArgument, "nf4: expected inputs of linears in multiples of {}, got {}", w.scheme.group, in);
  }
  w.rows = out;
  w.cols = in;
  const int top = w.scheme.max_code(), middle = 1 << (weights.bits - 1);
  w.codes.resize(static_cast<size_t>(out * in));
  fill(w.codes.data(), out * in, weights.seed, each_byte(top), 0);
  const float reach = weights.code == CodeKind::kNf4 ? 2 : static_cast<float>(top);  // from the least number to the largest, in scales
  const float scale = round_to_fp16(2.0f / (reach * std::sqrt(static_cast<float>(in))));
  w.scales.assign(static_cast<size_t>(out * w.groups()), scale);
  if (w.scheme.zero == ZeroKind::kInteger) w.zeros.assign(w.scales.size(), static_cast<uint8_t>(middle));
  return w;
}

std::shared_ptr<const Model> random_model(const nlohmann::ordered_json& json, const std::string& where,
                                          const RandomWeights& weights, const LoadOptions& options) {
  check_invariant(options);
  const auto config = std::make_shared<const ModelConfig>(parse_model_config(json, where));
  const ArchSpec& arch = find_arch(config->model_type, where);
  const Tensor embedding = random_dense(config->vocab, config->hidden, weights.seed).to(weights.dense);
  std::shared_ptr<DeviceModel> device;
  if (options.device == Device::kCuda) device = make_cuda_model(config, embedding, options.invariant);
  std::vector<std::unique_ptr<Block>> blocks;
  for (int64_t i = 0; i < config->layers; ++i) {
    check_cancelled();
    const BlockSpec spec = arch.block(*config, i);
    RandomWeights of_block = weights;
    of_block.seed = mix(weights.seed + static_cast<uint64_t>(i));
    const BlockWeights block = random_block(*config, spec, of_block);
    if (device)
      device->add_block(spec, block);
    else
      blocks.push_back(std::make_unique<Block>(config, spec, block, options.linear()));
    if (options.progress)
      options.progress({"load", static_cast<double>(i + 1), static_cast<double>(config->layers), "blocks"});
  }
  const Tensor head =
      config->tied ? embedding : random_dense(config->vocab, config->hidden, weights.seed + 1).to(weights.dense);
  Tensor norm = Tensor::from(std::vector<float>(static_cast<size_t>(config->hidden), 1.0f), {config->hidden});
  if (device) {
    device->finish(norm, head, options.head_bits);
    return_freed_memory();
    return std::make_shared<Model>(config, device);
  }
  auto model = std::make_shared<Model>(config, embedding, norm, head, std::move(blocks), options.linear(), options.head_bits);
  return_freed_memory();
  return model;
}

}  // namespace awq
