// 4-bit linears beside cuBLAS fp16 on the shapes of Llama-3 8B and 70B, checked against products in double.
// Prints tables for docs/benchmarks.md. Usage: cuda_linear_bench [TOKENS[,TOKENS...]] [--all] [--w8] [--nf4] [--int8]
// --all: every kernel, not only the picked one; instead of 4 bits in groups of 128: --w8: 8 bits in groups of 128; --nf4: NF4 in blocks
// of 64; --int8: int8 weights and inputs
//
// Cold: calls rotate over copies of the weight that together exceed the L2 cache several times. Calls are
// captured into graphs; the time is the median over replays, divided by the calls in a graph. Every
// measurement starts after 10 ms of rest and 3 ms of warming up, and cuBLAS is timed again beside each
// kernel, since long products change the clock.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/int8_linear.h"
#include "kernels/devices.h"
#include "linear_kernels.h"

namespace awq::bench {
namespace {

using cuda::Buffer;
using cuda::check;
using cuda::Choice;
using cuda::Way;

constexpr int64_t kRotation = int64_t{200} << 20;  // bytes of weights between two uses of the same copy

constexpr int group_of(cuda::Format format) { return format == cuda::Format::kNf4 ? 64 : 128; }

struct Shape {
  const char* name;
  int in, out;
  // Speed of the best published 4-bit kernel over cuBLAS fp16 at 1, 4, 16, 64, 256, 1024, 4096 tokens (eleven
  // kernels, measured on an H100 in the same way).
  double peer[7];
};
const Shape kShapes[] = {
    {"8B qkv", 4096, 6144, {2.43, 1.86, 1.76, 0.97, 0.87, 0.93, 1.03}},
    {"8B o", 4096, 4096, {2.45, 1.81, 1.79, 1.00, 0.81, 0.85, 0.89}},
    {"8B gate+up", 4096, 28672, {3.23, 2.71, 2.62, 2.00, 1.14, 1.20, 1.01}},
    {"8B down", 14336, 4096, {2.93, 2.17, 2.07, 1.66, 1.05, 0.82, 0.96}},
    {"70B gate+up", 8192, 57344, {3.78, 3.47, 3.31, 2.29, 1.14, 1.04, 0.90}},
    {"70B down", 28672, 8192, {3.24, 3.12, 3.02, 2.26, 1.10, 1.16, 0.93}},
};
const int kPeerTokens[] = {1, 4, 16, 64, 256, 1024, 4096};

class Timer {
 public:
  Timer() {
    for (auto& e : events_) check(cudaEventCreate(&e), "creating an event");
  }
  cudaStream_t stream() const { return stream_.get(); }

  struct Graph {
    cudaGraphExec_t exec = nullptr;
    int calls = 0;
    Graph() = default;
    Graph(const Graph&) = delete;
    ~Graph() {
      if (exec != nullptr) cudaGraphExecDestroy(exec);
    }
  };
  void capture(Graph& graph, int calls, const std::function<void(int)>& call) const {
    cudaGraph_t raw = nullptr;
    check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "capturing");
    for (int i = 0; i < calls; ++i) call(i);
    check(cudaStreamEndCapture(stream(), &raw), "capturing");
    check(cudaGraphInstantiate(&graph.exec, raw, 0), "instantiating a graph");
    check(cudaGraphDestroy(raw), "freeing a graph");
    graph.calls = calls;
  }
  // Appends times per call in microseconds.
  void replay(const Graph& graph, std::vector<double>& times) const {
    ::usleep(10000);
    double total = -3;  // milliseconds; the first ones warm up
    for (int i = 0; i < 60 && (i < 4 || total < 6); ++i) {
      float ms = 0;
      check(cudaEventRecord(events_[0], stream()), "recording");
      check(cudaGraphLaunch(graph.exec, stream()), "starting a graph");
      check(cudaEventRecord(events_[1], stream()), "recording");
      check(cudaEventSynchronize(events_[1]), "running a graph");
      check(cudaEventElapsedTime(&ms, events_[0], events_[1]), "timing");
      if (i > 0 && total >= 0) times.push_back(ms * 1e3 / graph.calls);
      total += ms;
    }
  }

