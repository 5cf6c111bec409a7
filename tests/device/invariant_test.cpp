// The invariant mode, kernel by kernel: a token's results have the same bits for any number of tokens, on any position among them, and
// for keys read in any steps. A failure says which token, and out of how many, differs first.
#include <fmt/core.h>

#include <functional>

#include "device_testing.h"
#include "kernels/cuda/int8_linear.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/step.h"

namespace awq {
namespace {

using namespace testing;
using cuda::Act;
using cuda::Buffer;
using cuda::Output;

constexpr Act kActs[] = {Act::kF16, Act::kBF16};
const char* name_of(Act act) { return act == Act::kF16 ? "fp16" : "bf16"; }
const char* name_of(Output output) { return output == Output::kGated ? "gated" : output == Output::kF32 ? "fp32" : "rounded"; }

// Rows [tokens][bytes] as they lie in device memory.
struct Rows {
  std::vector<uint8_t> bytes;
  int64_t row = 0;  // bytes of one

  // The first of `count` rows from `first` on that is not the one in `whole` at the same place, -1 if there is none.
  int64_t first_difference(const Rows& whole, int64_t first, int64_t count) const {
    for (int64_t t = 0; t < count; ++t)
      if (std::memcmp(bytes.data() + t * row, whole.bytes.data() + (first + t) * row, static_cast<size_t>(row)) != 0) return t;
    return -1;
  }
};

// ---- linears ----------------------------------------------------------------------------------------------------------------------

constexpr int64_t kMost = 300;

struct Linear {
  int64_t out, in;
  std::function<void(cuda::Context&, Act, const cuda::Product&, cudaStream_t)> run;
};

Rows rows_of(const Linear& linear, cuda::Context& context, Act act, const Buffer& x, int64_t first, int64_t tokens, Output output) {
  const int64_t width = output == Output::kGated ? linear.out / 2 : linear.out, row = width * (output == Output::kF32 ? 4 : 2);
  Rows rows{std::vector<uint8_t>(static_cast<size_t>(tokens * row), 0xff), row};
  const Buffer y = upload(rows.bytes);
  const cuda::Stream stream;
  linear.run(context, act, {x.as<uint16_t>() + first * linear.in, tokens, y.data(), width, output, {}, {}, 0}, stream.get());
  stream.synchronize();
  y.download(rows.bytes.data(), y.bytes());
  return rows;
}

std::vector<int64_t> counts() {
  std::vector<int64_t> all;
  for (int64_t n = 1; n <= 40; ++n) all.push_back(n);
  for (const int64_t n : {63, 64, 65, 66, 100, 127, 128, 129, 255, 256, 257, 299, 300}) all.push_back(n);
  return all;
}

// Rows of 1 to 300 tokens, and of tokens that begin elsewhere, against those of all 300 together.
void expect_rows_alike(const Linear& linear, Act act, Output output) {
  SCOPED_TRACE(fmt::format("[{}, {}] {} {}", linear.out, linear.in, name_of(act), name_of(output)));
  cuda::Context context(true);
  const Buffer x = upload(to_act(act, random_floats(kMost * linear.in, 5)));
  const Rows whole = rows_of(linear, context, act, x, 0, kMost, output);
  for (const int64_t tokens : counts()) {
    const int64_t t = rows_of(linear, context, act, x, 0, tokens, output).first_difference(whole, 0, tokens);
    EXPECT_EQ(t, -1) << "of " << tokens << " tokens, against " << kMost;
  }
  for (const int64_t first : {1, 7, 8, 130, 299})
    for (const int64_t tokens : {1, 3, 20, 100}) {
      const int64_t count = std::min(tokens, kMost - first),
                    t = rows_of(linear, context, act, x, first, count, output).first_difference(whole, first, count);
      EXPECT_EQ(t, -1) << "of " << count << " tokens that are " << first << " and following of " << kMost;
    }
}

Linear packed(const QuantWeight& w) {
  const auto linear = std::make_shared<cuda::Linear>(w);
  return {w.rows, w.cols, [linear](cuda::Context& context, Act act, const cuda::Product& product, cudaStream_t stream) {
            linear->run(context, act, product, stream);
          }};
}
Linear dense(Act act, int64_t out, int64_t in) {
  const auto rows = std::make_shared<Buffer>(upload(to_act(act, random_floats(out * in, 21))));
  return {out, in, [=](cuda::Context& context, Act a, const cuda::Product& product, cudaStream_t stream) {
            cuda::DenseLinear(rows->data(), out, in).run(context, a, product, stream);
          }};
}

TEST(DeviceInvariant, RowsOf4BitLinears) {
  SKIP_WITHOUT_GPU();
  struct Shape {
    int64_t out, in;
    int group;
  };
  // In one part for want of columns or for many panels, in 4 and in 16 parts; groups of every kind.
  for (const Shape& s : {Shape{576, 576, 64}, Shape{36, 96, 32}, Shape{17040, 512, 128}, Shape{4096, 4096, 128}, Shape{528, 4096, 128},
                         Shape{264, 2048, 32}, Shape{136, 384, 192}}) {
    const Linear linear = packed(random_quant(s.out, s.in, 4, s.group, true, DType::kF16, 11));
    for (const Act act : kActs)
      for (const Output output : {Output::kAct, Output::kGated, Output::kF32})
        if (output != Output::kGated || s.out % 16 == 0) expect_rows_alike(linear, act, output);
  }
}

TEST(DeviceInvariant, RowsOfPackedW8AndNf4Linears) {
  SKIP_WITHOUT_GPU();
  for (const QuantWeight& w : {random_quant(576, 576, 8, 64, true, DType::kF16, 11), random_quant(264, 4096, 8, -1, false, DType::kF16, 12),
                               random_nf4(528, 2048, 64, DType::kF16, 13)}) {
    const Linear linear = packed(w);
    for (const Act act : kActs)
      for (const Output output : {Output::kAct, Output::kGated, Output::kF32})
        if (output != Output::kGated || linear.out % 16 == 0) expect_rows_alike(linear, act, output);
  }
}

// Every width of tile with the same plan of parts: what keeps decoding fast beside prompts.
TEST(DeviceInvariant, WidthsOfTilesAgree) {
  SKIP_WITHOUT_GPU();
  cuda::Context context(true);
  if (!context.traits().hopper) GTEST_SKIP() << "no Hopper";
  for (const QuantWeight& w : {random_quant(528, 512, 4, 128, true, DType::kF16, 12), random_quant(528, 4096, 4, 128, true, DType::kF16, 12),
                               random_quant(528, 4096, 8, 128, true, DType::kF16, 12), random_nf4(528, 4096, 64, DType::kF16, 12)}) {
    const int64_t in = w.cols;
    const cuda::Linear linear(w);
    const cuda::PackedView& view = linear.view();
    for (const Act act : kActs) {
      const Buffer x = upload(to_act(act, random_floats(16 * in, 6)));
      Rows narrow;
      for (int i = 0; i < cuda::kGemmCount; ++i) {
        const cuda::GemmConfig& config = cuda::gemm_configs(view.format)[i];
        const cuda::GemmPlan plan = cuda::fixed_plan(view.panels(), view.blocks / 2, 16, config.tokens, 2 / config.blocks);
        const Linear by_width{w.rows, w.cols, [&](cuda::Context& c, Act a, const cuda::Product& product, cudaStream_t stream) {
                                linear.run(c, {cuda::Way::kGemm, i, 16, plan}, a, product, stream);
                              }};
        const Rows rows = rows_of(by_width, context, act, x, 0, 16, Output::kF32);
        if (i == 0) narrow = rows;
        EXPECT_EQ(rows.first_difference(narrow, 0, 16), -1)
            << w.scheme.text() << ", " << name_of(act) << ", " << in << " columns in " << plan.parts << " parts: tiles of " << config.tokens << " tokens against 16";
      }
    }
  }
}

TEST(DeviceInvariant, RowsOfDenseLinears) {
  SKIP_WITHOUT_GPU();
  for (const Act act : kActs)
    for (const auto& s : std::vector<std::pair<int64_t, int64_t>>{{1008, 1024}, {576, 4104}, {4096, 96}, {17040, 512}}) {
      const Linear linear = dense(act, s.first, s.second);
      for (const Output output : {Output::kAct, Output::kGated, Output::kF32}) expect_rows_alike(linear, act, output);
    }
}

TEST(DeviceInvariant, RowsOfInt8Linears) {
  SKIP_WITHOUT_GPU();
  QuantWeight w = random_quant(1024, 1536, 8, -1, false, DType::kF32, 7);
  w.scheme.activations = Activations::kInt8Token;
  const auto linear = std::make_shared<cuda::Int8Linear>(w);
  const Linear any{w.rows, w.cols, [linear](cuda::Context& context, Act act, const cuda::Product& product, cudaStream_t stream) {
                     linear->run(context, act, product, stream);
                   }};
  for (const Act act : kActs)
    for (const Output output : {Output::kAct, Output::kGated}) expect_rows_alike(any, act, output);
}

TEST(DeviceInvariant, RowsOf8BitOutputLayers) {
  SKIP_WITHOUT_GPU();
  const QuantWeight w = random_quant(1003, 576, 8, 64, true, DType::kF16, 5);
  const Buffer codes = upload(w.codes), scales = upload(w.scales), zeros = upload(std::vector<float>(w.zeros.begin(), w.zeros.end()));
  const Linear head{w.rows, w.cols, [&](cuda::Context&, Act act, const cuda::Product& p, cudaStream_t stream) {
                      cuda::check(cuda::launch_head8(act, codes.as<uint8_t>(), scales.as<float>(), zeros.as<float>(), 1003, 576, 64, p.x,
                                                     static_cast<int>(p.tokens), static_cast<float*>(p.y), stream), "the output layer");
                    }};
  cuda::Context context(true);
  for (const Act act : kActs) {
    const Buffer x = upload(to_act(act, random_floats(8 * 576, 6)));
    const Rows whole = rows_of(head, context, act, x, 0, 8, Output::kF32);
    for (int64_t first = 0; first < 8; ++first)
      for (int64_t tokens = 1; first + tokens <= 8; ++tokens)
        EXPECT_EQ(rows_of(head, context, act, x, first, tokens, Output::kF32).first_difference(whole, first, tokens), -1)
            << name_of(act) << ": of " << tokens << " tokens from " << first << " on";
  }
}

// The tests above can see something: without the mode rows do depend on their number.
TEST(DeviceInvariant, WithoutTheModeRowsDiffer) {
  SKIP_WITHOUT_GPU();
  cuda::Context context;
  for (const Act act : kActs)
    for (const Linear& linear : {packed(random_quant(528, 4096, 4, 128, true, DType::kF16, 11)), dense(act, 1008, 4096)}) {
      const Buffer x = upload(to_act(act, random_floats(kMost * linear.in, 5)));
      const Rows whole = rows_of(linear, context, act, x, 0, kMost, Output::kF32);
      EXPECT_NE(rows_of(linear, context, act, x, 0, 1, Output::kF32).first_difference(whole, 0, 1), -1) << linear.out << ' ' << name_of(act);
    }
}

// ---- attention --------------------------------------------------------------------------------------------------------------------

struct Case {
  int heads, kv_heads, head_dim, window;
  bool int8 = false;
};
struct Span {
  int sequence, past, tokens;
};

// Sequences of made-up queries, keys and values in one cache, their pages mixed.
class Attention {
 public:
  static constexpr int kTokens = 300, kPages = 20;
  Attention(Act act, const Case& c, int sequences)
      : act_(act), c_(c), width_((c.heads + 2 * c.kv_heads) * c.head_dim), count_(sequences),
        cache_{nullptr, c.kv_heads, c.head_dim, c.int8}, storage_(sequences * kPages * cache_.page_bytes()) {
    cache_.base = storage_.data();
    cuda::check(cudaMemset(storage_.data(), c.int8 ? 0xff : 0, static_cast<size_t>(storage_.bytes())), "clearing");
    for (int s = 0; s < sequences; ++s) qkv_.push_back(to_act(act, random_floats(int64_t{kTokens} * width_, 30 + static_cast<uint32_t>(s))));
    std::vector<double> inv_freq;
    for (int i = 0; i < c.head_dim / 2; ++i) inv_freq.push_back(std::pow(10000.0, -2.0 * i / c.head_dim));
    inv_freq_ = upload(inv_freq);
  }

