// The steps between the linears on the GPU, against the CPU's operations in fp32.
#include "kernels/cuda/step.h"

#include <fmt/core.h>

#include <algorithm>

#include "device_testing.h"
#include "kernels/ops.h"

namespace awq {
namespace {

using namespace testing;
using cuda::Act;
using cuda::Buffer;

constexpr Act kActs[] = {Act::kF16, Act::kBF16};
// One rounding of the result, and inputs of products rounded once more.
double bound(Act act) { return act == Act::kF16 ? 1e-3 : 8e-3; }

std::vector<float> widened(Act act, const std::vector<uint16_t>& x) {
  std::vector<float> y;
  for (const uint16_t h : x) y.push_back(from_act(act, h));
  return y;
}
template <class T>
std::vector<T> fetched(const Buffer& b) {
  std::vector<T> v(static_cast<size_t>(b.bytes()) / sizeof(T));
  b.download(v.data(), b.bytes());
  return v;
}
double distance(const std::vector<float>& got, const std::vector<float>& want) {
  EXPECT_EQ(got.size(), want.size());
  double diff = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    diff += (double{got[i]} - want[i]) * (double{got[i]} - want[i]), size += double{want[i]} * want[i];
  }
  return std::sqrt(diff / size);
}

struct Case {
  int heads, kv_heads, head_dim, window;
  bool norms, bias;
  bool int8 = false;
  float values = 1;  // their size
};

// Keys and values of a step in the device's 8-bit pages against those of the same step in a host's cache of fp32, which are replaced by
// what they were rounded to.
void take_rounded(const std::vector<uint8_t>& pages, const SpanView& span, const KvLayerView& host) {
  const int dim = static_cast<int>(host.head_dim), codes = cuda::int8_codes_bytes(dim);
  for (int64_t position = span.past; position < span.past + span.tokens; ++position)
    for (int64_t h = 0; h < host.kv_heads; ++h) {
      const int64_t page = span.pages[position / cuda::kCachePage];
      const int slot = static_cast<int>(position % cuda::kCachePage);
      const uint8_t* head = pages.data() + (page * host.kv_heads + h) * cuda::int8_head_bytes(dim);
      for (const bool value : {false, true}) {
        float scale, top = 0, off = 0;
        std::memcpy(&scale, head + 2 * codes + 4 * ((value ? cuda::kCachePage : 0) + slot), 4);
        const int64_t at = page * host.page_bytes() + (value ? host.page_bytes() / 2 : 0) + h * host.head_bytes();
        auto* exact = reinterpret_cast<float*>(host.base + at);
        for (int d = 0; d < dim; ++d) {
          const int code = head[value ? codes + cuda::int8_value_at(slot, d) : cuda::int8_key_at(slot, d)] - 128;
          float& x = exact[value ? slot * dim + d : d * cuda::kCachePage + slot];
          top = std::max(top, std::abs(x));
          off = std::max(off, std::abs(x - static_cast<float>(code) * scale));
          x = static_cast<float>(code) * scale;
        }
        ASSERT_NEAR(scale * 127 / top, 1, 1e-5) << "position " << position << ", head " << h << (value ? ", value" : ", key");
        ASSERT_LE(off, 0.502f * scale) << "position " << position << ", head " << h << (value ? ", value" : ", key");
      }
    }
}

// Three sequences read their prompt, then one more token each: rotation, cache, attention of both kinds. An 8-bit cache is compared
// element by element, and attention over it with the CPU's over the numbers it holds.
void expect_attention(Act act, const Case& c, int splits) {
  SCOPED_TRACE(fmt::format("{}, {} heads of {}, {} for keys, window {}, {} splits, {} cache, values of {}",
                           act == Act::kF16 ? "fp16" : "bf16", c.heads, c.head_dim, c.kv_heads, c.window, splits,
                           c.int8 ? "8-bit" : "16-bit", c.values));
  const std::vector<int> prompts = {75, 1, 200};
  constexpr int kPages = 16;
  const int width = (c.heads + 2 * c.kv_heads) * c.head_dim, group = c.heads / c.kv_heads;
  const auto q_gain = random_floats(c.head_dim, 3), k_gain = random_floats(c.head_dim, 4), bias = random_floats(width, 5);
  std::vector<double> inv_freq;
  for (int i = 0; i < c.head_dim / 2; ++i) inv_freq.push_back(std::pow(10000.0, -2.0 * i / c.head_dim));
  std::vector<int32_t> pages;
  for (int i = 0; i < 3 * kPages; ++i) pages.push_back((i * 7 + 3) % (3 * kPages));
  const Buffer d_q = upload(q_gain), d_k = upload(k_gain), d_bias = upload(bias), d_freq = upload(inv_freq),
               d_pages = upload(pages);
  cuda::CacheView view{nullptr, c.kv_heads, c.head_dim, c.int8};
  const Buffer storage(3 * kPages * view.page_bytes());
  view.base = storage.data();
  // In 8 bits what no token sees may be anything: here scales of NaN.
  cuda::check(cudaMemset(storage.data(), c.int8 ? 0xff : 0, static_cast<size_t>(storage.bytes())), "clearing");
  KvLayerView cache{nullptr, DType::kF32, c.kv_heads, c.head_dim};
  std::vector<std::byte> host(static_cast<size_t>(3 * kPages * cache.page_bytes()));
  cache.base = host.data();
  const cuda::Stream stream;

  for (const bool decoding : {false, true}) {
    std::vector<int32_t> positions, span_of;
    std::vector<cuda::DeviceSpan> spans;
    std::vector<SpanView> want_spans;
    std::vector<int2> tiles;
    for (int s = 0; s < 3; ++s) {
      const int past = decoding ? prompts[s] : 0, tokens = decoding ? 1 : prompts[s], first = static_cast<int>(positions.size());
      spans.push_back({first, tokens, past, s * kPages});
      want_spans.push_back({first, tokens, past, pages.data() + s * kPages});
      for (int t = 0; t < (tokens * group + 63) / 64; ++t) tiles.push_back({s, t});
      for (int i = 0; i < tokens; ++i) positions.push_back(past + i), span_of.push_back(s);
    }
    const int tokens = static_cast<int>(positions.size());
    auto numbers = random_floats(int64_t{tokens} * width, decoding ? 8 : 9);
    for (size_t i = 0; i < numbers.size(); ++i)
      if (static_cast<int>(i) % width >= (c.heads + c.kv_heads) * c.head_dim) numbers[i] *= c.values;
    const auto qkv = to_act(act, numbers);
    const Buffer d_qkv = upload(qkv), d_positions = upload(positions), d_span_of = upload(span_of), d_spans = upload(spans),
                 d_tiles = upload(tiles), y = upload(std::vector<uint16_t>(static_cast<size_t>(tokens * c.heads * c.head_dim), 0xffff)),
                 arrivals = upload(std::vector<uint32_t>(static_cast<size_t>(3 * c.kv_heads))),
                 partials(int64_t{tokens} * c.heads * splits * (c.head_dim + 2) * 4);
    const cuda::Batch batch{nullptr, d_positions.as<int>(), d_span_of.as<int>(), d_spans.as<cuda::DeviceSpan>(), d_pages.as<int>(),
                            tokens, 3};
    cuda::RopeArgs rope_args;
    rope_args.batch = batch, rope_args.qkv = d_qkv.data(), rope_args.bias = c.bias ? d_bias.as<float>() : nullptr;
    if (c.norms) rope_args.q_gain = d_q.as<float>(), rope_args.k_gain = d_k.as<float>();
    rope_args.inv_freq = d_freq.as<double>(), rope_args.pairs = c.head_dim / 2, rope_args.heads = c.heads;
    rope_args.magnitude = 1, rope_args.eps = 1e-5f, rope_args.cache = view;
    cuda::AttentionArgs args;
    args.batch = batch, args.cache = view, args.q = d_qkv.data(), args.y = y.data(), args.ldq = width;
    args.heads = c.heads, args.window = c.window, args.scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
    args.tiles = d_tiles.as<int2>(), args.tile_count = static_cast<int>(tiles.size());
    args.splits = splits, args.partials = partials.as<float>(), args.arrivals = arrivals.as<uint32_t>();
    if (decoding) {
      cuda::check(cuda::launch_attention_decode(act, args, rope_args, stream.get()), "attention");
    } else {
      cuda::check(cuda::launch_rope_cache(act, rope_args, stream.get()), "rotating");
      cuda::check(cuda::launch_attention_prefill(act, args, stream.get()), "attention");
    }
    stream.synchronize();

    std::vector<float> x = widened(act, qkv), want(static_cast<size_t>(tokens * c.heads * c.head_dim));
    float *k = x.data() + c.heads * c.head_dim, *v = k + c.kv_heads * c.head_dim;
    if (c.bias) add_bias(x.data(), width, bias.data(), tokens, width);
    for (int t = 0; t < tokens && c.norms; ++t) {
      float *q_row = x.data() + t * width, *k_row = k + t * width;
      rms_norm(q_row, q_gain.data(), 0, 1e-5f, c.heads, c.head_dim, q_row);
      rms_norm(k_row, k_gain.data(), 0, 1e-5f, c.kv_heads, c.head_dim, k_row);
    }
    rope(x.data(), width, tokens, c.heads, c.head_dim, positions, inv_freq, 1);
    rope(k, width, tokens, c.kv_heads, c.head_dim, positions, inv_freq, 1);
    kv_write(cache, want_spans, k, v, width);
    if (c.int8) {
      const auto stored = fetched<uint8_t>(storage);
      for (const SpanView& span : want_spans) take_rounded(stored, span, cache);
      for (float& value : x) value = from_act(act, to_act(act, value));  // queries are operands
    }
    attention_paged({c.heads, c.kv_heads, c.head_dim, args.scale, c.window}, cache, want_spans, x.data(), width, want.data());
    EXPECT_LT(distance(widened(act, fetched<uint16_t>(y)), want), (c.int8 ? 0.7 : 2) * bound(act)) << (decoding ? "decode" : "prefill");
    EXPECT_EQ(fetched<uint32_t>(arrivals), std::vector<uint32_t>(static_cast<size_t>(3 * c.kv_heads))) << "as they were";
  }
}

TEST(DeviceStep, AttentionOverTheCache) {
  SKIP_WITHOUT_GPU();
  for (const Act act : kActs)
    for (const Case& c : {Case{4, 2, 64, 0, false, false}, Case{9, 3, 64, 0, false, true}, Case{8, 1, 128, 0, true, false},
                          Case{16, 1, 96, 0, false, false}, Case{4, 4, 128, 33, true, true}, Case{6, 2, 64, 16, false, false}})
      for (const int splits : {1, 3, 32}) expect_attention(act, c, splits);
}

TEST(DeviceStep, AttentionOverAnInt8Cache) {
  SKIP_WITHOUT_GPU();
  for (const Act act : kActs)
    for (Case c : {Case{4, 2, 64, 0, false, false}, Case{9, 3, 64, 0, false, true}, Case{8, 1, 128, 0, true, false},
                   Case{16, 1, 96, 0, false, false}, Case{4, 4, 128, 33, true, true}, Case{6, 2, 64, 16, false, false}}) {
      c.int8 = true;
      for (const int splits : {1, 3, 32}) expect_attention(act, c, splits);
    }
  // Weights times scales of values as small as these are below what fp16 holds.
  for (const Act act : kActs) expect_attention(act, {8, 2, 128, 0, false, false, true, 1.0f / 256}, 3);
}

TEST(DeviceStep, AddsAndNormalises) {
  SKIP_WITHOUT_GPU();
  const cuda::Stream stream;
  for (const Act act : kActs)
    for (const int dim : {64, 576, 4096, 8192 + 40}) {
      const int tokens = 5;
      auto x = random_floats(tokens * dim, 1);
      const auto delta = to_act(act, random_floats(tokens * dim, 2));
      const auto gain = random_floats(dim, 3), bias = random_floats(dim, 4);
      const Buffer d_x = upload(x), d_delta = upload(delta), d_gain = upload(gain), d_bias = upload(bias), y(tokens * dim * 2),
                   y32(tokens * dim * 4);
      cuda::check(cuda::launch_add_norm(act, {d_x.as<float>(), d_delta.data(), d_bias.as<float>(), d_gain.as<float>(), y.data(),
                                              y32.as<float>(), tokens, dim, 1e-5f}, stream.get()), "a norm");
      stream.synchronize();
      std::vector<float> want(x.size());
      for (size_t i = 0; i < x.size(); ++i) x[i] += from_act(act, delta[i]) + bias[i % dim];
      rms_norm(x.data(), gain.data(), 0, 1e-5f, tokens, dim, want.data());
      EXPECT_LT(distance(fetched<float>(d_x), x), 1e-6);
      EXPECT_LT(distance(fetched<float>(y32), want), 1e-5);
      EXPECT_LT(distance(widened(act, fetched<uint16_t>(y)), want), bound(act));
    }
}

TEST(DeviceStep, EmbedsAndGates) {
  SKIP_WITHOUT_GPU();
  const cuda::Stream stream;
  for (const Act act : kActs) {
    const int dim = 200, tokens = 7;
    const auto table = to_act(act, random_floats(50 * dim, 1)), gate_up = to_act(act, random_floats(tokens * 2 * dim, 2));
    const auto bias = random_floats(2 * dim, 3);
    const std::vector<int32_t> ids = {0, 49, 3, 3, 17, 20, 1};
    const Buffer d_table = upload(table), d_ids = upload(ids), rows(tokens * dim * 4), d_gate = upload(gate_up),
                 d_bias = upload(bias), y(tokens * dim * 2);
    cuda::Batch batch;
    batch.ids = d_ids.as<int>(), batch.tokens = tokens;
    const auto gain = random_floats(dim, 4);
    const Buffer d_gain = upload(gain), x(tokens * dim * 2), parts(tokens * (cuda::kEmbedParts + 1) * 4), again(tokens * dim * 4);
    const cuda::EmbedArgs embed{batch, d_table.data(), dim, rows.as<float>(), x.data(), d_gain.as<float>(),
                                {parts.as<float>(), cuda::kEmbedParts}};
    cuda::check(cuda::launch_embed(act, embed, stream.get()), "embedding");
    cuda::check(cuda::launch_embed(act, {batch, d_table.data(), dim, again.as<float>(), nullptr, nullptr, {}}, stream.get()), "embedding");
    cuda::check(cuda::launch_silu_mul(act, d_gate.data(), d_bias.as<float>(), false, tokens, dim, y.data(), stream.get()), "SwiGLU");
    stream.synchronize();
    const auto got = fetched<float>(rows);
    for (int t = 0; t < tokens; ++t)
      for (int i = 0; i < dim; ++i) ASSERT_EQ(got[t * dim + i], from_act(act, table[ids[t] * dim + i]));
    EXPECT_TRUE(same_bits(got, fetched<float>(again)));
    const auto got_x = fetched<uint16_t>(x);
    const auto got_parts = fetched<float>(parts);
    for (int t = 0; t < tokens; ++t) {
      double all = 0, squares = 0;
      for (int i = 0; i < dim; ++i) {
        ASSERT_EQ(got_x[t * dim + i], to_act(act, got[t * dim + i] * gain[i]));
        squares += double{got[t * dim + i]} * got[t * dim + i];
      }
      for (int i = 0; i < cuda::kEmbedParts; ++i) all += got_parts[t * (cuda::kEmbedParts + 1) + i];
      EXPECT_NEAR(all / squares, 1, 1e-5);
      EXPECT_EQ(got_parts[t * (cuda::kEmbedParts + 1) + cuda::kEmbedParts], 1);
    }
    auto pairs = widened(act, gate_up);
    for (size_t i = 0; i < pairs.size(); ++i) pairs[i] += bias[i % (2 * dim)];
    std::vector<float> want(static_cast<size_t>(tokens * dim));
    silu_mul(pairs.data(), tokens, dim, want.data());
    EXPECT_LT(distance(widened(act, fetched<uint16_t>(y)), want), bound(act));
  }
}

TEST(DeviceStep, ArgmaxTakesTheFirstOfEquals) {
  SKIP_WITHOUT_GPU();
  const cuda::Stream stream;
  const int rows = 3, vocab = 50021;
  auto logits = random_floats(rows * vocab, 1);
  logits[40000] = logits[123] = logits[33000] = 99;
  logits[vocab + vocab - 1] = 99;
  logits[2 * vocab] = 99;
  const Buffer d = upload(logits), scratch = upload(std::vector<uint32_t>(rows * cuda::kArgmaxScratch));
  for (int i = 0; i < 3; ++i) {
    const Buffer ids(rows * 4);
    cuda::check(cuda::launch_argmax(d.as<float>(), rows, vocab, scratch.as<uint32_t>(), ids.as<int>(), stream.get()), "argmax");
    stream.synchronize();
    EXPECT_EQ(fetched<int32_t>(ids), (std::vector<int32_t>{123, vocab - 1, 0})) << "run " << i;
  }
}

TEST(DeviceStep, OutputLayerOf8Bits) {
  SKIP_WITHOUT_GPU();
  const cuda::Stream stream;
  const QuantWeight w = random_quant(1003, 576, 8, 64, true, DType::kF16, 5);
  std::vector<float> zeros(w.zeros.begin(), w.zeros.end());
  const Buffer codes = upload(w.codes), scales = upload(w.scales), d_zeros = upload(zeros);
  for (const Act act : kActs)
    for (const int tokens : {1, 2, 5, 8}) {
      const auto x = to_act(act, random_floats(tokens * 576, 6));
      const Buffer d_x = upload(x), y(tokens * 1003 * 4);
      cuda::check(cuda::launch_head8(act, codes.as<uint8_t>(), scales.as<float>(), d_zeros.as<float>(), 1003, 576, 64, d_x.data(),
                                     tokens, y.as<float>(), stream.get()), "the output layer");
      stream.synchronize();
      const auto exact = exact_product(w, act, x, tokens);
      EXPECT_LT(distance(fetched<float>(y), {exact.begin(), exact.end()}), 1e-5);
    }
}

}  // namespace
}  // namespace awq
