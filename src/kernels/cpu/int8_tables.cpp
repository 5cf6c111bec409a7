// Chooses the table of the int8 products.
#include <sys/syscall.h>
#include <unistd.h>

#include "base/system.h"
#include "kernels/cpu/int8_table.h"

namespace awq::simd {

// Linux hands out the tile registers (8 KiB of state per thread) only to processes that ask: arch_prctl(2).
bool amx_permitted() {
  constexpr int kArchReqXcompPerm = 0x1023, kXfeatureXtileData = 18;
  static const bool granted = __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-int8") &&
                              ::syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtileData) == 0;
  return granted;
}

const Int8Table& int8_table() {
  if (isa() >= Isa::kAvx512 && __builtin_cpu_supports("avx512vnni"))
    return isa() >= Isa::kAvx512Bf16 && amx_permitted() ? int8_amx() : int8_avx512vnni();
  if (isa() >= Isa::kAvx2) return __builtin_cpu_supports("avxvnni") ? int8_avxvnni() : int8_avx2();
  return int8_portable();
}

}  // namespace awq::simd