 private:
  cuda::Stream stream_;
  cudaEvent_t events_[2] = {};
};

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + v.size() / 2, v.end());
  return v[v.size() / 2];
}

// One shape: copies of a random packed weight, and their dense forms for cuBLAS.
struct Weights {
  std::vector<Buffer> codes, scales, dense;
  std::vector<cuda::Linear> packed;

  Weights(const Shape& s, cuda::Format format) {
    const int group = group_of(format);
    cuda::PackedView view;
    view.format = format;
    view.out = s.out, view.in = s.in, view.blocks = s.in / cuda::kBlockCols, view.groups = s.in / group;
    view.group_blocks = group / cuda::kBlockCols, view.out_scale = 0x1p-16f;
    const int64_t code_bytes = view.codes_bytes();
    const int64_t dense_bytes = int64_t{s.out} * s.in * 2;
    for (int64_t i = 0; i * code_bytes < kRotation; ++i) {
      codes.emplace_back(code_bytes), scales.emplace_back(view.scales_bytes());
      fill_bits(codes.back().data(), code_bytes, 2 * i + 1);
      fill_scales(format, scales.back().data(), int64_t{view.panels()} * view.groups, 2 * i + 2);
      view.codes = codes.back().data(), view.scales = scales.back().data();
      packed.emplace_back(view);
      if (i * dense_bytes >= kRotation) continue;
      dense.emplace_back(dense_bytes);
      check(cuda::dequantize_strips(view, 0, view.strips(), cuda::Act::kF16, dense.back().data(), nullptr),
            "dequantizing");
    }
    check(cudaDeviceSynchronize(), "filling weights");
  }
};

struct Row {
  double us = 0, cublas_us = 0, error = 0;
  double ratio() const { return cublas_us / us; }
};

class Cell {
 public:
  Cell(const Shape& shape, Weights& weights, int tokens, cuda::Context& context, Timer& timer)
      : shape_(shape),
        weights_(weights),
        tokens_(tokens),
        context_(context),
        timer_(timer),
        x_(int64_t{tokens} * shape.in * 2),
        y_(int64_t{tokens} * shape.out * 2),
        ref_(int64_t{kSampledTokens} * shape.out * 8),
        sampled_(kSampledTokens * 4),
        sums_(24) {
    fill_normal(x_.data(), int64_t{tokens} * shape.in, 99);
    std::vector<int> rows;
    for (int i = 0; i < std::min(tokens, kSampledTokens); ++i)
      rows.push_back(
          tokens <= kSampledTokens ? i : static_cast<int>(int64_t{i} * (tokens - 1) / (kSampledTokens - 1)));
    samples_ = static_cast<int>(rows.size());
    sampled_.upload(rows.data(), samples_ * 4);
    reference(weights.packed[0].view(), x_.data(), sampled_.as<int>(), samples_, ref_.as<double>());
    check(cudaDeviceSynchronize(), "computing the reference");
    const auto cublas = [this](int i) {
      const auto& dense = weights_.dense;
      context_.cublas().linear(cuda::Act::kF16, dense[i % dense.size()].data(), shape_.out, shape_.in,
                               x_.data(), tokens_, y_.data(), shape_.out, timer_.stream());
    };
    cublas(0);
    check(cudaStreamSynchronize(timer.stream()), "running cuBLAS");
    const double estimate =
        std::max(4.2e-12 * shape.in * shape.out * tokens, 1e-6 * shape.in * shape.out) + 4;
    calls_ = std::max<int>(1, std::min<int>(48, static_cast<int>(1500 / estimate)));
    timer.capture(cublas_, calls_, cublas);
  }

