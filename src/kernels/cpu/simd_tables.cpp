// Chooses the kernel table of the instruction-set path in force.
#include "base/system.h"
#include "kernels/cpu/simd_table.h"

namespace awq::simd {

const Table& table() {
  switch (isa()) {
    case Isa::kPortable:
      return portable_table();
    case Isa::kAvx2:
      return avx2_table();
    case Isa::kAvx512:
      return avx512_table();
    case Isa::kAvx512Bf16:
      return avx512bf16_table();
  }
  return portable_table();
}

}  // namespace awq::simd
