#include "model/device_model.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <optional>

#include "kernels/cuda/pack.h"
#include "kernels/cuda/step.h"
#include "kernels/devices.h"
#include "model/cuda/device_linear.h"
#include "model/cuda/device_sampler.h"
#include "model/cuda/pinned.h"
#include "model/model.h"

namespace awq {
namespace {

using cuda::Act;
using cuda::Buffer;
using cuda::check;

struct DeviceBlock {
  Buffer input_norm, post_norm, q_norm, k_norm;
  DeviceLinear qkv, o, gate_up, down;
  int window = 0;
  int64_t bytes() const { return qkv.bytes() + o.bytes() + gate_up.bytes() + down.bytes(); }
};

struct DeviceCache {
  Buffer storage;
  int64_t pages = 0;
  bool int8 = false;
  uint64_t id = 0;  // no other has it, while one of another size or type may come to lie at the same address
};

// States [tokens, hidden] in 16 bits, of one caller.
struct DeviceStates {
  Buffer rows;
  int64_t tokens = 0;
};

struct Graph {
  cudaGraphExec_t exec = nullptr;
  int runs = 0;  // before it was captured
};

class CudaModel : public DeviceModel {
 public:
  CudaModel(std::shared_ptr<const ModelConfig> config, const Tensor& embedding, bool invariant)
      : config_(std::move(config)), act_(embedding.dtype() == DType::kBF16 ? Act::kBF16 : Act::kF16), context_(invariant) {
    const ModelConfig& c = *config_;
    check_runs_on_device(c);
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
      if (head_bits == 4 && cuda::packed_format(w) == cuda::Format::kAffine4) {
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

  std::shared_ptr<void> make_cache(int64_t pages, DType dtype) const override {
    static std::atomic<uint64_t> made = 0;
    auto cache = std::make_shared<DeviceCache>();
    cache->pages = pages, cache->int8 = dtype == DType::kI8, cache->id = ++made;
    // Values that no key reaches are multiplied by 0: they must be numbers.
    cache->storage = cleared(pages * page_bytes(dtype));
    return cache;
  }
  int64_t page_bytes(DType dtype) const override { return KvCache::page_bytes(*config_, dtype == DType::kI8 ? DType::kI8 : DType::kF16); }

  void forward(const BatchView& batch, void* cache, float* hidden) const override {
    const std::lock_guard lock(mutex_);
    const int64_t tokens = static_cast<int64_t>(batch.tokens.size()), n = tokens * config_->hidden;
    if (tokens == 0) return;
    run(batch, static_cast<DeviceCache*>(cache), false);
    download(normed32_.data(), n, hidden);
  }

  void forward(const BatchView& batch, void* cache, std::shared_ptr<void>& states) const override {
    const std::lock_guard lock(mutex_);
    const auto tokens = static_cast<int64_t>(batch.tokens.size()), bytes = tokens * config_->hidden * 2;
    if (!states) states = std::make_shared<DeviceStates>();
    auto& kept = *static_cast<DeviceStates*>(states.get());
    kept.tokens = tokens;
    if (tokens == 0) return;
    run(batch, static_cast<DeviceCache*>(cache), false);
    if (kept.rows.bytes() < bytes) kept.rows = Buffer(std::max<int64_t>(bytes, 64 * config_->hidden * 2));
    check(cudaMemcpyAsync(kept.rows.data(), normed_.data(), static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream_.get()),
          "keeping states");
    // Of a prompt, maybe nothing is drawn: the caller's clock is to see what it took.
    if (batch.spans.size() != batch.tokens.size()) stream_.synchronize();
  }

  void draw(const void* states, std::span<const RowDraw> rows, DrawnRows& out) const override {
    const std::lock_guard lock(mutex_);
    out.tokens.assign(rows.size(), -1);
    int64_t fetched = 0;
    for (size_t first = 0; first < rows.size(); first += kHeadRows)
      fetched = draw_some(*static_cast<const DeviceStates*>(states), rows.subspan(first, std::min<size_t>(kHeadRows, rows.size() - first)),
                          out.tokens.data() + first, fetched, out.logits);
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
    for (int64_t first = 0; first < rows; first += kHeadRows) {
      const int64_t n = std::min(kHeadRows, rows - first), in = config_->hidden, vocab = config_->vocab;
      grow_logits(n);
      const int64_t words = n * in;
      float* staged = staging_.grown<float>(words);
      std::memcpy(staged, hidden + first * in, static_cast<size_t>(words) * 4);
      if (head_in32_.bytes() == 0) head_in32_ = Buffer(kHeadRows * in * 4);
      grow_head_in();
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
      for (const DeviceLinear* l : {&b.qkv, &b.o, &b.gate_up, &b.down}) all[l->kernel() != nullptr ? l->kernel() : dense] += l->bytes();
    return all;
  }

 private:
  bool shares_table() const { return head_bits_ == 0 && config_->tied; }
  int64_t head_bytes() const {
    if (shares_table()) return embedding_.bytes();
    return head4_ ? head4_->bytes() : head_dense_.bytes() + head_codes_.bytes() + head_scales_.bytes() + head_zeros_.bytes();
  }

  void grow_head_in() const {
    if (head_in_.bytes() == 0) head_in_ = Buffer(kHeadRows * config_->hidden * 2);
  }

  // The output layer's inputs [rows, hidden]: where they lie already when they follow each other.
  const void* head_inputs(const DeviceStates& states, std::span<const RowDraw> rows) const {
    const int64_t row_bytes = config_->hidden * 2;
    bool in_order = rows[0].row * row_bytes % 16 == 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      check_internal(rows[i].row >= 0 && rows[i].row < states.tokens, "a row outside the step");
      in_order = in_order && rows[i].row == rows[0].row + static_cast<int64_t>(i);
    }
    if (in_order) return states.rows.as<std::byte>() + rows[0].row * row_bytes;
    grow_head_in();
    if (row_numbers_.bytes() == 0) row_numbers_ = Buffer(kHeadRows * 4);
    auto* numbers = row_numbers_host_.grown<int32_t>(kHeadRows);
    for (size_t i = 0; i < rows.size(); ++i) numbers[i] = static_cast<int32_t>(rows[i].row);
    check(cudaMemcpyAsync(row_numbers_.data(), numbers, rows.size() * 4, cudaMemcpyHostToDevice, stream_.get()), "copying to the device");
    check(cuda::launch_gather_rows(states.rows.data(), row_numbers_.as<int>(), static_cast<int>(rows.size()), row_bytes, head_in_.data(),
                                   stream_.get()),
          "gathering states");
    return head_in_.data();
  }

  // Of at most kHeadRows rows; those not drawn are appended to logits, which has `fetched` rows. Their new number.
  int64_t draw_some(const DeviceStates& states, std::span<const RowDraw> rows, int32_t* tokens, int64_t fetched,
                    std::vector<float>& logits) const {
    const auto count = static_cast<int64_t>(rows.size()), vocab = config_->vocab;
    grow_logits(count);
    run_head(head_inputs(states, rows), count);
    sampler_.draw(logits_.as<float>(), vocab, rows, stream_.get(), tokens);
    const int64_t missing = std::count(tokens, tokens + count, -1);
    if (static_cast<int64_t>(logits.size()) < (fetched + missing) * vocab) logits.resize(static_cast<size_t>((fetched + missing) * vocab));
    float* staged = staging_.grown<float>(missing * vocab);
    int64_t copied = 0;
    for (int64_t i = 0; i < count; ++i)
      if (tokens[i] < 0)
        check(cudaMemcpyAsync(staged + copied++ * vocab, logits_.as<float>() + i * vocab, static_cast<size_t>(vocab) * 4,
                              cudaMemcpyDeviceToHost, stream_.get()),
              "copying from the device");
    stream_.synchronize();
    std::copy_n(staged, missing * vocab, logits.data() + fetched * vocab);
    return fetched + missing;
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
    for (Buffer& b : norm_parts_) b = Buffer(tokens * (std::max<int64_t>(cuda::kEmbedParts, c.hidden / 16 + 8) + 1) * 4);
    normed_ = Buffer(tokens * c.hidden * 2), delta_ = Buffer(tokens * c.hidden * 2);
    qkv_ = Buffer(tokens * width * 2), mixed_ = Buffer(tokens * q * 2);
    for (const DeviceBlock& b : blocks_)
      for (const DeviceLinear* l : {&b.qkv, &b.o, &b.gate_up, &b.down})
        if (l->int8) cuda::Int8Linear::reserve(context_, tokens, l->in);
    context_.pairs(tokens * 2 * c.intermediate * 2), mlp_ = Buffer(tokens * c.intermediate * 2);
    arrivals_ = cleared(tokens * c.kv_heads * 4);
    if (!context_.invariant()) partials_ = Buffer(int64_t{2} * context_.traits().multiprocessors * (c.heads / c.kv_heads) * (c.head_dim + 2) * 4);
    next_ = Buffer(tokens * 4);
    room_ = tokens;
  }

  // Room for the parts of so many pages of keys: twice that, since sequences grow and graphs hold the address.
  void grow_parts(int64_t pages, int64_t spans) const {
    const int64_t bytes = cuda::part_slots(pages, spans) * config_->heads * (config_->head_dim + 2) * 4;
    if (partials_.bytes() >= bytes) return;
    stream_.synchronize();
    drop_graphs();
    partials_ = Buffer(2 * bytes);
  }

  void grow_logits(int64_t rows) const {
    const int64_t bytes = rows * config_->vocab * 4;
    if (logits_.bytes() >= bytes) return;
    drop_graphs();
    stream_.synchronize();
    logits_ = Buffer(bytes);
    argmax_ = cleared(rows * cuda::kArgmaxScratch * 4);
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
        own_cache_ = std::static_pointer_cast<DeviceCache>(make_cache(pages, act_dtype(act_)));
      }
      cache = own_cache_.get();
    }
    if (decoding && context_.invariant()) grow_parts(pages, spans);
    const int64_t each = (tokens + 3) / 4 * 4, pages_at = 7 * each + 2 * tiles, words = pages_at + pages;
    stream_.synchronize();  // a step whose states nobody asked for yet may still be copying what was sent for it
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
    Graph& graph = graphs_[{cache->id, tokens * 2 + (greedy ? 1 : 0)}];
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

  // The residual stream between two products: it waits for what the last one left in delta_ and for its bias, or it is complete, and
  // the next product's inputs are in normed_, up to the factors that `parts` stand for.
  struct Residual {
    const void* delta = nullptr;
    const float* bias = nullptr;
    cuda::NormParts parts;
    int turn = 0;  // of norm_parts_
  };

  void norm(const Residual& at, const Buffer& gain, int64_t tokens, float* y32) const {
    const cuda::NormArgs args{residual_.as<float>(), at.delta, at.bias, gain.as<float>(), normed_.data(), y32, static_cast<int>(tokens),
                              static_cast<int>(config_->hidden), config_->rms_eps};
    check(cuda::launch_add_norm(act_, args, stream_.get()), "a norm");
  }

  // linear(norm(residual)).
  void normed_product(const Residual& at, const Buffer& gain, const DeviceLinear& linear, cuda::Product product) const {
    if (at.parts.sums != nullptr && linear.takes_pieces(context_, product.tokens))
      product.scaled = at.parts, product.eps = config_->rms_eps;
    else
      norm(at, gain, product.tokens, nullptr);
    product.x = normed_.data();
    linear.run(context_, act_, product, stream_.get());
  }

  cuda::NormParts next_parts(Residual& at, int count) const { return {norm_parts_[at.turn++ % 2].as<float>(), count}; }

  // residual += linear(x); next_gain: of the norm that follows, null where nothing but a norm reads it.
  void residual_product(Residual& at, const DeviceLinear& linear, const void* x, int64_t tokens, const Buffer* next_gain) const {
    cuda::Product product{x, tokens, delta_.data(), config_->hidden, cuda::Output::kAct, {}, {}, config_->rms_eps};
    const float* bias = linear.bias.as<float>();
    if (next_gain != nullptr && linear.takes_pieces(context_, tokens)) {
      product.output = cuda::Output::kResidual;
      product.residual = {residual_.as<float>(), normed_.data(), bias, next_gain->as<float>(), at.parts, next_parts(at, linear.strips())};
      at = {nullptr, nullptr, product.residual.after, at.turn};
    } else {
      at = {delta_.data(), bias, {}, at.turn};
    }
    linear.run(context_, act_, product, stream_.get());
  }

  void attend(const cuda::Batch& batch, const DeviceBlock& b, const cuda::CacheView& view, bool decoding) const {
    const ModelConfig& c = *config_;
    cuda::RopeArgs rope;
    rope.batch = batch, rope.qkv = qkv_.data(), rope.bias = b.qkv.bias.as<float>();
    rope.q_gain = b.q_norm.as<float>(), rope.k_gain = b.k_norm.as<float>();
    rope.inv_freq = inv_freq_.as<double>(), rope.pairs = pairs_, rope.heads = static_cast<int>(c.heads);
    rope.magnitude = static_cast<float>(c.rope.magnitude), rope.eps = c.rms_eps, rope.cache = view;
    cuda::AttentionArgs attention;
    attention.batch = batch, attention.cache = view, attention.q = qkv_.data(), attention.y = mixed_.data();
    attention.ldq = b.qkv.out, attention.heads = static_cast<int>(c.heads), attention.window = b.window;
    attention.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
    attention.tiles = tiles_, attention.tile_count = tile_count_;
    attention.partials = partials_.as<float>(), attention.arrivals = arrivals_.as<uint32_t>();
    attention.splits = std::clamp(2 * context_.traits().multiprocessors / static_cast<int>(batch.span_count * c.kv_heads), 1,
                                  cuda::kAttentionSplits);
    const bool fixed = context_.invariant();
    if (decoding && !fixed) return check(cuda::launch_attention_decode(act_, attention, rope, stream_.get()), "attention");
    check(cuda::launch_rope_cache(act_, rope, stream_.get()), "rotating");
    const auto launch = !fixed     ? cuda::launch_attention_prefill
                        : decoding ? cuda::launch_fixed_attention_decode
                                   : cuda::launch_fixed_attention_prefill;
    check(launch(act_, attention, stream_.get()), "attention");
  }

  void feed_forward(Residual& at, const DeviceBlock& b, int64_t tokens, const Buffer* next_gain) const {
    const int64_t width = config_->intermediate;
    if (b.gate_up.gated) {
      normed_product(at, b.post_norm, b.gate_up, {nullptr, tokens, mlp_.data(), width, cuda::Output::kGated, {}, {}, 0});
    } else {
      void* pairs = context_.pairs(tokens * 2 * width * 2);
      normed_product(at, b.post_norm, b.gate_up, {nullptr, tokens, pairs, 2 * width, cuda::Output::kAct, {}, {}, 0});
      check(cuda::launch_silu_mul(act_, pairs, b.gate_up.bias.as<float>(), false, static_cast<int>(tokens), static_cast<int>(width),
                                  mlp_.data(), stream_.get()),
            "SwiGLU");
    }
    residual_product(at, b.down, mlp_.data(), tokens, next_gain);
  }

  void launch_step(const cuda::Batch& batch, const DeviceCache& cache, bool decoding, bool greedy) const {
    const ModelConfig& c = *config_;
    const int tokens = batch.tokens;
    Residual at;
    cuda::EmbedArgs embed{batch, embedding_.data(), static_cast<int>(c.hidden), residual_.as<float>(), nullptr, nullptr, {}};
    if (blocks_[0].qkv.takes_pieces(context_, tokens)) {
      at.parts = next_parts(at, cuda::kEmbedParts);
      embed.x = normed_.data(), embed.gain = blocks_[0].input_norm.as<float>(), embed.after = at.parts;
    }
    check(cuda::launch_embed(act_, embed, stream_.get()), "embedding");
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const DeviceBlock& b = blocks_[i];
      normed_product(at, b.input_norm, b.qkv, {nullptr, tokens, qkv_.data(), b.qkv.out, cuda::Output::kAct, {}, {}, 0});
      cuda::CacheView view{nullptr, static_cast<int>(c.kv_heads), static_cast<int>(c.head_dim), cache.int8};
      view.base = cache.storage.as<std::byte>() + static_cast<int64_t>(i) * cache.pages * view.page_bytes();
      attend(batch, b, view, decoding);
      residual_product(at, b.o, mixed_.data(), tokens, &b.post_norm);
      feed_forward(at, b, tokens, i + 1 < blocks_.size() ? &blocks_[i + 1].input_norm : nullptr);
    }
    norm(at, final_norm_, tokens, greedy ? nullptr : normed32_.as<float>());
    if (!greedy) return;
    run_head(normed_.data(), tokens);
    check(cuda::launch_argmax(logits_.as<float>(), tokens, c.vocab, argmax_.as<uint32_t>(), next_.as<int>(), stream_.get()), "argmax");
  }

