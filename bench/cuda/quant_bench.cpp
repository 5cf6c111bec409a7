// Times the operations of quantization on a GPU at the shapes of one model:
//   cuda_quant_bench [HIDDEN INTERMEDIATE [TOKENS]]     (default 4096 14336 8192: Llama 3 8B)
// Each is run twice; the second time counts. Rates are of the products' own operations, as the CPU counts them.
#include <fmt/core.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <random>

#include "kernels/cuda/quant_backend.h"
#include "kernels/devices.h"

namespace {

using namespace awq;
using cuda::check;
using cuda::CudaQuantBackend;

double seconds(CudaQuantBackend& backend, const std::function<void()>& work) {
  double last = 0;
  for (int i = 0; i < 2; ++i) {
    check(cudaStreamSynchronize(backend.stream()), "waiting");
    const auto start = std::chrono::steady_clock::now();
    work();
    check(cudaStreamSynchronize(backend.stream()), "waiting");
    last = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return last;
}

void row(const char* what, int64_t rows, int64_t cols, double time, double operations) {
  fmt::print("{:<28} {:6} x {:6} {:10.2f} ms {:8.1f} TFLOP/s\n", what, rows, cols, 1e3 * time, operations / time / 1e12);
  std::fflush(stdout);
}

void run(CudaQuantBackend& backend, int64_t rows, int64_t cols, int64_t tokens) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(1 << 20);
  for (float& v : values) v = normal(rng);
  Tensor w(DType::kF32, {rows, cols}), x(DType::kF32, {tokens, cols});
  for (int64_t i = 0; i < w.numel(); ++i) w.f32()[i] = 0.02f * values[static_cast<size_t>(i * 31 + i / 1048573) % values.size()];
  for (int64_t i = 0; i < x.numel(); ++i) x.f32()[i] = values[static_cast<size_t>(i * 17 + i / 1048571) % values.size()];
  const Tensor x16 = x.to(DType::kBF16);
  const auto inputs = backend.memory().take(x16.nbytes());
  backend.upload(inputs.get(), x16.bytes(), x16.nbytes());
  const auto gram = cuda::empty_gram(backend, cols);
  const auto r = static_cast<double>(rows), c = static_cast<double>(cols), t = static_cast<double>(tokens);
  row("Gram matrix", tokens, cols, seconds(backend, [&] { backend.blas().add_gram(cuda::Act::kBF16, inputs.get(), tokens, cols, gram->at()); }),
      2 * t * c * c);
  GramMatrix g{cols, {}, gram};
  const Scheme scheme{CodeKind::kAffine, 4, 128, ZeroKind::kInteger};
  const QuantMatrix m = backend.load(w);
  row("load (F32)", rows, cols, seconds(backend, [&] { backend.load(w); }), 0);
  const QuantMatrix sample = backend.gather({{&m, 0, rows / 64}});
  const std::vector<float> ones(static_cast<size_t>(cols), 1.0f);
  row("rank one scale", 64, cols, seconds(backend, [&] { backend.minmax_loss(sample, scheme, DType::kF16, ones, g.view()); }), 128 * c * c);
  RoundedWeight q;
  row("clip search", rows, cols, seconds(backend, [&] { q = backend.search(m, scheme, DType::kF16, g.view(), RangeEffort::kAwqClip); }),
      2 * r * c * 80 * 10);
  row("range search", rows, cols, seconds(backend, [&] { q = backend.search(m, scheme, DType::kF16, g.view(), RangeEffort::kFull); }),
      2 * r * c * (80 * 42 + 2 * 128));
  row("scale a Gram matrix", cols, cols, seconds(backend, [&] { backend.scaled_gram(g.view(), ones); }), 0);
  row("loss", rows, cols, seconds(backend, [&] { backend.loss(m, q, g.view(), false); }), 2 * r * c * c);
  std::unique_ptr<Compensator> compensator;
  row("factor of the inverse", cols, cols, seconds(backend, [&] { compensator = backend.compensation(g.view(), 0.01); }), 2 * c * c * c / 3);
  row("GPTQ", rows, cols, seconds(backend, [&] { compensator->improve(m, 0, 0, q); }), r * c * c * 5);
  row("GPTQ, descent", rows, cols, seconds(backend, [&] { compensator->improve(m, 2, 0, q); }), r * c * c * 11);
  row("GPTQ, descent, refits", rows, cols, seconds(backend, [&] { compensator->improve(m, 2, 2, q); }), r * c * c * 33);
  row("fetch", rows, cols, seconds(backend, [&] {
        RoundedWeight copy = q;
        backend.fetch(copy);
      }),
      0);
  fmt::print("{:.2f} GiB at most\n", static_cast<double>(backend.peak_bytes()) / (1 << 30));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (cuda_devices().empty()) {
      fmt::print(stderr, "{}\n", cuda_absence());
      return 1;
    }
    const auto number = [&](int i, int64_t otherwise) { return argc > i ? std::strtoll(argv[i], nullptr, 10) : otherwise; };
    const int64_t hidden = number(1, 4096), intermediate = number(2, 14336), tokens = number(3, 8192);
    CudaQuantBackend backend(0);
    run(backend, 2 * intermediate, hidden, tokens);
    run(backend, hidden, intermediate, tokens);
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "cuda_quant_bench: {}\n", e.what());
    return 1;
  }
}