  Row measure(const Choice* choice, cuda::Act act = cuda::Act::kF16) {
    const auto call = [&](int i) {
      const cuda::Linear& w = weights_.packed[i % weights_.packed.size()];
      const cuda::Product product{x_.data(), tokens_, y_.data(), shape_.out, cuda::Output::kAct, {}, {}, 0};
      if (choice != nullptr)
        w.run(context_, *choice, act, product, timer_.stream());
      else
        w.run(context_, act, product, timer_.stream());
    };
    Row row;
    row.error = error(call);
    Timer::Graph graph;
    timer_.capture(graph, std::max<int>(calls_, tokens_ < 256 ? static_cast<int>(weights_.packed.size()) : 1),
                   call);
    std::vector<double> ours, theirs;
    for (int round = 0; round < 2; ++round) timer_.replay(graph, ours), timer_.replay(cublas_, theirs);
    row.us = median(ours), row.cublas_us = median(theirs);
    return row;
  }

 private:
  double error(const std::function<void(int)>& call) {
    check(cudaMemset(y_.data(), 0xff, static_cast<size_t>(y_.bytes())), "poisoning the output");
    check(cudaMemset(sums_.data(), 0, 24), "clearing");
    check(cudaDeviceSynchronize(), "poisoning the output");
    call(0);
    check(cudaStreamSynchronize(timer_.stream()), "running a kernel");
    compare(y_.data(), tokens_, shape_.out, ref_.as<double>(), sampled_.as<int>(), samples_,
            sums_.as<double>());
    double sums[3];
    sums_.download(sums, 24);
    return sums[2] > 0 ? INFINITY : std::sqrt(sums[0] / sums[1]);
  }

  const Shape& shape_;
  Weights& weights_;
  int tokens_, samples_ = 0, calls_ = 0;
  cuda::Context& context_;
  Timer& timer_;
  Buffer x_, y_, ref_, sampled_, sums_;
  Timer::Graph cublas_;
};

std::string name_of(const Choice& c, cuda::Format format) {
  if (c.way == Way::kDense) return "dense";
  if (c.way == Way::kGemm) {
    const auto& g = cuda::gemm_configs(format)[c.config];
    return fmt::format("gemm{} {}x{}+{}", g.tokens, c.plan.workers, c.plan.whole, c.plan.share);
  }
  const auto& g = cuda::gemv_configs(format)[c.config];
  return fmt::format("gemv{} r{} w{} d{}{}", g.tokens, g.strips, g.warps, g.depth, g.split > 1 ? " k2" : "");
}

std::vector<Choice> all_choices(const cuda::DeviceTraits& device, const cuda::PackedView& w, int tokens) {
  std::vector<Choice> choices;
  for (int i = 0; i < cuda::gemv_count(w.format); ++i) {
    const int most = cuda::gemv_configs(w.format)[i].tokens;
    if (tokens <= most && most < 2 * tokens) choices.push_back({Way::kGemv, i, tokens, {}});
  }
  for (int i = 0; i < cuda::kGemmCount && device.hopper; ++i) {
    const cuda::GemmConfig& config = cuda::gemm_configs(w.format)[i];
    const int most = config.tokens;
    if (tokens > 8 && most <= 2 * tokens && tokens <= 4 * most)
      choices.push_back({Way::kGemm, i, tokens, cuda::plan_gemm(device, w, tokens, config)});
  }
  if (tokens > 64) choices.push_back({Way::kDense, 0, tokens, {}});
  return choices;
}

double read_rate(Timer& timer) {
  Buffer big(int64_t{4} << 30), sink(16);
  fill_bits(big.data(), big.bytes(), 1);
  check(cudaDeviceSynchronize(), "filling memory");
  Timer::Graph graph;
  timer.capture(graph, 1, [&](int) { read_all(big.data(), big.bytes(), sink.data(), timer.stream()); });
  std::vector<double> times;
  timer.replay(graph, times);
  return static_cast<double>(big.bytes()) / median(times);  // bytes per microsecond
}

