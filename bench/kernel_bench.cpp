// Every kernel against the machine's limit, measured in the same run: products against a loop of independent
// fused multiply-adds (or bf16 products), streaming kernels against a loop that only reads memory.
// Counters: GFLOP/s or GB/s, and their share of that limit. AWQ_ISA chooses the instruction-set path.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "base/system.h"
#include "base/thread_pool.h"
#include "kernels/cpu/simd_table.h"
#include "kernels/linear.h"
#include "kernels/ops.h"
#include "kernels/quant_ops.h"

namespace awq {
namespace {

std::vector<float> random_floats(int64_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) x = normal(rng);
  return v;
}

QuantWeight random_quant(int64_t rows, int64_t cols, int bits, int group) {
  QuantWeight w;
  w.scheme = {CodeKind::kAffine, bits, group, ZeroKind::kInteger};
  w.rows = rows;
  w.cols = cols;
  std::mt19937 rng(1);
  w.codes.resize(static_cast<size_t>(rows * cols));
  for (uint8_t& c : w.codes) c = static_cast<uint8_t>(rng() % (1u << bits));
  w.scales.assign(static_cast<size_t>(rows * w.groups()), 0.0078125f);
  w.zeros.assign(w.scales.size(), static_cast<uint8_t>(1 << (bits - 1)));
  return w;
}

// Operations per second of the microkernel on operands that stay in the first-level cache: all threads, best
// of 20.
double measure_peak(bool bf16) {
  const simd::Table& t = simd::table();
  constexpr int64_t kSteps = 96, kRepeats = 400;
  const auto a = random_floats(kSteps * t.mr, 1), b = random_floats(kSteps * t.nr, 2);
  const auto micro = (bf16 ? t.micro_bf16 : t.micro)[t.mr];
  double best = 0;
  for (int round = 0; round < 20; ++round) {
    const double start = now_seconds();
    parallel_for(threads(), [&](int64_t) {
      float c[simd::kMaxMr * simd::kMaxNr];
      for (int64_t i = 0; i < kRepeats; ++i) {
        micro(kSteps, a.data(), b.data(), c, t.nr, false);
        benchmark::DoNotOptimize(c);
      }
    });
    const double flops = 2.0 * kSteps * kRepeats * t.mr * t.nr * threads() * (bf16 ? 2 : 1);
    best = std::max(best, flops / (now_seconds() - start));
  }
  return best;
}

// Bytes per second read by all threads from 512 MiB.
double measure_bandwidth() {
  const simd::Table& t = simd::table();
  const std::vector<float> data(size_t{128} << 20, 1.0f);
  const int64_t chunk = 1 << 16, chunks = static_cast<int64_t>(data.size()) / chunk;
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    const double start = now_seconds();
    parallel_for(chunks, [&](int64_t i) {
      float m = t.max(data.data() + i * chunk, chunk);
      benchmark::DoNotOptimize(m);
    });
    best = std::max(best, 4.0 * static_cast<double>(data.size()) / (now_seconds() - start));
  }
  return best;
}

double peak(bool bf16) {
  static const double f32 = measure_peak(false), half = simd::table().bf16 ? measure_peak(true) : f32;
  return bf16 ? half : f32;
}
double bandwidth() {
  static const double value = measure_bandwidth();
  return value;
}

using benchmark::Counter;
void report_flops(benchmark::State& state, double flops, bool bf16) {
  const double total = flops * static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] = Counter(total * 1e-9, Counter::kIsRate);
  state.counters["of_peak"] = Counter(total / peak(bf16), Counter::kIsRate);
}
void report_bytes(benchmark::State& state, double bytes) {
  const double total = bytes * static_cast<double>(state.iterations());
  state.counters["GB/s"] = Counter(total * 1e-9, Counter::kIsRate);
  state.counters["of_read"] = Counter(total / bandwidth(), Counter::kIsRate);
}

