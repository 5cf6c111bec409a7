#include "model/block_runner.h"

#include <algorithm>
#include <cmath>

#include "kernels/cuda/quant_backend.h"
#include "kernels/cuda/step.h"
#include "model/cuda/device_linear.h"
#include "model/model.h"

namespace awq {
namespace {

using cuda::Act;
using cuda::check;
using Memory = std::shared_ptr<void>;

constexpr int64_t kMostTokens = 8192;  // of a chunk: beyond, products gain nothing
constexpr int64_t kTileRows = 64;      // of attention's prefill
constexpr int64_t kCompareRows = 512;  // logits held at a time

template <class T>
T* as(const Memory& memory) {
  return static_cast<T*>(memory.get());
}

struct RunnerLinear {
  Memory weight, bias;
  int64_t out = 0, in = 0;
};

// Host memory that is copied from and to without staging, as long as this lives.
class Pinned {
 public:
  ~Pinned() {
    for (const auto& [at, bytes] : ranges_) cudaHostUnregister(at);
    cudaGetLastError();
  }
  void pin(float* at, int64_t bytes) {
    if (bytes == 0 || std::any_of(ranges_.begin(), ranges_.end(), [&](const auto& r) { return r.first == at && r.second == bytes; })) return;
    if (cudaHostRegister(at, static_cast<size_t>(bytes), cudaHostRegisterDefault) == cudaSuccess)
      ranges_.emplace_back(at, bytes);
    else
      cudaGetLastError();  // slower, not wrong
  }

 private:
  std::vector<std::pair<float*, int64_t>> ranges_;
};

class Event {
 public:
  Event() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "creating an event"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// A buffer for the states of a chunk, and when it has got them, was worked on, and has given them back.
struct Turn {
  Memory residual;
  Event arrived = {}, finished = {}, left = {};
};

class CudaRunner : public BlockRunner {
 public:
  CudaRunner(std::shared_ptr<const ModelConfig> config, Act act, cuda::CudaQuantBackend& backend)
      : config_(std::move(config)), act_(act), backend_(backend) {
    const ModelConfig& c = *config_;
    check_runs_on_device(c);
    if (c.hidden % 8 != 0 || c.intermediate % 8 != 0)
      fail(Code::kUnsupported, "--device cuda: expected widths in multiples of 8, got {} and {}", c.hidden, c.intermediate);
    const std::vector<double> inv_freq = rope_inv_freq(c.rope);
    pairs_ = static_cast<int>(inv_freq.size());
    inv_freq_ = backend_.uploaded(inv_freq);
  }
  ~CudaRunner() override {
    for (const cudaStream_t s : {incoming_.get(), outgoing_.get(), stream()}) cudaStreamSynchronize(s);
  }

  void use(const BlockSpec& spec, const BlockWeights& block, const std::map<std::string, QuantMatrix>& weights) override {
    const auto norm = [&](const std::string& name) {
      if (name.empty()) return Memory();
      const Tensor gain = block.norms.at(name).to_f32();
      return backend_.uploaded(std::vector<float>(gain.f32(), gain.f32() + gain.numel()));
    };
    input_norm_ = norm(spec.input_norm), post_norm_ = norm(spec.post_norm);
    q_norm_ = norm(spec.q_norm), k_norm_ = norm(spec.k_norm);
    window_ = static_cast<int>(spec.window);
    release();  // first: memory for one block only
    qkv_ = linear(spec, block, weights, Site::kAttentionIn);
    o_ = linear(spec, block, weights, Site::kAttentionOut);
    gate_up_ = linear(spec, block, weights, Site::kMlpIn);
    down_ = linear(spec, block, weights, Site::kMlpDown);
  }

  void release() override { qkv_ = o_ = gate_up_ = down_ = {}; }

