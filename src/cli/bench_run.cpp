#include "cli/bench_run.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "base/progress.h"
#include "base/system.h"
#include "base/thread_pool.h"

namespace awq::cli {
namespace {

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

// Sequences side by side in one cache: sequence s has the pages from s * pages_each on.
class Driver {
 public:
  Driver(const Model& model, const BenchShape& shape)
      : model_(model),
        pages_each_((std::max(shape.prompt, shape.context + shape.decode) + kPageTokens - 1) / kPageTokens),
        host_sampling_(shape.host_sampling),
        cache_(model, shape.batch * pages_each_, shape.kv_dtype),
        pages_(static_cast<size_t>(shape.batch * pages_each_)) {
    for (size_t i = 0; i < pages_.size(); ++i) pages_[i] = static_cast<int32_t>(i);
    logits_.resize(static_cast<size_t>(shape.batch * model.config().vocab));
    if (!shape.sampling) return;
    for (int64_t i = 0; i < shape.batch; ++i) {
      SamplingParams params = *shape.sampling;
      params.seed += static_cast<uint64_t>(i);
      samplers_.emplace_back(params, model.config().vocab);
    }
  }
  int64_t cache_bytes() const { return cache_.bytes(); }
  bool on_device() const { return model_.device() != nullptr; }

  // `tokens` more for each of the sequences [first, first + count), which have `past` already; logits of
  // each's last one.
  void step(int64_t first, int64_t count, int64_t past, int64_t tokens, bool logits) {
    check_cancelled();
    ids_.clear();
    positions_.clear();
    spans_.clear();
    const int64_t vocab = model_.config().vocab, hidden = model_.config().hidden;
    for (int64_t s = first; s < first + count; ++s) {
      spans_.push_back({static_cast<int64_t>(ids_.size()), tokens, past, pages_.data() + s * pages_each_});
      for (int64_t i = 0; i < tokens; ++i) {
        ids_.push_back(static_cast<int32_t>((s * 7919 + (past + i) * 104729 + 17) % vocab));
        positions_.push_back(static_cast<int32_t>(past + i));
      }
    }
    if (tokens == 1 && logits && !samplers_.empty()) return sample();
    // On a device the choice of the next token belongs to the step: no logits leave it.
    if (model_.device() != nullptr && tokens == 1 && logits) {
      next_.resize(static_cast<size_t>(count));
      return model_.device()->greedy({ids_, positions_, spans_}, cache_.device(), next_.data());
    }
    model_.forward({ids_, positions_, spans_}, &cache_, scratch_, hidden_);
    if (!logits) return;
    if (tokens == 1) return model_.logits(hidden_.data(), count, logits_.data());
    for (int64_t s = 0; s < count; ++s)
      model_.logits(hidden_.data() + ((s + 1) * tokens - 1) * hidden, 1, logits_.data() + s * vocab);
  }
  double host_draws() const { return draws_ == 0 ? 0 : static_cast<double>(host_draws_) / static_cast<double>(draws_); }

 private:
  // The step's token of every sequence, as the engine does it.
  void sample() {
    const auto vocab = static_cast<size_t>(model_.config().vocab);
    model_.forward({ids_, positions_, spans_}, &cache_, scratch_, states_);
    asked_.clear();
    for (size_t s = 0; s < spans_.size(); ++s) {
      asked_.push_back(host_sampling_ ? RowDraw{} : samplers_[s].plan().value_or(RowDraw{}));
      asked_.back().row = static_cast<int64_t>(s);
    }
    model_.draw(states_, asked_, answers_);
    std::vector<float*> rows(spans_.size());  // of logits, where there is no token
    float* row = answers_.logits.data();
    for (size_t s = 0; s < rows.size(); ++s)
      if (answers_.tokens[s] < 0) rows[s] = row, row += vocab, ++host_draws_;
    draws_ += static_cast<int64_t>(rows.size());
    parallel_for(static_cast<int64_t>(rows.size()), [&](int64_t i) {
      const auto s = static_cast<size_t>(i);
      if (rows[s] != nullptr)
        answers_.tokens[s] = samplers_[s].draw({rows[s], vocab});
      else
        samplers_[s].count_draw();
      samplers_[s].accept(answers_.tokens[s]);
    });
  }

