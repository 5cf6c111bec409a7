// The words of --precision, --load-in, --device, --kv-dtype and --head-bits.
#include "model/load_words.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace awq {
namespace {

template <class Call>
std::string refusal(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kBadArgument);
    return error.what();
  }
  return "";
}

TEST(LoadWords, EachIsWhatItsTableSays) {
  for (const auto& [text, meaning] : kPrecisionWords) EXPECT_EQ(precision_named(text), meaning);
  for (const auto& [text, meaning] : kLoadInWords) EXPECT_EQ(load_in_named(text), meaning);
  for (const auto& [text, meaning] : kDeviceWords) EXPECT_EQ(device_named(text), meaning);
  for (const auto& [text, meaning] : kKvDtypeWords) EXPECT_EQ(kv_dtype_named(text), meaning);
  for (const int bits : kHeadBits) check_head_bits(bits);
  EXPECT_EQ(load_in_named(""), LoadIn::kStored);
}

TEST(LoadWords, OthersAreRefusedWithThoseThatAreExpected) {
  EXPECT_EQ(refusal([] { precision_named("Fast"); }), "precision: expected fast, exact or bf16, got 'Fast'");
  EXPECT_EQ(refusal([] { load_in_named("nf"); }), "load_in: expected nf4, rtn or int8, got 'nf'");
  EXPECT_EQ(refusal([] { device_named(""); }), "device: expected auto, cpu or cuda, got ''");
  EXPECT_EQ(refusal([] { kv_dtype_named("f16"); }),
            "kv_dtype: expected float16, bfloat16, float32 or int8, got 'f16'");
  EXPECT_EQ(refusal([] { check_head_bits(16); }), "head_bits: expected 0, 4 or 8, got 16");
}

}  // namespace
}  // namespace awq