  void advance(std::span<const int64_t> lengths, std::span<float> states, SiteSums* sums) override {
    pinned_.pin(states.data(), static_cast<int64_t>(states.size_bytes()));
    std::array<Running, 4> running;
    if (sums) {
      const ModelConfig& c = *config_;
      const int64_t dims[] = {c.hidden, c.heads * c.head_dim, c.hidden, c.intermediate};
      for (size_t i = 0; i < 4; ++i) running[i] = begin_sums(dims[i]);
    }
    make_room(lengths);
    // States of one chunk are copied while another chunk is at work: two buffers by turns, copies in streams of their own.
    Turn turns[2] = {{residuals_[0]}, {residuals_[1]}};
    check(cudaEventRecord(ready_.get(), stream()), "running a block");
    check(cudaStreamWaitEvent(incoming_.get(), ready_.get()), "running a block");
    int64_t start = 0;
    int count = 0;
    for (size_t s = 0; s < lengths.size(); ++count) {
      check_cancelled();
      std::vector<int64_t> chunk;
      int64_t tokens = 0;
      for (; s < lengths.size() && (tokens == 0 || tokens + lengths[s] <= room_); ++s) chunk.push_back(lengths[s]), tokens += lengths[s];
      float* at = states.data() + start * config_->hidden;
      const auto bytes = static_cast<size_t>(tokens * config_->hidden * 4);
      Turn& turn = turns[count % 2];
      check(cudaStreamWaitEvent(incoming_.get(), turn.left.get()), "running a block");
      check(cudaMemcpyAsync(turn.residual.get(), at, bytes, cudaMemcpyHostToDevice, incoming_.get()), "copying states to the device");
      check(cudaEventRecord(turn.arrived.get(), incoming_.get()), "running a block");
      residual_ = turn.residual;
      const cuda::Batch batch = send(chunk, tokens);
      check(cudaStreamWaitEvent(stream(), turn.arrived.get()), "running a block");
      run(batch, sums ? &running : nullptr);
      check(cudaEventRecord(turn.finished.get(), stream()), "running a block");
      check(cudaStreamWaitEvent(outgoing_.get(), turn.finished.get()), "running a block");
      check(cudaMemcpyAsync(at, turn.residual.get(), bytes, cudaMemcpyDeviceToHost, outgoing_.get()), "copying states from the device");
      check(cudaEventRecord(turn.left.get(), outgoing_.get()), "running a block");
      start += tokens;
    }
    if (sums)
      for (size_t i = 0; i < 4; ++i) (*sums)[i] = finished(running[i], start);
    outgoing_.synchronize();
    check(cudaStreamSynchronize(stream()), "running a block");
    leave_room();
  }

  std::vector<DeviceLoss> compare(std::span<const float> source, const DeviceHead& source_head, std::span<const float> result,
                                  const DeviceHead& result_head, std::span<const int32_t> targets) override {
    release();
    const int64_t hidden = config_->hidden, vocab = source_head.matrix->dim(0), rows = static_cast<int64_t>(targets.size());
    struct Side {
      const float* states;
      Memory norm, matrix, logits;
    };
    const auto side = [&](std::span<const float> states, const DeviceHead& head) {
      const Tensor matrix = head.matrix->to(act_ == Act::kF16 ? DType::kF16 : DType::kBF16);
      Side s{states.data(), backend_.uploaded(std::vector<float>(head.norm, head.norm + hidden)), take(matrix.nbytes()),
             take(kCompareRows * vocab * 4)};
      backend_.upload(s.matrix.get(), matrix.bytes(), matrix.nbytes());
      return s;
    };
    const Side sides[] = {side(source, source_head), side(result, result_head)};
    const Memory ids = backend_.uploaded(std::vector<int32_t>(targets.begin(), targets.end())), states = take(kCompareRows * hidden * 4),
                 normed = take(kCompareRows * hidden * 2), losses = take(rows * static_cast<int64_t>(sizeof(cuda::RowLoss)));
    for (int64_t first = 0; first < rows; first += kCompareRows) {
      check_cancelled();
      const int64_t n = std::min(kCompareRows, rows - first);
      for (const Side& s : sides) {
        backend_.upload(states.get(), s.states + first * hidden, n * hidden * 4);
        cuda::NormArgs args;
        args.residual = as<float>(states), args.gain = as<float>(s.norm), args.y = normed.get();
        args.tokens = static_cast<int>(n), args.dim = static_cast<int>(hidden), args.eps = config_->rms_eps;
        check(cuda::launch_add_norm(act_, args, stream()), "a norm");
        backend_.linears().linear_f32(act_, s.matrix.get(), vocab, hidden, normed.get(), n, as<float>(s.logits), vocab, stream());
      }
      check(cuda::launch_compare(as<float>(sides[0].logits), as<float>(sides[1].logits), n, vocab, as<int>(ids) + first,
                                 as<cuda::RowLoss>(losses) + first, stream()),
            "comparing");
    }
    std::vector<cuda::RowLoss> raw(static_cast<size_t>(rows));
    backend_.download(raw.data(), losses.get(), static_cast<int64_t>(raw.size() * sizeof(cuda::RowLoss)));
    std::vector<DeviceLoss> out;
    for (const cuda::RowLoss& l : raw) out.push_back({l.kl, l.logprob_source, l.logprob, l.same_top});
    return out;
  }