  // Outputs of the first span; fixed: the invariant mode's kernels.
  Rows step(const std::vector<Span>& spans, bool decoding, int splits, bool fixed = true) {
    std::vector<int32_t> positions, span_of, pages;
    std::vector<cuda::DeviceSpan> all;
    std::vector<int2> tiles;
    std::vector<uint16_t> qkv;
    const int group = c_.heads / c_.kv_heads;
    for (const Span& s : spans) {
      const auto index = static_cast<int>(all.size());
      all.push_back({static_cast<int>(positions.size()), s.tokens, s.past, static_cast<int>(pages.size())});
      for (int i = 0; i < s.tokens; ++i) positions.push_back(s.past + i), span_of.push_back(index);
      for (int p = 0; p * cuda::kCachePage < s.past + s.tokens; ++p) pages.push_back(((s.sequence * kPages + p) * 7 + 3) % (count_ * kPages));
      for (int t = 0; t * 64 < s.tokens * group; ++t) tiles.push_back({index, t});
      const auto from = qkv_[static_cast<size_t>(s.sequence)].begin() + s.past * width_;
      qkv.insert(qkv.end(), from, from + s.tokens * width_);
    }
    const auto tokens = static_cast<int>(positions.size()), count = static_cast<int>(spans.size());
    Rows rows{{}, int64_t{c_.heads} * c_.head_dim * 2};
    rows.bytes.resize(static_cast<size_t>(tokens * rows.row), 0xff);
    const Buffer d_positions = upload(positions), d_span_of = upload(span_of), d_spans = upload(all), d_pages = upload(pages),
                 d_tiles = upload(tiles), d_qkv = upload(qkv), y = upload(rows.bytes),
                 arrivals = upload(std::vector<uint32_t>(static_cast<size_t>(count * c_.kv_heads))),
                 partials(cuda::part_slots(static_cast<int64_t>(pages.size()), count) * c_.heads * (c_.head_dim + 2) * 4);
    const cuda::Batch batch{nullptr, d_positions.as<int>(), d_span_of.as<int>(), d_spans.as<cuda::DeviceSpan>(), d_pages.as<int>(), tokens, count};
    cuda::RopeArgs rope;
    rope.batch = batch, rope.qkv = d_qkv.data(), rope.inv_freq = inv_freq_.as<double>(), rope.pairs = c_.head_dim / 2;
    rope.heads = c_.heads, rope.magnitude = 1, rope.eps = 1e-5f, rope.cache = cache_;
    cuda::AttentionArgs a;
    a.batch = batch, a.cache = rope.cache, a.q = d_qkv.data(), a.y = y.data(), a.ldq = width_, a.heads = c_.heads, a.window = c_.window;
    a.scale = 1 / std::sqrt(static_cast<float>(c_.head_dim)), a.tiles = d_tiles.as<int2>(), a.tile_count = static_cast<int>(tiles.size());
    a.splits = splits, a.partials = partials.as<float>(), a.arrivals = arrivals.as<uint32_t>();
    const cuda::Stream stream;
    cuda::check(cuda::launch_rope_cache(act_, rope, stream.get()), "rotating");
    cuda::check(!fixed     ? cuda::launch_attention_prefill(act_, a, stream.get())
                : decoding ? cuda::launch_fixed_attention_decode(act_, a, stream.get())
                           : cuda::launch_fixed_attention_prefill(act_, a, stream.get()), "attention");
    stream.synchronize();
    y.download(rows.bytes.data(), y.bytes());
    std::vector<uint32_t> left(static_cast<size_t>(count * c_.kv_heads));
    arrivals.download(left.data(), arrivals.bytes());
    EXPECT_EQ(left, std::vector<uint32_t>(left.size())) << "arrivals as they were";
    return rows;
  }

