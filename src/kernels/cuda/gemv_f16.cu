#include "kernels/cuda/gemv.cuh"

namespace awq::cuda {

cudaError_t launch_gemv_f16(int config, const LinearArgs& args, cudaStream_t stream) {
  return dispatch_gemv<__half, Format::kAffine4>(config, args, stream);
}

namespace {

template <Format F, int... Configs>
int shared_bytes(int config, int groups, std::integer_sequence<int, Configs...>) {
  int result = 0;
  ((config == Configs ? (void)(result = groups == 1   ? GemvOf<__half, F, Configs, 1>::kSharedBytes
                                        : groups == 2 ? GemvOf<__half, F, Configs, 2>::kSharedBytes
                                                      : GemvOf<__half, F, Configs, 4>::kSharedBytes)
                      : (void)0),
   ...);
  return result;
}
template <Format F>
int shared_bytes(int config, int groups) {
  return shared_bytes<F>(config, groups, std::make_integer_sequence<int, gemv_count(F)>());
}

}  // namespace

// The same for both activation types.
int gemv_shared_bytes(int config, const PackedView& w) {
  const int groups = w.groups_in(kUnitBlocks);
  switch (w.format) {
    case Format::kAffine8: return shared_bytes<Format::kAffine8>(config, groups);
    case Format::kNf4: return shared_bytes<Format::kNf4>(config, groups);
    default: return shared_bytes<Format::kAffine4>(config, groups);
  }
}

}  // namespace awq::cuda