 private:
  // Sums of one site while they are on the device.
  struct Running {
    std::shared_ptr<cuda::DeviceGram> gram;
    Memory abs_sum, largest, partial;
  };

  cudaStream_t stream() const { return backend_.stream(); }
  Memory take(int64_t bytes) const { return backend_.memory().take(bytes); }

  RunnerLinear linear(const BlockSpec& spec, const BlockWeights& block, const std::map<std::string, QuantMatrix>& weights, Site site) {
    RunnerLinear l;
    bool biased = false;
    for (const LinearSpec& part : spec.linears)
      if (part.reads == site) l.out += part.out, l.in = part.in, biased |= block.biases.contains(part.module);
    if (l.in % 8 != 0 || l.out % 8 != 0)
      fail(Code::kUnsupported, "--device cuda: '{}': expected inputs and outputs in multiples of 8, got {} and {}", spec.prefix, l.in, l.out);
    l.weight = take(l.out * l.in * 2);
    std::vector<float> bias;
    int64_t row = 0;
    for (const LinearSpec& part : spec.linears) {
      if (part.reads != site) continue;
      check(cuda::launch_round(act_, cuda::floats(weights.at(part.module)), part.out * part.in, as<uint16_t>(l.weight) + row * l.in, stream()),
            "rounding weights");
      row += part.out;
      if (!biased) continue;
      bias.resize(static_cast<size_t>(row));
      const auto it = block.biases.find(part.module);
      if (it == block.biases.end()) continue;
      const Tensor values = it->second.to_f32();
      std::copy_n(values.f32(), part.out, bias.end() - part.out);
    }
    if (biased) l.bias = backend_.uploaded(bias);
    return l;
  }

  Running begin_sums(int64_t dim) const {
    Running r{empty_gram(backend_, dim), take(dim * 8), take(dim * 4), take(2 * cuda::kMagnitudeChunks * dim * 8)};
    check(cudaMemsetAsync(r.abs_sum.get(), 0, static_cast<size_t>(dim * 8), stream()), "clearing sums");
    check(cudaMemsetAsync(r.largest.get(), 0, static_cast<size_t>(dim * 4), stream()), "clearing sums");
    return r;
  }

  InputSums finished(Running& r, int64_t tokens) const {
    const int64_t dim = r.gram->dim;
    InputSums out{dim, tokens, {dim, {}, r.gram}, std::vector<double>(static_cast<size_t>(dim)), std::vector<float>(static_cast<size_t>(dim))};
    backend_.download(out.abs_sum.data(), r.abs_sum.get(), dim * 8);
    backend_.download(out.channel_max.data(), r.largest.get(), dim * 4);
    return out;
  }