// int8 weights and inputs, the rounding of the inputs counted, beside cuBLAS fp16. tests/device/int8_test.cpp proves the products.
void run_int8(const std::vector<int>& tokens, cuda::Context& context, Timer& timer, double rate) {
  std::printf("\n| int8, shape (in, out) | tokens | us | cuBLAS fp16 us | speed | of read rate | TOP/s |\n|---|---|---|---|---|---|---|\n");
  std::map<int, std::pair<double, int>> means;
  for (const Shape& shape : kShapes) {
    QuantWeight w{{CodeKind::kAffine, 8, -1, ZeroKind::kNone, Activations::kInt8Token}, shape.out, shape.in, {}, {}, {}};
    w.codes.resize(static_cast<size_t>(w.rows * w.cols));
    uint32_t state = 1;
    for (uint8_t& c : w.codes) state = state * 1664525u + 1013904223u, c = static_cast<uint8_t>(1 + (state >> 24) % 255);
    w.scales.assign(static_cast<size_t>(w.rows), 0x1p-12f);
    std::vector<cuda::Int8Linear> copies;
    std::vector<Buffer> dense;
    const int64_t bytes = w.rows * w.cols;
    for (int64_t i = 0; i * bytes < kRotation; ++i) copies.emplace_back(w);
    for (int64_t i = 0; i * 2 * bytes < kRotation; ++i) dense.emplace_back(2 * bytes), fill_normal(dense.back().data(), bytes, i);
    for (const int t : tokens) {
      const Buffer x(int64_t{t} * shape.in * 2), y(int64_t{t} * shape.out * 2);
      fill_normal(x.data(), int64_t{t} * shape.in, 99);
      const auto ours = [&](int i) {
        copies[i % copies.size()].run(context, cuda::Act::kF16, {x.data(), t, y.data(), shape.out, cuda::Output::kAct, {}, {}, 0}, timer.stream());
      };
      const auto theirs = [&](int i) {
        context.cublas().linear(cuda::Act::kF16, dense[i % dense.size()].data(), shape.out, shape.in, x.data(), t, y.data(), shape.out,
                                timer.stream());
      };
      ours(0), theirs(0);
      check(cudaStreamSynchronize(timer.stream()), "running products");
      const int calls = std::clamp(static_cast<int>(1500 / (4.2e-12 * shape.in * shape.out * t + 1e-6 * shape.in * shape.out + 4)), 1, 48);
      Timer::Graph a, b;
      timer.capture(a, std::max<int>(calls, t < 256 ? static_cast<int>(copies.size()) : 1), ours);
      timer.capture(b, calls, theirs);
      std::vector<double> mine, cublas;
      for (int round = 0; round < 2; ++round) timer.replay(a, mine), timer.replay(b, cublas);
      const double us = median(mine), other = median(cublas);
      std::printf("| %s (%d, %d) | %d | %.2f | %.2f | %.2f | %.0f %% | %.0f |\n", shape.name, shape.in, shape.out, t, us, other, other / us,
                  100 * static_cast<double>(bytes) / us / rate, 2e-6 * t * shape.in * shape.out / us);
      std::fflush(stdout);
      means[t].first += std::log(other / us), ++means[t].second;
    }
  }
  std::printf("\n| tokens | int8: geometric mean of speed over cuBLAS fp16 |\n|---|---|\n");
  for (const auto& [t, mean] : means) std::printf("| %d | %.3f |\n", t, std::exp(mean.first / mean.second));
}

