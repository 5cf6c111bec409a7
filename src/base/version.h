// The version of this release, as printed by `awq --version` and recorded in what awq writes. Equal to
// project() in CMakeLists.txt; .ci/run compares the two.
#pragma once

namespace awq {

inline constexpr const char* kVersion = "0.1.0";

}  // namespace awq
