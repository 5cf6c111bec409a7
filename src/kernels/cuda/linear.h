// Linear layers y = x Wᵀ on an NVIDIA GPU, of packed weights (pack.h: 4-bit, 8-bit, NF4) or dense ones, run for any number of tokens.
#pragma once
#include <memory>

#include "kernels/cuda/cublas.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/pick.h"
#include "weights/quant_weight.h"

namespace awq::cuda {

// What the linears of one stream share: facts about the current device, and scratch memory, all of it
// allocated here, so that run() allocates nothing and can be captured into a graph. One stream uses a context
// at a time.
class Context {
 public:
  // invariant: linears sum in an order that depends on their shape alone, so that a token's results are the same for any number of
  // tokens, on any position among them and on any device of one kind. Throws kUnsupported without a CUDA device of compute capability
  // 8.0 or later, or where its blocks have too little shared memory for that.
  explicit Context(bool invariant = false);
  bool invariant() const { return invariant_; }
  const DeviceTraits& traits() const { return traits_; }
  const SplitWorkspace& split() const { return split_; }
  Cublas& cublas();            // opened at the first call; for a graph, call it before capturing
  void* dense(int64_t bytes);  // scratch for dequantized rows, kDenseBytes at most
  void* pairs(int64_t bytes);  // scratch for gates and ups before they meet; grows
  void* rounded(int64_t bytes);  // scratch for inputs as integers; grows
  static constexpr int64_t kDenseBytes = int64_t{256} << 20;

 private:
  bool invariant_;
  DeviceTraits traits_;
  Buffer partials_, flags_, dense_, pairs_, rounded_;
  SplitWorkspace split_;
  std::unique_ptr<Cublas> cublas_;
};

// A product on the device: x [tokens, in], 16-byte aligned, fp16 or bf16, and what becomes of it (launch.h). y [tokens, out] has
// rows of ldy elements of the same type, half as wide for Output::kGated, fp32 for kF32; columns beyond stay untouched.
struct Product {
  const void* x = nullptr;
  int64_t tokens = 0;  // may be 0
  void* y = nullptr;
  int64_t ldy = 0;
  Output output = Output::kAct;
  NormParts scaled;         // where x is what a ResidualOutput left (takes_pieces)
  ResidualOutput residual;  // of kResidual
  float eps = 0;            // of the norms
};

// silu(gate) * up of rows of both, whose outputs y [tokens, ldy] of `pairs` are.
void join_pairs(Act act, const Product& pairs, bool by_strips, void* y, cudaStream_t stream);
// A gated product as rows of gates and ups [tokens, out] in scratch, which run(whole) makes, met by a kernel of their own.
template <class Run>
void run_in_pairs(Context& context, Act act, const Product& product, int64_t out, bool by_strips, cudaStream_t stream, const Run& run) {
  check_internal(product.ldy == out / 2, "gated outputs apart from each other");
  Product whole = product;
  whole.y = context.pairs(product.tokens * out * 2), whole.ldy = out, whole.output = Output::kAct;
  run(whole);
  join_pairs(act, whole, by_strips, product.y, stream);
}
class Linear {
 public:
  // Uploads to the current device. Weights must not be written by work on a stream: run() fetches them before
  // the kernels in front of it have ended (programmatic dependent launch). Throws kUnsupported for what
  // pack.h does not take, kNoMemory when the device is full.
  explicit Linear(const QuantWeight& w);
  // A packed weight that lies on the device already, as pack.h lays it out; not owned.
  explicit Linear(const PackedView& view);

  // fp32 sums; the result is the same for every run on the same kind of device, but sums are ordered by the number of tokens unless
  // the context is invariant. kGated wants gates and ups stacked by strips (Output). Few tokens have more ways to go in and out.
  void run(Context& context, Act act, const Product& product, cudaStream_t stream) const;
  // Whether so few that norms come in pieces (Product::scaled, kResidual); never with an invariant context.
  bool takes_pieces(const Context& context, int64_t tokens) const;
  bool gives_f32(const Context& context, int64_t tokens) const { return context.invariant() || takes_pieces(context, tokens); }
  // As run(), by the way given: for the benchmark and the tests.
  void run(Context& context, const Choice& choice, Act act, const Product& product, cudaStream_t stream) const;

  int64_t out() const { return view_.out; }
  int64_t in() const { return view_.in; }
  int strips() const { return view_.strips(); }
  int64_t bytes() const { return view_.codes_bytes() + view_.scales_bytes(); }  // resident, what a decode step must read
  const PackedView& view() const { return view_; }

 private:
  void describe();  // codes for the tensor copy engine, in boxes of one and two blocks
  void run_invariant(Context& context, Act act, const Product& product, cudaStream_t stream) const;
  void run_dense(Context& context, Act act, const Product& product, cudaStream_t stream) const;

  PackedView view_;
  Buffer codes_, scales_;
  CUtensorMap maps_[2] = {};
};

// A dense weight [out, in] in the activations' type, rows one after the other; in and out multiples of 8. Few tokens go through
// gemv_dense.cuh, others to cuBLAS; with an invariant context all go through gemm_sm90.cuh, elsewhere than on Hopper through
// gemv_dense.cuh. kGated: the first half of the rows are gates.
class DenseLinear {
 public:
  DenseLinear(const void* w, int64_t out, int64_t in);  // on the device; not owned
  void run(Context& context, Act act, const Product& product, cudaStream_t stream) const;
  bool takes_pieces(const Context& context, int64_t tokens) const;
  int strips() const { return (view_.out + kStripRows - 1) / kStripRows; }

 private:
  bool few(const Context& context, int64_t tokens) const;  // so that gemv_dense.cuh takes them
  void run_invariant(Context& context, Act act, const Product& product, cudaStream_t stream) const;

  PackedView view_;
};

}  // namespace awq::cuda