  const Model& model_;
  int64_t pages_each_;
  bool host_sampling_;
  KvCache cache_;
  std::vector<int32_t> pages_, ids_, positions_, next_;
  std::vector<SpanView> spans_;
  Scratch scratch_;
  std::vector<float> hidden_, logits_;
  std::vector<Sampler> samplers_;
  States states_;
  std::vector<RowDraw> asked_;
  DrawnRows answers_;
  int64_t draws_ = 0, host_draws_ = 0;
};

constexpr int64_t kPromptChunk = 512;  // as the engine reads prompts
constexpr int64_t kDevicePromptChunk = 2048;

void read_prompt(Driver& driver, int64_t sequence, int64_t tokens) {
  const int64_t chunk = driver.on_device() ? kDevicePromptChunk : kPromptChunk;
  for (int64_t i = 0; i < tokens; i += chunk) {
    const int64_t n = std::min(chunk, tokens - i);
    driver.step(sequence, 1, i, n, i + n == tokens);
  }
}

double linear_ops(const ModelConfig& c) {
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  return 2.0 * static_cast<double>(c.layers) *
         static_cast<double>(c.hidden * (2 * q + 2 * kv + 3 * c.intermediate));
}

}  // namespace

BenchResult run_bench(const Model& model, const BenchShape& shape) {
  const ModelConfig& config = model.config();
  BenchResult result;
  Driver driver(model, shape);
  result.cache_bytes = driver.cache_bytes();
  if (shape.prompt > 0) {
    read_prompt(driver, 0, shape.prompt);  // warm-up
    std::vector<double> seconds;
    for (int64_t i = 0; i < shape.repeat; ++i) {
      const double start = now_seconds();
      read_prompt(driver, 0, shape.prompt);
      seconds.push_back(now_seconds() - start);
    }
    result.prefill_tokens_per_s = static_cast<double>(shape.prompt) / median(seconds);
    result.prefill_ops = linear_ops(config) * static_cast<double>(shape.prompt);
  }
  if (shape.decode > 0) {
    for (int64_t s = 0; s < shape.batch; ++s) read_prompt(driver, s, shape.context);
    const auto decode = [&] {
      for (int64_t i = 0; i < shape.decode; ++i) driver.step(0, shape.batch, shape.context + i, 1, true);
    };
    decode();
    std::vector<double> seconds;
    for (int64_t i = 0; i < shape.repeat; ++i) {
      const double start = now_seconds();
      decode();
      seconds.push_back(now_seconds() - start);
    }
    result.decode_step_seconds = median(seconds) / static_cast<double>(shape.decode);
    result.decode_tokens_per_s = static_cast<double>(shape.batch) / result.decode_step_seconds;
    result.host_draws = driver.host_draws();
  }
  const int64_t token_bytes = KvCache::page_bytes(model, shape.kv_dtype) / kPageTokens;
  result.bytes_per_step =
      model.decode_bytes() + shape.batch * token_bytes * (shape.context + shape.decode / 2);
  result.rss_bytes = rss_bytes();
  return result;
}

namespace {

constexpr int64_t kCopiesBytes = 256 << 20;  // of 16-bit weights: more than most caches hold

std::unique_ptr<PackedLinear> pack(const WeightSource& w, Precision precision, Product product) {
  if (const auto* t = std::get_if<Tensor>(&w)) return pack_linear(*t, precision, product);
  return pack_linear(std::get<QuantWeight>(w), precision, product);
}

// Microseconds of a product, the median over rounds through the copies.
double time_product(const std::vector<std::unique_ptr<PackedLinear>>& copies, int64_t tokens) {
  const int64_t in = copies[0]->in(), out = copies[0]->out();
  std::vector<float> x(static_cast<size_t>(tokens * in)), y(static_cast<size_t>(tokens * out));
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = static_cast<float>(static_cast<int>(i * 2654435761u >> 20 & 1023) - 512) / 256.0f;
  std::vector<double> seconds;
  for (int round = 0; round < 6; ++round) {
    check_cancelled();
    const double start = now_seconds();
    for (const auto& linear : copies) linear->run(x.data(), tokens, y.data(), out);
    if (round > 0) seconds.push_back((now_seconds() - start) / static_cast<double>(copies.size()));
  }
  return median(seconds) * 1e6;
}

}  // namespace

std::vector<KernelRow> kernel_table(const ModelConfig& c, const RandomWeights& weights,
                                    const LoadOptions& options) {
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  struct Shape {
    const char* name;
    int64_t out, in;
  };
  const Shape shapes[] = {{"qkv", q + 2 * kv, c.hidden},
                          {"o", c.hidden, q},
                          {"gate_up", 2 * c.intermediate, c.hidden},
                          {"down", c.hidden, c.intermediate}};
  std::vector<KernelRow> rows;
  for (const Shape& shape : shapes) {
    const int64_t copies = std::max<int64_t>(1, kCopiesBytes / (2 * shape.out * shape.in));
    RandomWeights w = weights;
    if (w.group > 0 && shape.in % w.group != 0) w.group = -1;
    const auto make = [&](int bits, Precision precision, Product product) {
      w.bits = bits;
      const WeightSource source = random_weight(shape.out, shape.in, w);
      std::vector<std::unique_ptr<PackedLinear>> list;
      for (int64_t i = 0; i < copies; ++i) {
        if (bits == 16) w.seed += 1;  // a dense weight is not copied by packing
        list.push_back(pack(bits == 16 ? random_weight(shape.out, shape.in, w) : source, precision, product));
      }
      return list;
    };
    const int64_t tokens[] = {1, 2, 4, 8, 16, 32, 64, 128, 512};
    const size_t first = rows.size();
    for (const int64_t n : tokens)
      rows.push_back({fmt::format("{} [{}, {}]", shape.name, shape.out, shape.in), n});
    const auto measure = [&](int bits, Precision precision, Product product, double KernelRow::*to) {
      const auto list = make(bits, precision, product);
      for (size_t i = 0; i < std::size(tokens); ++i) {
        if (bits != 16) rows[first + i].bytes = list[0]->bytes();
        // Streaming hundreds of tokens only wastes time.
        if (product != Product::kGemv || tokens[i] <= 64) rows[first + i].*to = time_product(list, tokens[i]);
      }
    };
    measure(weights.bits, options.precision, Product::kAuto, &KernelRow::auto_us);
    measure(weights.bits, options.precision, Product::kGemv, &KernelRow::gemv_us);
    measure(weights.bits, options.precision, Product::kGemm, &KernelRow::gemm_us);
    measure(16, Precision::kBf16, Product::kAuto, &KernelRow::bf16_us);
  }
  return rows;
}

int64_t crossover(const std::vector<KernelRow>& rows) {
  std::map<int64_t, std::pair<double, double>> totals;  // tokens -> quantized, 16-bit
  for (const KernelRow& row : rows) {
    totals[row.tokens].first += row.auto_us;
    totals[row.tokens].second += row.bf16_us;
  }
  int64_t best = 0;
  for (const auto& [tokens, us] : totals) {
    if (us.first >= us.second) break;
    best = tokens;
  }
  return best;
}

}  // namespace awq::cli
