#include "model/device_model.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <optional>

#include "kernels/cuda/linear.h"
#include "kernels/cuda/step.h"
#include "kernels/devices.h"
#include "model/model.h"

namespace awq {
namespace {

using cuda::Act;
using cuda::Buffer;
using cuda::check;

DType act_dtype(Act act) { return act == Act::kF16 ? DType::kF16 : DType::kBF16; }

void put(const Buffer& to, int64_t offset, const void* from, int64_t bytes) {
  check_internal(offset + bytes <= to.bytes(), "upload beyond a device buffer");
  check(cudaMemcpy(to.as<std::byte>() + offset, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice), "copying to the device");
}

Buffer uploaded(const Tensor& t) {
  Buffer b(t.nbytes());
  put(b, 0, t.bytes(), t.nbytes());
  return b;
}

Buffer uploaded_f32(const Tensor& t) { return t.empty() ? Buffer() : uploaded(t.to_f32()); }

// What cuda::Linear takes; other schemes are multiplied dense.
bool packs(const QuantWeight& w) {
  const int64_t group = w.scheme.group_size(w.cols);
  return w.scheme.code == CodeKind::kAffine && w.scheme.bits == 4 && w.scheme.zero != ZeroKind::kReal &&
         w.scheme.activations == Activations::kFloat && (group == 32 || group % 64 == 0);
}

// Parts stored alike, outputs one below the other.
QuantWeight stacked(const std::vector<const QuantWeight*>& parts) {
  QuantWeight all = *parts[0];
  for (size_t i = 1; i < parts.size(); ++i) {
    const QuantWeight& p = *parts[i];
    all.rows += p.rows;
    all.codes.insert(all.codes.end(), p.codes.begin(), p.codes.end());
    all.scales.insert(all.scales.end(), p.scales.begin(), p.scales.end());
    all.zeros.insert(all.zeros.end(), p.zeros.begin(), p.zeros.end());
  }
  return all;
}

bool stored_alike(const std::vector<const WeightSource*>& parts) {
  const auto* first = std::get_if<QuantWeight>(parts[0]);
  for (const WeightSource* source : parts) {
    const auto* q = std::get_if<QuantWeight>(source);
    if (first == nullptr || q == nullptr || !packs(*q) || !(q->scheme == first->scheme) || q->scale_dtype != first->scale_dtype)
      return false;
  }
  return true;
}

// Linears with one input as one product: packed 4 bits, or dense in the activations' type.
struct DeviceLinear {
  std::optional<cuda::Linear> packed;
  Buffer dense, bias;
  int64_t out = 0, in = 0;