  // Buffers for chunks of some sequences: as many tokens as a quarter of the memory left holds, at least the longest sequence.
  void make_room(std::span<const int64_t> lengths) {
    const ModelConfig& c = *config_;
    const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim, width = q + 2 * kv;
    const int64_t each = c.hidden * (8 + 2 + 2) + width * 2 + q * 2 + 3 * c.intermediate * 2 + 2 * kv * 2 + 64;
    int64_t longest = 0, total = 0;
    for (const int64_t n : lengths) longest = std::max(longest, n), total += n;
    room_ = std::max(longest, std::min({total, kMostTokens, backend_.memory().left() / 4 / each}));
    for (Memory& m : residuals_) m = take(room_ * c.hidden * 4);
    normed_ = take(room_ * c.hidden * 2), delta_ = take(room_ * c.hidden * 2);
    qkv_out_ = take(room_ * width * 2), mixed_ = take(room_ * q * 2);
    gate_up_out_ = take(room_ * 2 * c.intermediate * 2), mlp_ = take(room_ * c.intermediate * 2);
    cache_ = take((room_ + cuda::kCachePage * (static_cast<int64_t>(lengths.size()) + 1)) * 2 * kv * 2);
    // Values that no key reaches are multiplied by 0: they must be numbers.
    check(cudaMemsetAsync(cache_.get(), 0, static_cast<size_t>((room_ + cuda::kCachePage * (static_cast<int64_t>(lengths.size()) + 1)) * 2 * kv * 2),
                          stream()),
          "clearing the cache");
  }
  void leave_room() { residuals_[0] = residuals_[1] = residual_ = normed_ = delta_ = qkv_out_ = mixed_ = gate_up_out_ = mlp_ = cache_ = sent_ = {}; }

  // Positions, spans, tiles and pages of sequences that begin here.
  cuda::Batch send(const std::vector<int64_t>& lengths, int64_t tokens) {
    const int64_t group = config_->heads / config_->kv_heads, spans = static_cast<int64_t>(lengths.size());
    std::vector<int32_t> positions, span_of, pages;
    std::vector<cuda::DeviceSpan> all;
    std::vector<int2> tiles;
    for (int64_t i = 0; i < spans; ++i) {
      const int64_t n = lengths[static_cast<size_t>(i)];
      all.push_back({static_cast<int>(positions.size()), static_cast<int>(n), 0, static_cast<int>(pages.size())});
      for (int64_t p = 0; p < n; ++p) positions.push_back(static_cast<int32_t>(p)), span_of.push_back(static_cast<int32_t>(i));
      for (int64_t t = 0; t < (n * group + kTileRows - 1) / kTileRows; ++t) tiles.push_back({static_cast<int>(i), static_cast<int>(t)});
      for (int64_t p = 0; p < (n + cuda::kCachePage - 1) / cuda::kCachePage; ++p) pages.push_back(static_cast<int32_t>(pages.size()));
    }
    const int64_t each = (tokens + 3) / 4 * 4;
    std::vector<int32_t> words(static_cast<size_t>(2 * each + 4 * spans + 2 * static_cast<int64_t>(tiles.size())));
    std::copy(positions.begin(), positions.end(), words.begin());
    std::copy(span_of.begin(), span_of.end(), words.begin() + each);
    std::copy_n(reinterpret_cast<const int32_t*>(all.data()), 4 * spans, words.begin() + 2 * each);
    std::copy_n(reinterpret_cast<const int32_t*>(tiles.data()), 2 * tiles.size(), words.begin() + 2 * each + 4 * spans);
    const auto pages_at = static_cast<int64_t>(words.size());
    words.insert(words.end(), pages.begin(), pages.end());
    sent_ = backend_.uploaded(words);
    const int32_t* at = as<int32_t>(sent_);
    tiles_ = reinterpret_cast<const int2*>(at + 2 * each + 4 * spans);
    tile_count_ = static_cast<int>(tiles.size());
    return {nullptr, at, at + each, reinterpret_cast<const cuda::DeviceSpan*>(at + 2 * each), at + pages_at, static_cast<int>(tokens),
            static_cast<int>(spans)};
  }

  void observe(std::array<Running, 4>* running, Site site, const Memory& x, int64_t tokens) const {
    if (running == nullptr) return;
    Running& r = (*running)[static_cast<size_t>(site)];
    backend_.blas().add_gram(act_, x.get(), tokens, r.gram->dim, r.gram->at());
    check(cuda::launch_input_magnitudes(act_, x.get(), tokens, r.gram->dim, as<double>(r.partial), as<double>(r.abs_sum), as<float>(r.largest),
                                        stream()),
          "summing magnitudes");
  }

