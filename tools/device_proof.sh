#!/usr/bin/env bash
# Everything that needs a GPU, in one call: the device tests, the tests under compute-sanitizer, and the table of
# docs/benchmarks.md. Usage: tools/device_proof.sh [FOLDER with the three programs] [TOKENS]
# Build them first, on any machine with nvcc:  ninja -C build test_device cuda_linear_bench cuda_quant_bench
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-}
tokens=${2:-1,4,16,64,256,1024,4096}
find_program() {
  local candidate
  for candidate in ${folder:+"$folder/$1"} "$here/build/$1" "$here/build/tests/$1"; do
    [[ -x $candidate ]] && { echo "$candidate"; return; }
  done
  echo "device_proof: $1 is not built" >&2
  exit 1
}
tests=$(find_program test_device)
bench=$(find_program cuda_linear_bench)
quant_bench=$(find_program cuda_quant_bench)
if ! nvidia-smi -L 2>/dev/null; then
  echo "no CUDA device"
  exit 1
fi

echo "== tests"
"$tests" --gtest_brief=1
echo "== 4-bit linears"
"$bench" "$tokens"
echo "== quantizing, 8B shape"
"$quant_bench"

# The sanitizers slow kernels down by orders of magnitude: tests that run every kernel on small matrices, and one model.
for tool in memcheck racecheck; do
  echo "== compute-sanitizer $tool"
  timeout 200 compute-sanitizer --tool "$tool" --error-exitcode 9 "$tests" --gtest_brief=1 \
    --gtest_filter='DeviceLinearSmall.*:DeviceDenseSmall.*:DeviceLinear.DequantizesExactly:DeviceStep.*:DeviceModel.LlamaWithGroupedQueries:DeviceQuant.ScalesColumnsRowsAndGramMatrices:DeviceQuant.Degenerate*:DeviceBlockRunner.*:DeviceInt8.GatedProducts:DeviceInt8.SameBits*:DeviceInvariantSmall.*:DeviceInvariant.RowsOf8Bit*:DeviceSample.LeavesRows*' 2>&1 | grep -v '^$' | tail -n 12
done