  void run(cuda::Context& context, Act act, const void* x, int64_t tokens, void* y, cudaStream_t stream) const {
    if (packed)
      packed->run(context, act, x, tokens, y, out, stream);
    else
      context.cublas().linear(act, dense.data(), out, in, x, tokens, y, out, stream);
  }
  int64_t bytes() const { return packed ? packed->bytes() : dense.bytes(); }
};

DeviceLinear make_linear(const BlockSpec& spec, const BlockWeights& weights, Site site, Act act) {
  std::vector<const WeightSource*> parts;
  DeviceLinear linear;
  bool biased = false;
  for (const LinearSpec& l : spec.linears) {
    if (l.reads != site) continue;
    parts.push_back(&weights.weights.at(l.module));
    biased |= weights.biases.contains(l.module);
    linear.out += l.out;
    linear.in = l.in;
  }
  if (linear.in % 8 != 0 || linear.out % 8 != 0)
    fail(Code::kUnsupported, "--device cuda: '{}': expected inputs and outputs in multiples of 8, got {} and {}", spec.prefix,
         linear.in, linear.out);
  if (stored_alike(parts)) {
    std::vector<const QuantWeight*> quantized;
    for (const WeightSource* p : parts) quantized.push_back(&std::get<QuantWeight>(*p));
    linear.packed.emplace(quantized.size() == 1 ? *quantized[0] : stacked(quantized));
  } else {
    linear.dense = Buffer(linear.out * linear.in * 2);
    int64_t offset = 0;
    for (const LinearSpec& l : spec.linears) {
      if (l.reads != site) continue;
      const auto* stored = std::get_if<Tensor>(&weights.weights.at(l.module));
      const Tensor t = stored != nullptr && stored->dtype() == act_dtype(act) ? *stored : weights.dense(l.module).to(act_dtype(act));
      put(linear.dense, offset, t.bytes(), t.nbytes());
      offset += t.nbytes();
    }
  }
  if (biased) {
    std::vector<float> all;
    for (const LinearSpec& l : spec.linears) {
      if (l.reads != site) continue;
      const auto it = weights.biases.find(l.module);
      if (it == weights.biases.end())
        all.resize(all.size() + static_cast<size_t>(l.out));
      else
        all.insert(all.end(), it->second.f32(), it->second.f32() + l.out);
    }
    linear.bias = Buffer(static_cast<int64_t>(all.size() * sizeof(float)));
    put(linear.bias, 0, all.data(), linear.bias.bytes());
  }
  return linear;
}

struct DeviceBlock {
  Buffer input_norm, post_norm, q_norm, k_norm;
  DeviceLinear qkv, o, gate_up, down;
  int window = 0;
  int64_t bytes() const { return qkv.bytes() + o.bytes() + gate_up.bytes() + down.bytes(); }
};

struct DeviceCache {
  Buffer storage;
  int64_t pages = 0;
};

// Memory that the device copies from and to without staging.
class Pinned {
 public:
  Pinned() = default;
  ~Pinned() { cudaFreeHost(data_); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  template <class T>
  T* grown(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    if (bytes > bytes_) {
      cudaFreeHost(data_);
      data_ = nullptr, bytes_ = 0;
      check(cudaMallocHost(&data_, static_cast<size_t>(bytes)), "allocating pinned memory");
      bytes_ = bytes;
    }
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

struct Graph {
  cudaGraphExec_t exec = nullptr;
  int runs = 0;  // before it was captured
};

class CudaModel : public DeviceModel {
 public:
  CudaModel(std::shared_ptr<const ModelConfig> config, const Tensor& embedding)
      : config_(std::move(config)), act_(embedding.dtype() == DType::kBF16 ? Act::kBF16 : Act::kF16) {
    const ModelConfig& c = *config_;
    if (!cuda::attention_takes(static_cast<int>(c.head_dim), static_cast<int>(c.heads), static_cast<int>(c.kv_heads)))
      fail(Code::kUnsupported,
           "--device cuda: {} heads of {} elements for {} key/value heads: expected heads of 64, 96 or 128 elements and at most "
           "16 of them for one key/value head",
           c.heads, c.head_dim, c.kv_heads);
    if (c.rope.depends_on_length())
      fail(Code::kUnsupported, "--device cuda: rope type '{}' is not supported there yet", rope_type_name(c.rope.type));
    context_.cublas();
    embedding_ = uploaded(embedding.to(act_dtype(act_)));
    const std::vector<double> inv_freq = rope_inv_freq(c.rope);
    pairs_ = static_cast<int>(inv_freq.size());
    inv_freq_ = Buffer(static_cast<int64_t>(inv_freq.size() * sizeof(double)));
    put(inv_freq_, 0, inv_freq.data(), inv_freq_.bytes());
  }
  ~CudaModel() override { drop_graphs(); }

  void add_block(const BlockSpec& spec, const BlockWeights& weights) override {
    const auto norm = [&](const std::string& name) {
      return name.empty() ? Buffer() : uploaded_f32(weights.norms.at(name));
    };
    DeviceBlock b;
    b.input_norm = norm(spec.input_norm), b.post_norm = norm(spec.post_norm);
    b.q_norm = norm(spec.q_norm), b.k_norm = norm(spec.k_norm);
    b.window = static_cast<int>(spec.window);
    b.qkv = make_linear(spec, weights, Site::kAttentionIn, act_);
    b.o = make_linear(spec, weights, Site::kAttentionOut, act_);
    b.gate_up = make_linear(spec, weights, Site::kMlpIn, act_);
    b.down = make_linear(spec, weights, Site::kMlpDown, act_);
    blocks_.push_back(std::move(b));
  }

  void finish(const Tensor& final_norm, const Tensor& head, int head_bits) override {
    final_norm_ = uploaded_f32(final_norm);
    head_bits_ = head_bits;
    const int64_t in = config_->hidden;
    if (head_bits == 0) {
      if (!config_->tied) head_dense_ = uploaded(head.to(act_dtype(act_)));
    } else {
      const QuantWeight w = round_table(head, head_bits);
      if (head_bits == 4 && packs(w)) {
        head4_.emplace(w);
      } else {
        head_bits_ = 8;
        head_group_ = static_cast<int>(w.scheme.group_size(in));
        if (head_bits != 8 || head_group_ % 16 != 0)
          fail(Code::kUnsupported, "--device cuda: an output layer of {} bits in groups of {} columns is not supported", head_bits,
               head_group_);
        head_codes_ = Buffer(static_cast<int64_t>(w.codes.size()));
        put(head_codes_, 0, w.codes.data(), head_codes_.bytes());
        std::vector<float> zeros;
        for (const uint8_t z : w.zeros) zeros.push_back(z);
        head_scales_ = Buffer(static_cast<int64_t>(w.scales.size() * 4));
        head_zeros_ = Buffer(head_scales_.bytes());
        put(head_scales_, 0, w.scales.data(), head_scales_.bytes());
        put(head_zeros_, 0, zeros.data(), head_zeros_.bytes());
      }
    }
    check(cudaDeviceSynchronize(), "copying to the device");
  }

  std::shared_ptr<void> make_cache(int64_t pages) const override {
    auto cache = std::make_shared<DeviceCache>();
    cache->pages = pages;
    cache->storage = Buffer(pages * page_bytes());
    // Values that no key reaches are multiplied by 0: they must be numbers.
    check(cudaMemset(cache->storage.data(), 0, static_cast<size_t>(cache->storage.bytes())), "clearing the cache");
    check(cudaDeviceSynchronize(), "clearing the cache");
    return cache;
  }
  int64_t page_bytes() const override { return KvCache::page_bytes(*config_, DType::kF16); }

  void forward(const BatchView& batch, void* cache, float* hidden) const override {
    const std::lock_guard lock(mutex_);
    const int64_t tokens = static_cast<int64_t>(batch.tokens.size()), n = tokens * config_->hidden;
    if (tokens == 0) return;
    run(batch, static_cast<DeviceCache*>(cache), false);
    download(normed32_.data(), n, hidden);
  }

  void greedy(const BatchView& batch, void* cache, int32_t* ids) const override {
    const std::lock_guard lock(mutex_);
    const auto tokens = static_cast<int64_t>(batch.tokens.size());
    check_internal(batch.spans.size() == batch.tokens.size(), "greedy steps take one token of each sequence");
    if (tokens == 0) return;
    run(batch, static_cast<DeviceCache*>(cache), true);
    download(next_.data(), tokens, ids);
  }

  void logits(const float* hidden, int64_t rows, float* out) const override {
    const std::lock_guard lock(mutex_);
    constexpr int64_t kRows = 256;
    for (int64_t first = 0; first < rows; first += kRows) {
      const int64_t n = std::min(kRows, rows - first), in = config_->hidden, vocab = config_->vocab;
      grow_logits(n);
      const int64_t words = n * in;
      float* staged = staging_.grown<float>(words);
      std::memcpy(staged, hidden + first * in, static_cast<size_t>(words) * 4);
      if (head_in32_.bytes() < words * 4) head_in32_ = Buffer(kRows * in * 4), head_in_ = Buffer(kRows * in * 2);
      check(cudaMemcpyAsync(head_in32_.data(), staged, static_cast<size_t>(words) * 4, cudaMemcpyHostToDevice, stream_.get()),
            "copying to the device");
      check(cuda::launch_round(act_, head_in32_.as<float>(), words, head_in_.data(), stream_.get()), "rounding states");
      run_head(head_in_.data(), n);
      download(logits_.data(), n * vocab, out + first * vocab);
    }
  }

  int64_t bytes() const override { return decode_bytes() + (shares_table() ? 0 : embedding_.bytes()); }
  int64_t decode_bytes() const override {
    int64_t total = head_bytes();
    for (const DeviceBlock& b : blocks_) total += b.bytes();
    return total;
  }
  std::map<std::string, int64_t> kernels() const override {
    const std::string dense = act_ == Act::kF16 ? "cuda-f16" : "cuda-bf16";
    std::map<std::string, int64_t> all;
    all[head_bits_ == 0 ? dense : head4_ ? "cuda-w4" : "cuda-w8"] += head_bytes();
    for (const DeviceBlock& b : blocks_)
      for (const DeviceLinear* l : {&b.qkv, &b.o, &b.gate_up, &b.down}) all[l->packed ? "cuda-w4" : dense] += l->bytes();
    return all;
  }

 private:
  bool shares_table() const { return head_bits_ == 0 && config_->tied; }
  int64_t head_bytes() const {
    if (shares_table()) return embedding_.bytes();
    return head4_ ? head4_->bytes() : head_dense_.bytes() + head_codes_.bytes() + head_scales_.bytes() + head_zeros_.bytes();
  }

  template <class T>
  void download(const void* from, int64_t count, T* to) const {
    T* staged = staging_.grown<T>(count);
    check(cudaMemcpyAsync(staged, from, static_cast<size_t>(count) * sizeof(T), cudaMemcpyDeviceToHost, stream_.get()),
          "copying from the device");
    stream_.synchronize();
    std::memcpy(to, staged, static_cast<size_t>(count) * sizeof(T));
  }

  // Room for steps of so many tokens. What graphs hold addresses of is replaced: they go.
  void grow(int64_t tokens) const {
    if (tokens <= room_) return;
    const ModelConfig& c = *config_;
    tokens = std::max<int64_t>(tokens, 64);
    drop_graphs();
    stream_.synchronize();
    const int64_t q = c.heads * c.head_dim, width = q + 2 * c.kv_heads * c.head_dim;
    room_ = 0;
    residual_ = Buffer(tokens * c.hidden * 4), normed32_ = Buffer(tokens * c.hidden * 4);
    normed_ = Buffer(tokens * c.hidden * 2), delta_ = Buffer(tokens * c.hidden * 2);
    qkv_ = Buffer(tokens * width * 2), mixed_ = Buffer(tokens * q * 2);
    gate_up_ = Buffer(tokens * 2 * c.intermediate * 2), mlp_ = Buffer(tokens * c.intermediate * 2);
    partials_ = Buffer(int64_t{2} * context_.traits().multiprocessors * (c.heads / c.kv_heads) * (c.head_dim + 2) * 4);
    next_ = Buffer(tokens * 4);
    room_ = tokens;
  }

  void grow_logits(int64_t rows) const {
    const int64_t bytes = rows * config_->vocab * 4;
    if (logits_.bytes() >= bytes) return;
    drop_graphs();
    stream_.synchronize();
    logits_ = Buffer(bytes);
    if (head4_) head_out_ = Buffer(bytes / 2);
  }

  void drop_graphs() const {
    for (auto& [key, graph] : graphs_)
      if (graph.exec != nullptr) cudaGraphExecDestroy(graph.exec);
    graphs_.clear();
  }

  // Ids, positions, spans, tiles of the prefill and pages in one copy. Offsets depend on the number of tokens alone where every
  // span has one token, as graphs want it.
  cuda::Batch send(const BatchView& batch, DeviceCache*& cache, bool decoding) const {
    const auto tokens = static_cast<int64_t>(batch.tokens.size()), spans = static_cast<int64_t>(batch.spans.size());
    const int group = static_cast<int>(config_->heads / config_->kv_heads);
    int64_t pages = 0, tiles = 0;
    for (const SpanView& s : batch.spans) {
      pages += (s.past + s.tokens + cuda::kCachePage - 1) / cuda::kCachePage;
      if (!decoding) tiles += (s.tokens * group + kTileRows - 1) / kTileRows;
    }
    const bool own_pages = cache == nullptr;  // then those of the spans stand for nothing
    if (own_pages) {
      if (!own_cache_ || own_cache_->pages < pages) {
        stream_.synchronize();
        drop_graphs();
        own_cache_ = std::static_pointer_cast<DeviceCache>(make_cache(pages));
      }
      cache = own_cache_.get();
    }
    const int64_t each = (tokens + 3) / 4 * 4, pages_at = 7 * each + 2 * tiles, words = pages_at + pages;
    int32_t* to = sent_host_.grown<int32_t>(words);
    if (sent_.bytes() < words * 4) {
      stream_.synchronize();
      drop_graphs();
      sent_ = Buffer(words * 8);
    }
    auto* to_spans = reinterpret_cast<cuda::DeviceSpan*>(to + 3 * each);
    int32_t *tile = to + 7 * each, *page = to + pages_at;
    for (int64_t i = 0; i < tokens; ++i) {
      const int32_t id = batch.tokens[static_cast<size_t>(i)];
      if (id < 0 || id >= config_->vocab) fail(Code::kBadArgument, "token id {}: expected 0 to {}", id, config_->vocab - 1);
      to[i] = id, to[each + i] = batch.positions[static_cast<size_t>(i)];
    }
    int32_t own = 0;
    for (int64_t i = 0; i < spans; ++i) {
      const SpanView& s = batch.spans[static_cast<size_t>(i)];
      to_spans[i] = {static_cast<int>(s.first), static_cast<int>(s.tokens), static_cast<int>(s.past),
                     static_cast<int>(page - to - pages_at)};
      std::fill_n(to + 2 * each + s.first, s.tokens, static_cast<int32_t>(i));
      if (!decoding)
        for (int64_t t = 0; t < (s.tokens * group + kTileRows - 1) / kTileRows; ++t)
          *tile++ = static_cast<int32_t>(i), *tile++ = static_cast<int32_t>(t);
      for (int64_t p = 0; p < (s.past + s.tokens + cuda::kCachePage - 1) / cuda::kCachePage; ++p)
        *page++ = own_pages ? own++ : s.pages[p];
    }
    check(cudaMemcpyAsync(sent_.data(), to, static_cast<size_t>(words) * 4, cudaMemcpyHostToDevice, stream_.get()),
          "copying a step to the device");
    const int32_t* at = sent_.as<int32_t>();
    tiles_ = reinterpret_cast<const int2*>(at + 7 * each);
    tile_count_ = static_cast<int>(tiles);
    return {at, at + each, at + 2 * each, reinterpret_cast<const cuda::DeviceSpan*>(at + 3 * each), at + pages_at,
            static_cast<int>(tokens), static_cast<int>(spans)};
  }

  void run(const BatchView& batch, DeviceCache* cache, bool greedy) const {
    const bool decoding = batch.spans.size() == batch.tokens.size();
    const auto tokens = static_cast<int64_t>(batch.tokens.size());
    grow(tokens);
    if (greedy) grow_logits(tokens);
    const cuda::Batch sent = send(batch, cache, decoding);
    if (!decoding) return launch_step(sent, *cache, decoding, greedy);
    if (graphs_.size() > kMostGraphs) drop_graphs();
    Graph& graph = graphs_[{cache->storage.data(), tokens * 2 + (greedy ? 1 : 0)}];
    // The first step of a kind runs as it is: what libraries set up at first must not be captured.
    if (graph.exec == nullptr && graph.runs++ == 0) return launch_step(sent, *cache, decoding, greedy);
    if (graph.exec == nullptr) graph.exec = capture(sent, *cache, greedy);
    check(cudaGraphLaunch(graph.exec, stream_.get()), "starting a step");
  }

  cudaGraphExec_t capture(const cuda::Batch& sent, const DeviceCache& cache, bool greedy) const {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "capturing a step");
    try {
      launch_step(sent, cache, true, greedy);
    } catch (...) {
      cudaStreamEndCapture(stream_.get(), &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      throw;
    }
    check(cudaStreamEndCapture(stream_.get(), &graph), "capturing a step");
    const cudaError_t error = cudaGraphInstantiate(&exec, graph, 0);
    cudaGraphDestroy(graph);
    check(error, "preparing a captured step");
    return exec;
  }

  void launch_step(const cuda::Batch& batch, const DeviceCache& cache, bool decoding, bool greedy) const {
    const ModelConfig& c = *config_;
    const cudaStream_t stream = stream_.get();
    const int tokens = batch.tokens;
    check(cuda::launch_embed(act_, batch, embedding_.data(), static_cast<int>(c.hidden), residual_.as<float>(), stream), "embedding");
    const void* delta = nullptr;
    const float* bias = nullptr;
    const auto norm = [&](const Buffer& gain, float* y32) {
      const cuda::NormArgs args{residual_.as<float>(), delta, bias, gain.as<float>(), normed_.data(), y32,
                                tokens, static_cast<int>(c.hidden), c.rms_eps};
      check(cuda::launch_add_norm(act_, args, stream), "a norm");
    };
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const DeviceBlock& b = blocks_[i];
      norm(b.input_norm, nullptr);
      b.qkv.run(context_, act_, normed_.data(), tokens, qkv_.data(), stream);
      const int64_t layer_bytes = page_bytes() / c.layers * cache.pages;
      const cuda::CacheView view{cache.storage.as<std::byte>() + static_cast<int64_t>(i) * layer_bytes,
                                 static_cast<int>(c.kv_heads), static_cast<int>(c.head_dim)};
      cuda::RopeArgs rope;
      rope.batch = batch, rope.qkv = qkv_.data(), rope.bias = b.qkv.bias.as<float>();
      rope.q_gain = b.q_norm.as<float>(), rope.k_gain = b.k_norm.as<float>();
      rope.inv_freq = inv_freq_.as<double>(), rope.pairs = pairs_, rope.heads = static_cast<int>(c.heads);
      rope.magnitude = static_cast<float>(c.rope.magnitude), rope.eps = c.rms_eps, rope.cache = view;
      check(cuda::launch_rope_cache(act_, rope, stream), "rotating");
      cuda::AttentionArgs attention;
      attention.batch = batch, attention.cache = view, attention.q = qkv_.data(), attention.y = mixed_.data();
      attention.ldq = b.qkv.out, attention.heads = static_cast<int>(c.heads), attention.window = b.window;
      attention.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
      attention.tiles = tiles_, attention.tile_count = tile_count_, attention.partials = partials_.as<float>();
      attention.splits = std::clamp(2 * context_.traits().multiprocessors / static_cast<int>(batch.span_count * c.kv_heads), 1,
                                    cuda::kAttentionSplits);
      check(decoding ? cuda::launch_attention_decode(act_, attention, stream)
                     : cuda::launch_attention_prefill(act_, attention, stream),
            "attention");
      b.o.run(context_, act_, mixed_.data(), tokens, delta_.data(), stream);
      delta = delta_.data(), bias = b.o.bias.as<float>();
      norm(b.post_norm, nullptr);
      b.gate_up.run(context_, act_, normed_.data(), tokens, gate_up_.data(), stream);
      check(cuda::launch_silu_mul(act_, gate_up_.data(), b.gate_up.bias.as<float>(), tokens, static_cast<int>(c.intermediate),
                                  mlp_.data(), stream),
            "SwiGLU");
      b.down.run(context_, act_, mlp_.data(), tokens, delta_.data(), stream);
      bias = b.down.bias.as<float>();
    }
    norm(final_norm_, greedy ? nullptr : normed32_.as<float>());
    if (!greedy) return;
    run_head(normed_.data(), tokens);
    check(cuda::launch_argmax(logits_.as<float>(), tokens, c.vocab, next_.as<int>(), stream), "argmax");
  }

  // logits_ [rows, vocab] of states [rows, hidden] in 16 bits.
  void run_head(const void* x, int64_t rows) const {
    const int64_t in = config_->hidden, vocab = config_->vocab;
    if (head4_) {
      head4_->run(context_, act_, x, rows, head_out_.data(), vocab, stream_.get());
      check(cuda::launch_widen(act_, head_out_.data(), rows * vocab, logits_.as<float>(), stream_.get()), "widening logits");
    } else if (head_bits_ == 8) {
      for (int64_t first = 0; first < rows; first += 8)
        check(cuda::launch_head8(act_, head_codes_.as<uint8_t>(), head_scales_.as<float>(), head_zeros_.as<float>(), vocab,
                                 static_cast<int>(in), head_group_, static_cast<const std::byte*>(x) + first * in * 2,
                                 static_cast<int>(std::min<int64_t>(8, rows - first)), logits_.as<float>() + first * vocab,
                                 stream_.get()),
              "the output layer");
    } else {
      const Buffer& table = config_->tied ? embedding_ : head_dense_;
      context_.cublas().linear_f32(act_, table.data(), vocab, in, x, rows, logits_.as<float>(), vocab, stream_.get());
    }
  }

  static constexpr int64_t kTileRows = 64;
  static constexpr size_t kMostGraphs = 600;  // 256 batch sizes, with and without the output layer

  std::shared_ptr<const ModelConfig> config_;
  Act act_;
  Buffer embedding_, final_norm_, inv_freq_, head_dense_, head_codes_, head_scales_, head_zeros_;
  std::optional<cuda::Linear> head4_;
  int head_bits_ = 0, head_group_ = 0, pairs_ = 0;
  std::vector<DeviceBlock> blocks_;
  // Everything below belongs to the step in progress.
  mutable std::mutex mutex_;
  mutable cuda::Context context_;
  mutable cuda::Stream stream_;
  mutable Pinned staging_, sent_host_;
  mutable Buffer residual_, normed_, normed32_, delta_, qkv_, mixed_, gate_up_, mlp_, partials_, next_, logits_, head_out_,
      head_in32_, head_in_, sent_;
  mutable std::shared_ptr<DeviceCache> own_cache_;
  mutable const int2* tiles_ = nullptr;
  mutable int tile_count_ = 0;
  mutable int64_t room_ = 0;
  mutable std::map<std::pair<void*, int64_t>, Graph> graphs_;
};

}  // namespace

std::shared_ptr<DeviceModel> make_cuda_model(std::shared_ptr<const ModelConfig> config, const Tensor& embedding) {
  if (cuda_devices().empty()) fail(Code::kUnsupported, "--device cuda: {}; use --device auto or cpu", cuda_absence());
  return std::make_shared<CudaModel>(std::move(config), embedding);
}

}  // namespace awq
