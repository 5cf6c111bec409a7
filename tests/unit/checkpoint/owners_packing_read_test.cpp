// Linears packed by compressed-tensors' and bitsandbytes' own Python code (tools/read_back.py --record):
// decoded to the weights those packages mean.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "formats/safetensors.h"
#include "weights/packing.h"

namespace awq {
namespace {

StoredForm form_named(const std::string& name) {
  for (const StoredForm form : {StoredForm::kPackQuantized, StoredForm::kBnbNf4, StoredForm::kBnbInt8})
    if (name == form_name(form)) return form;
  throw std::runtime_error("unknown form " + name);
}

TEST(OwnersPacking, IsDecodedToTheOwnersWeights) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(AWQ_TEST_DATA "/packing")) {
    if (entry.path().extension() != ".safetensors") continue;
    SCOPED_TRACE(entry.path().filename().string());
    const auto file = SafetensorsFile::open(entry.path());
    const auto settings = nlohmann::json::parse(file->metadata().at("settings"));
    const auto find = [&](std::string_view suffix) { return file->find("m" + std::string(suffix)); };
    const PartSource parts{[&](std::string_view s) { return find(s) != nullptr; },
                           [&](std::string_view s) -> Tensor {
                             if (find(s) == nullptr) fail(Code::kNotFound, "m{}: missing", s);
                             return file->tensor(*find(s));
                           }};
    const FormHints hints{settings.at("bits").get<int>(), settings.at("group").get<int>(), 6.0f};
    const std::string form = settings.at("form");
    const QuantWeight w = decode_weight(form_named(form), parts, hints, "m");
    check_consistent(w);
    EXPECT_EQ(w.scheme.bits, hints.bits);
    EXPECT_EQ(w.scheme.group_size(w.cols), hints.group < 0 ? w.cols : hints.group);
    const Tensor expected = file->tensor(*file->find("expected"));
    ASSERT_EQ(expected.shape(), (Shape{w.rows, w.cols}));
    std::vector<float> got(static_cast<size_t>(expected.numel()));
    dequantize(w, got.data());
    // compressed-tensors: the same product, equal. bitsandbytes multiplies in another order.
    const float tolerance = form == "pack-quantized" ? 0.0f : 4e-7f;
    for (int64_t i = 0; i < expected.numel(); ++i) {
      const float want = expected.f32()[i];
      ASSERT_LE(std::fabs(got[i] - want), tolerance * std::max(1.0f, std::fabs(want))) << i;
    }
    ++files;
  }
  EXPECT_EQ(files, 7);
}

}  // namespace
}  // namespace awq