void limits(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(state.iterations());
  state.counters["fp32_GFLOP/s"] = peak(false) * 1e-9;
  state.counters["bf16_GFLOP/s"] = peak(true) * 1e-9;
  state.counters["read_GB/s"] = bandwidth() * 1e-9;
  state.counters["threads"] = threads();
}

enum Form { kF32, kBf16Stored, kBf16Product, kW4, kW4Bf16, kW3, kForms };
const char* const kFormNames[] = {"f32", "bf16-stored", "bf16-product", "w4", "w4-bf16", "w3"};

std::unique_ptr<PackedLinear> make_linear(Form form, int64_t out, int64_t in) {
  const Precision precision = form == kBf16Product || form == kW4Bf16 ? Precision::kBf16 : Precision::kExact;
  if (form == kW4 || form == kW4Bf16) return pack_linear(random_quant(out, in, 4, 64), precision);
  if (form == kW3) return pack_linear(random_quant(out, in, 3, 64), precision);
  const Tensor w = Tensor::from(random_floats(out * in, 2), {out, in});
  return pack_linear(form == kF32 ? w : w.to(DType::kBF16), precision);
}

// Args: form, tokens, out, in.
void linear(benchmark::State& state) {
  const Form form = static_cast<Form>(state.range(0));
  const int64_t tokens = state.range(1), out = state.range(2), in = state.range(3);
  // Copies enough that a decode step cannot live in the caches, as in a model.
  const int64_t copies = tokens <= 16 ? std::max<int64_t>(1, (int64_t{96} << 20) / (out * in)) : 1;
  std::vector<std::unique_ptr<PackedLinear>> layers;
  for (int64_t i = 0; i < copies; ++i) layers.push_back(make_linear(form, out, in));
  const auto x = random_floats(tokens * in, 1);
  std::vector<float> y(static_cast<size_t>(tokens * out));
  for (auto _ : state)
    for (const auto& layer : layers) layer->run(x.data(), tokens, y.data(), out);
  state.SetLabel(std::string(kFormNames[form]) + " " + layers[0]->kernel());
  report_flops(state, 2.0 * static_cast<double>(tokens * out * in * copies),
               form == kBf16Product || form == kW4Bf16);
  if (tokens <= 16) report_bytes(state, static_cast<double>(layers[0]->bytes() * copies));
}

void linear_args(benchmark::internal::Benchmark* b) {
  for (int form = 0; form < kForms; ++form) {
    for (const auto& [out, in] :
         {std::pair<int64_t, int64_t>{576, 576}, {1536, 576}, {576, 1536}, {4096, 4096}})
      b->Args({form, 512, out, in});
    for (const int64_t tokens : {1, 2, 4, 8, 16, 32, 64}) b->Args({form, tokens, 1536, 1536});
  }
}

// Args: tokens, k, bf16.
void gram(benchmark::State& state) {
  const int64_t tokens = state.range(0), k = state.range(1);
  const auto x = random_floats(tokens * k, 1);
  std::vector<float> g(static_cast<size_t>(k * k));
  for (auto _ : state) gram_accumulate(x.data(), k, tokens, k, g.data(), state.range(2) != 0);
  report_flops(state, static_cast<double>(tokens * k * (k + 1)), state.range(2) != 0);  // half of 2 t k^2
}

// Args: tokens, heads, kv_heads, head_dim. Operations below the diagonal count.
void attention_prefill(benchmark::State& state) {
  const int64_t tokens = state.range(0), heads = state.range(1), kv_heads = state.range(2),
                dim = state.range(3);
  const auto q = random_floats(tokens * heads * dim, 1), k = random_floats(tokens * kv_heads * dim, 2);
  const auto v = random_floats(tokens * kv_heads * dim, 3);
  std::vector<float> y(q.size());
  const SpanView span[] = {{0, tokens, 0, nullptr}};
  for (auto _ : state)
    attention_dense({heads, kv_heads, dim, 0.125f, 0}, span, q.data(), heads * dim, k.data(), v.data(),
                    kv_heads * dim, y.data());
  report_flops(state, 2.0 * static_cast<double>(tokens * (tokens + 1) * heads * dim), false);
}

