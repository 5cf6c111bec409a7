#include "kernels/cuda/gemv.cuh"

namespace awq::cuda {

cudaError_t launch_gemv_f16(int config, const LinearArgs& args, cudaStream_t stream) {
  return dispatch_gemv<__half>(config, args, stream, std::make_integer_sequence<int, kGemvCount>());
}

// The same for both activation types.
int gemv_shared_bytes(int config, const PackedView& w) {
  const auto bytes = [&]<int... Configs>(std::integer_sequence<int, Configs...>) {
    const int groups = w.groups_in(kUnitBlocks);
    int result = 0;
    ((config == Configs ? (void)(result = groups == 1   ? GemvOf<__half, Configs, 1>::kSharedBytes
                                          : groups == 2 ? GemvOf<__half, Configs, 2>::kSharedBytes
                                                        : GemvOf<__half, Configs, 4>::kSharedBytes)
                        : (void)0),
     ...);
    return result;
  };
  return bytes(std::make_integer_sequence<int, kGemvCount>());
}

}  // namespace awq::cuda
