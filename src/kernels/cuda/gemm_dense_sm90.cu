#include "kernels/cuda/gemm_sm90.cuh"

namespace awq::cuda {
namespace {

template <class T, int... Configs>
cudaError_t dispatch(int config, const LinearArgs& args, const GemmPlan& plan, const CUtensorMap& w_map, const CUtensorMap& x_map,
                     cudaStream_t stream, std::integer_sequence<int, Configs...>) {
  cudaError_t error = cudaErrorInvalidValue;
  const auto run = [&]<int Config>() {
    constexpr GemmConfig c = kDenseGemmConfigs[Config];
    using S = GemmShape<T, c.tokens, c.blocks, c.stages, 0>;
    return launch_kernel(gemm_sm90_kernel<S>, args.overlap, {plan.workers, kGemmThreads, 1}, S::kSharedBytes, stream, args, plan, w_map,
                         x_map);
  };
  ((config == Configs ? (void)(error = run.template operator()<Configs>()) : (void)0), ...);
  return error;
}

}  // namespace

cudaError_t launch_gemm_dense_sm90(int config, Act act, const LinearArgs& args, const GemmPlan& plan, const CUtensorMap& w_map,
                                   const CUtensorMap& x_map, cudaStream_t stream) {
  const std::make_integer_sequence<int, kDenseGemmCount> configs;
  return act == Act::kF16 ? dispatch<__half>(config, args, plan, w_map, x_map, stream, configs)
                          : dispatch<__nv_bfloat16>(config, args, plan, w_map, x_map, stream, configs);
}

}  // namespace awq::cuda