  void norm(const Memory& gain, const void* delta, const Memory& bias, int tokens) const {
    const cuda::NormArgs args{as<float>(residual_), delta,  as<float>(bias), as<float>(gain), normed_.get(), nullptr,
                              tokens,               static_cast<int>(config_->hidden), config_->rms_eps};
    check(cuda::launch_add_norm(act_, args, stream()), "a norm");
  }

  void multiply(const RunnerLinear& l, const Memory& x, int64_t tokens, const Memory& y) const {
    backend_.linears().linear(act_, l.weight.get(), l.out, l.in, x.get(), tokens, y.get(), l.out, stream());
  }

  void run(const cuda::Batch& batch, std::array<Running, 4>* running) const {
    const ModelConfig& c = *config_;
    const int tokens = batch.tokens;
    norm(input_norm_, nullptr, {}, tokens);
    observe(running, Site::kAttentionIn, normed_, tokens);
    multiply(qkv_, normed_, tokens, qkv_out_);
    const cuda::CacheView view{cache_.get(), static_cast<int>(c.kv_heads), static_cast<int>(c.head_dim)};
    cuda::RopeArgs rope;
    rope.batch = batch, rope.qkv = qkv_out_.get(), rope.bias = as<float>(qkv_.bias);
    rope.q_gain = as<float>(q_norm_), rope.k_gain = as<float>(k_norm_);
    rope.inv_freq = as<double>(inv_freq_), rope.pairs = pairs_, rope.heads = static_cast<int>(c.heads);
    rope.magnitude = static_cast<float>(c.rope.magnitude), rope.eps = c.rms_eps, rope.cache = view;
    check(cuda::launch_rope_cache(act_, rope, stream()), "rotating");
    cuda::AttentionArgs attention;
    attention.batch = batch, attention.cache = view, attention.q = qkv_out_.get(), attention.y = mixed_.get();
    attention.ldq = qkv_.out, attention.heads = static_cast<int>(c.heads), attention.window = window_;
    attention.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
    attention.tiles = tiles_, attention.tile_count = tile_count_;
    check(cuda::launch_attention_prefill(act_, attention, stream()), "attention");
    observe(running, Site::kAttentionOut, mixed_, tokens);
    multiply(o_, mixed_, tokens, delta_);
    norm(post_norm_, delta_.get(), o_.bias, tokens);
    observe(running, Site::kMlpIn, normed_, tokens);
    multiply(gate_up_, normed_, tokens, gate_up_out_);
    check(cuda::launch_silu_mul(act_, gate_up_out_.get(), as<float>(gate_up_.bias), false, tokens, static_cast<int>(c.intermediate), mlp_.get(), stream()),
          "SwiGLU");
    observe(running, Site::kMlpDown, mlp_, tokens);
    multiply(down_, mlp_, tokens, delta_);
    norm(post_norm_, delta_.get(), down_.bias, tokens);  // for the sum; what it normalises nobody reads
  }

  std::shared_ptr<const ModelConfig> config_;
  Act act_;
  cuda::CudaQuantBackend& backend_;
  Pinned pinned_;
  cuda::Stream incoming_, outgoing_;
  Event ready_;
  int pairs_ = 0, window_ = 0, tile_count_ = 0;
  const int2* tiles_ = nullptr;
  int64_t room_ = 0;
  Memory inv_freq_, input_norm_, post_norm_, q_norm_, k_norm_, sent_;
  RunnerLinear qkv_, o_, gate_up_, down_;
  Memory residuals_[2], residual_, normed_, delta_, qkv_out_, mixed_, gate_up_out_, mlp_, cache_;
};

}  // namespace

std::unique_ptr<BlockRunner> make_cuda_block_runner(std::shared_ptr<const ModelConfig> config, DType activations, QuantBackend& backend) {
  auto* cuda_backend = dynamic_cast<cuda::CudaQuantBackend*>(&backend);
  check_internal(cuda_backend != nullptr, "a block runner on another device than its backend");
  return std::make_unique<CudaRunner>(std::move(config), activations == DType::kF16 ? Act::kF16 : Act::kBF16, *cuda_backend);
}

}  // namespace awq
