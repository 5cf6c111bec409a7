#include "model/cuda/device_linear.h"

#include <cuda_runtime_api.h>

#include <algorithm>

#include "kernels/cuda/pack.h"
#include "kernels/cuda/step.h"

namespace awq {

using cuda::Act;
using cuda::Buffer;
using cuda::check;

void check_runs_on_device(const ModelConfig& c) {
  if (c.norm_offset != 0 || c.activation != Activation::kSilu || c.window_rope)
    fail(Code::kUnsupported, "--device cuda: model_type '{}' is not supported there yet; use --device cpu", c.model_type);
  if (!cuda::attention_takes(static_cast<int>(c.head_dim), static_cast<int>(c.heads), static_cast<int>(c.kv_heads)))
    fail(Code::kUnsupported,
         "--device cuda: {} heads of {} elements for {} key/value heads: expected heads of 64, 96 or 128 elements and at most "
         "16 of them for one key/value head",
         c.heads, c.head_dim, c.kv_heads);
  if (c.rope.depends_on_length())
    fail(Code::kUnsupported, "--device cuda: rope type '{}' is not supported there yet", rope_type_name(c.rope.type));
}

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

Buffer cleared(int64_t bytes) {
  Buffer b(bytes);
  check(cudaMemset(b.data(), 0, static_cast<size_t>(bytes)), "clearing device memory");
  check(cudaDeviceSynchronize(), "clearing device memory");
  return b;
}

Buffer uploaded_f32(const Tensor& t) { return t.empty() ? Buffer() : uploaded(t.to_f32()); }

const char* DeviceLinear::kernel() const {
  if (!packed) return int8 ? "cuda-w8a8" : nullptr;
  switch (packed->view().format) {
    case cuda::Format::kAffine8: return "cuda-w8";
    case cuda::Format::kNf4: return "cuda-nf4";
    default: return "cuda-w4";
  }
}

namespace {

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

// A gate and its `up` in strips of 8 and 8 rows, as Output::kGated wants them.
QuantWeight paired(const QuantWeight& gate, const QuantWeight& up) {
  QuantWeight all = gate;
  all.rows = 2 * gate.rows;
  const auto pair = [&](auto& to, const auto& a, const auto& b) {
    const auto chunk = static_cast<ptrdiff_t>(a.size() / static_cast<size_t>(gate.rows) * 8);
    to.clear();
    to.reserve(2 * a.size());
    for (auto x = a.begin(), y = b.begin(); x != a.end(); x += chunk, y += chunk) to.insert(to.end(), x, x + chunk), to.insert(to.end(), y, y + chunk);
  };
  pair(all.codes, gate.codes, up.codes);
  pair(all.scales, gate.scales, up.scales);
  pair(all.zeros, gate.zeros, up.zeros);
  return all;
}

// Whether all parts are quantized alike, in a way that a kernel takes.
bool stored_alike(const std::vector<const WeightSource*>& parts) {
  const auto* first = std::get_if<QuantWeight>(parts[0]);
  if (first == nullptr || !(cuda::packed_format(*first) || cuda::Int8Linear::takes(*first))) return false;
  return std::all_of(parts.begin(), parts.end(), [&](const WeightSource* source) {
    const auto* q = std::get_if<QuantWeight>(source);
    return q != nullptr && q->scheme == first->scheme && q->scale_dtype == first->scale_dtype;
  });
}

}  // namespace

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
  const bool alike = stored_alike(parts);
  if (alike) {
    std::vector<const QuantWeight*> quantized;
    for (const WeightSource* p : parts) quantized.push_back(&std::get<QuantWeight>(*p));
    linear.gated = site == Site::kMlpIn && !biased && parts.size() == 2 && quantized[0]->rows == quantized[1]->rows && quantized[0]->rows % 8 == 0;
    const QuantWeight whole = quantized.size() == 1 ? *quantized[0]
                              : linear.gated        ? paired(*quantized[0], *quantized[1])
                                                    : stacked(quantized);
    if (cuda::Int8Linear::takes(whole))
      linear.int8.emplace(whole);
    else
      linear.packed.emplace(whole);
  } else {
    linear.gated = site == Site::kMlpIn && !biased && linear.out % 16 == 0;
    linear.rows = Buffer(linear.out * linear.in * 2);
    linear.dense.emplace(linear.rows.data(), linear.out, linear.in);
    int64_t offset = 0;
    for (const LinearSpec& l : spec.linears) {
      if (l.reads != site) continue;
      const auto* stored = std::get_if<Tensor>(&weights.weights.at(l.module));
      const Tensor t = stored != nullptr && stored->dtype() == act_dtype(act) ? *stored : weights.dense(l.module).to(act_dtype(act));
      put(linear.rows, offset, t.bytes(), t.nbytes());
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

}  // namespace awq