// Args: keys in the cache, heads, kv_heads, head_dim, dtype.
void attention_decode(benchmark::State& state) {
  const int64_t past = state.range(0) - 1, heads = state.range(1);
  KvLayerView cache{nullptr, static_cast<DType>(state.range(4)), state.range(2), state.range(3)};
  const int64_t pages = (past + kPageTokens) / kPageTokens;
  std::vector<std::byte> memory(static_cast<size_t>(pages * cache.page_bytes()));
  cache.base = memory.data();
  std::vector<int32_t> numbers(static_cast<size_t>(pages));
  for (int64_t i = 0; i < pages; ++i) numbers[i] = static_cast<int32_t>(i);
  const auto q = random_floats(heads * cache.head_dim, 1);
  std::vector<float> y(q.size());
  const SpanView span[] = {{0, 1, past, numbers.data()}};
  for (auto _ : state)
    attention_paged({heads, cache.kv_heads, cache.head_dim, 0.125f, 0}, cache, span, q.data(),
                    heads * cache.head_dim, y.data());
  report_bytes(state, static_cast<double>(memory.size()));
  state.SetLabel(dtype_name(cache.dtype));
}

void kl_rows(benchmark::State& state) {
  const int64_t tokens = 64, vocab = state.range(0);
  const auto p = random_floats(tokens * vocab, 1), q = random_floats(tokens * vocab, 2);
  std::vector<double> kl(tokens);
  std::vector<uint8_t> top(tokens);
  for (auto _ : state) kl_divergence(p.data(), q.data(), tokens, vocab, kl.data(), top.data());
  report_bytes(state, 8.0 * static_cast<double>(tokens * vocab));
}

void rms_norm_rows(benchmark::State& state) {
  const int64_t tokens = 2048, dim = state.range(0);
  const auto x = random_floats(tokens * dim, 1), weight = random_floats(dim, 2);
  std::vector<float> y(x.size());
  for (auto _ : state) rms_norm(x.data(), weight.data(), 0.0f, 1e-5f, tokens, dim, y.data());
  report_bytes(state, 8.0 * static_cast<double>(tokens * dim));
}

void silu_mul_rows(benchmark::State& state) {
  const int64_t tokens = 2048, dim = state.range(0);
  const auto x = random_floats(tokens * dim * 2, 1);
  std::vector<float> y(static_cast<size_t>(tokens * dim));
  for (auto _ : state) silu_mul(x.data(), tokens, dim, y.data());
  report_bytes(state, 12.0 * static_cast<double>(tokens * dim));
}

BENCHMARK(limits)->Iterations(1);
BENCHMARK(linear)->Apply(linear_args)->UseRealTime();
BENCHMARK(gram)->ArgsProduct({{256, 2048}, {576, 1536}, {0, 1}})->UseRealTime();
BENCHMARK(attention_prefill)
    ->Args({512, 9, 3, 64})
    ->Args({2048, 9, 3, 64})
    ->Args({2048, 8, 8, 128})
    ->UseRealTime();
BENCHMARK(attention_decode)
    ->ArgsProduct(
        {{512, 8192, 65536}, {9}, {3}, {64}, {static_cast<int>(DType::kF32), static_cast<int>(DType::kBF16)}})
    ->UseRealTime();
BENCHMARK(kl_rows)->Arg(49152)->Arg(151936)->UseRealTime();
BENCHMARK(rms_norm_rows)->Arg(576)->Arg(4096)->UseRealTime();
BENCHMARK(silu_mul_rows)->Arg(1536)->UseRealTime();

}  // namespace
}  // namespace awq

BENCHMARK_MAIN();