 private:
  Act act_;
  Case c_;
  int width_, count_;
  cuda::CacheView cache_;
  Buffer storage_, inv_freq_;
  std::vector<std::vector<uint16_t>> qkv_;
};

double distance(Act act, const Rows& got, const Rows& want) {
  double diff = 0, size = 0;
  for (size_t i = 0; i + 1 < want.bytes.size(); i += 2) {
    uint16_t a, b;
    std::memcpy(&a, got.bytes.data() + i, 2), std::memcpy(&b, want.bytes.data() + i, 2);
    const double x = from_act(act, a), y = from_act(act, b);
    if (!std::isfinite(x)) return INFINITY;
    diff += (x - y) * (x - y), size += y * y;
  }
  return std::sqrt(diff / size);
}

// The first token whose output is not that in `want`, when a sequence is read in steps of `chunk` tokens beside `others`.
int first_difference(Act act, const Case& c, const Rows& want, int chunk, bool decoding, int splits, int others) {
  Attention attention(act, c, 1 + others);
  for (int past = 0; past < Attention::kTokens; past += chunk) {
    const int tokens = std::min(chunk, Attention::kTokens - past);
    std::vector<Span> spans = {{0, past, tokens}};
    for (int s = 1; s <= others; ++s) {
      const int own = decoding ? 1 : 1 + s * 13 % 50;
      spans.push_back({s, past * s % (Attention::kTokens - 60), own});
    }
    const int64_t t = attention.step(spans, decoding, splits).first_difference(want, past, tokens);
    if (t >= 0) return past + static_cast<int>(t);
  }
  return -1;
}

// Small enough for compute-sanitizer.
TEST(DeviceInvariantSmall, Attention) {
  SKIP_WITHOUT_GPU();
  for (const Case& c : {Case{4, 2, 64, 0}, Case{4, 2, 64, 0, true}}) {
    const Act act = c.int8 ? Act::kF16 : Act::kBF16;
    const Rows want = Attention(act, c, 1).step({{0, 0, Attention::kTokens}}, false, 1);
    EXPECT_EQ(first_difference(act, c, want, 64, false, 1, 2), -1) << "in chunks of 64";
    EXPECT_EQ(first_difference(act, c, want, 1, true, 2, 2), -1) << "decoded";
  }
}

TEST(DeviceInvariant, AttentionOfAPositionIsTheSameInAnySteps) {
  SKIP_WITHOUT_GPU();
  for (const Act act : kActs)
    for (const Case& c : {Case{4, 2, 64, 0}, Case{9, 3, 64, 0}, Case{8, 1, 128, 0}, Case{16, 1, 96, 0}, Case{4, 4, 128, 33},
                          Case{6, 2, 64, 16}, Case{8, 2, 128, 150}, Case{9, 3, 64, 0, true}, Case{16, 1, 96, 0, true},
                          Case{4, 4, 128, 33, true}, Case{8, 2, 128, 150, true}}) {
      SCOPED_TRACE(fmt::format("{}, {} heads of {}, {} for keys, window {}, {} cache", name_of(act), c.heads, c.head_dim, c.kv_heads,
                               c.window, c.int8 ? "8-bit" : "16-bit"));
      const Rows want = Attention(act, c, 1).step({{0, 0, Attention::kTokens}}, false, 1);
      EXPECT_LT(distance(act, want, Attention(act, c, 1).step({{0, 0, Attention::kTokens}}, false, 1, false)), act == Act::kF16 ? 2e-3 : 1.6e-2)
          << "against the kernel of prompts without the mode";
      for (const int chunk : {1, 7, 64, 200})
        for (const int others : {0, 3})
          EXPECT_EQ(first_difference(act, c, want, chunk, false, 1, others), -1) << "in chunks of " << chunk << " beside " << others;
      for (const int splits : {1, 3, 32})
        for (const int others : {0, 5})
          EXPECT_EQ(first_difference(act, c, want, 1, true, splits, others), -1) << "decoded in " << splits << " splits beside " << others;
    }
}

}  // namespace
}  // namespace awq