int run(const std::vector<int>& tokens, bool all, bool int8, cuda::Format format) {
  if (cuda_devices().empty()) {
    std::printf("%s\n", cuda_absence().c_str());
    return 0;
  }
  cuda::Context context;
  Timer timer;
  if (int8) {
    run_int8(tokens, context, timer, read_rate(timer));
    return 0;
  }
  const double rate = read_rate(timer);
  std::printf("%s, read %.0f GB/s\n\n", cuda_devices()[0].name.c_str(), rate * 1e-3);
  std::printf(
      "| shape (in, out) | tokens | us | cuBLAS us | speed | best peer | of read rate | TFLOP/s | error | "
      "bf16 us | kernel |\n");
  std::printf("|---|---|---|---|---|---|---|---|---|---|---|\n");
  std::map<int, std::pair<double, int>> means;
  bool right = true;
  for (const Shape& shape : kShapes) {
    Weights weights(shape, format);
    const auto& view = weights.packed[0].view();
    for (const int t : tokens) {
      Cell cell(shape, weights, t, context, timer);
      const auto print = [&](const Row& row, const std::string& peer, const std::string& bf16,
                             const std::string& name) {
        std::printf("| %s (%d, %d) | %d | %.2f | %.2f | %.2f | %s | %.0f %% | %.0f | %.1e | %s | %s |\n",
                    shape.name, shape.in, shape.out, t, row.us, row.cublas_us, row.ratio(), peer.c_str(),
                    100 * static_cast<double>(weights.packed[0].bytes()) / row.us / rate,
                    2e-6 * t * shape.in * shape.out / row.us, row.error, bf16.c_str(), name.c_str());
        std::fflush(stdout);
        right = right && row.error < 5e-4;
      };
      const auto* peer = format == cuda::Format::kAffine4 ? std::find(std::begin(kPeerTokens), std::end(kPeerTokens), t) : std::end(kPeerTokens);
      const Row row = cell.measure(nullptr);
      const double bf16 = cell.measure(nullptr, cuda::Act::kBF16).us;
      print(row, peer == std::end(kPeerTokens) ? "" : fmt::format("{:.2f}", shape.peer[peer - kPeerTokens]),
            fmt::format("{:.2f}", bf16), name_of(cuda::pick(context.traits(), view, t), format));
      means[t].first += std::log(row.ratio()), ++means[t].second;
      if (!all) continue;
      for (const Choice& c : all_choices(context.traits(), view, t))
        print(cell.measure(&c), "", "", "- " + name_of(c, format));
    }
  }
  std::printf("\n| tokens | geometric mean of speed over cuBLAS fp16 |\n|---|---|\n");
  for (const auto& [t, mean] : means) std::printf("| %d | %.3f |\n", t, std::exp(mean.first / mean.second));
  std::printf("\n%s\n", right ? "all products right" : "WRONG products");
  return right ? 0 : 1;
}

}  // namespace
}  // namespace awq::bench

int main(int argc, char** argv) {
  std::vector<int> tokens;
  bool all = false, int8 = false;
  awq::cuda::Format format = awq::cuda::Format::kAffine4;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--all") {
      all = true;
      continue;
    }
    if (std::string(argv[i]) == "--int8") {
      int8 = true;
      continue;
    }
    if (std::string(argv[i]) == "--w8" || std::string(argv[i]) == "--nf4") {
      format = argv[i][2] == 'w' ? awq::cuda::Format::kAffine8 : awq::cuda::Format::kNf4;
      continue;
    }
    for (const char* p = argv[i]; *p != '\0'; p += *p == ',') {
      char* end = nullptr;
      const long t = std::strtol(p, &end, 10);
      if (end == p || t < 1 || t > 65536) {
        std::fprintf(stderr, "cuda_linear_bench: '%s': expected numbers of tokens, 1 to 65536\n", argv[i]);
        return 2;
      }
      tokens.push_back(static_cast<int>(t)), p = end;
    }
  }
  if (tokens.empty()) tokens = {1, 4, 16, 64, 256, 1024, 4096};
  try {
    return awq::bench::run(tokens, all, int8, format);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "cuda_linear_bench: %s\n", e.what());
    return 1;
  }
}