  // logits_ [rows, vocab] of states [rows, hidden] in 16 bits.
  void run_head(const void* x, int64_t rows) const {
    const int64_t in = config_->hidden, vocab = config_->vocab;
    if (head4_) {
      if (head4_->gives_f32(context_, rows))
        return head4_->run(context_, act_, {x, rows, logits_.data(), vocab, cuda::Output::kF32, {}, {}, 0}, stream_.get());
      head4_->run(context_, act_, {x, rows, head_out_.data(), vocab, cuda::Output::kAct, {}, {}, 0}, stream_.get());
      check(cuda::launch_widen(act_, head_out_.data(), rows * vocab, logits_.as<float>(), stream_.get()), "widening logits");
    } else if (head_bits_ == 8) {
      for (int64_t first = 0; first < rows; first += 8)
        check(cuda::launch_head8(act_, head_codes_.as<uint8_t>(), head_scales_.as<float>(), head_zeros_.as<float>(), vocab,
                                 static_cast<int>(in), head_group_, static_cast<const std::byte*>(x) + first * in * 2,
                                 static_cast<int>(std::min<int64_t>(8, rows - first)), logits_.as<float>() + first * vocab,
                                 stream_.get()),
              "the output layer");
    } else {
      const cuda::DenseLinear table((config_->tied ? embedding_ : head_dense_).data(), vocab, in);
      table.run(context_, act_, {x, rows, logits_.data(), vocab, cuda::Output::kF32, {}, {}, 0}, stream_.get());
    }
  }

  static constexpr int64_t kTileRows = 64;
  static constexpr int64_t kHeadRows = 256;  // logits are computed for so many rows at a time
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
  mutable Pinned staging_, sent_host_, row_numbers_host_;
  mutable DeviceSampler sampler_;
  mutable Buffer residual_, norm_parts_[2], normed_, normed32_, delta_, qkv_, mixed_, mlp_, partials_, arrivals_, next_, logits_, argmax_,
      head_out_, head_in32_, head_in_, sent_, row_numbers_;
  mutable std::shared_ptr<DeviceCache> own_cache_;
  mutable const int2* tiles_ = nullptr;
  mutable int tile_count_ = 0;
  mutable int64_t room_ = 0;
  mutable std::map<std::pair<uint64_t, int64_t>, Graph> graphs_;  // of a cache and a kind of step
};

}  // namespace

std::shared_ptr<DeviceModel> make_cuda_model(std::shared_ptr<const ModelConfig> config, const Tensor& embedding, bool invariant) {
  if (cuda_devices().empty()) fail(Code::kUnsupported, "--device cuda: {}; use --device auto or cpu", cuda_absence());
  return std::make_shared<CudaModel>(std::move(config), embedding, invariant);
}

}  // namespace awq
