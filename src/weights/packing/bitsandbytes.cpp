// bitsandbytes (docs/formats.md, section f).
//
//   nf4    weight [rows * cols/2, 1] U8: two codes in a byte, the first in the high nibble
//          weight.absmax [blocks] U8: the block's scale less the mean of all, as an index into
//          nested_quant_map times
//            nested_absmax [blocks/256] F32 of its 256 blocks ("double quantization")
//          weight.quant_map [16] F32; weight.nested_quant_map [256] F32
//          weight.quant_state.bitsandbytes__nf4 U8: a JSON text with the mean and the shape
//   int8   weight [rows, cols] I8; SCB [rows] F32 = the largest |w| of the row; weight_format U8 = 0. w =
//   code * SCB / 127
#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "weights/packing/parts.h"

namespace awq::packing {
namespace {

constexpr int kNf4Block = 64;         // any of 32 ... 4096 is read
constexpr int64_t kNested = 256;      // blocks sharing a scale of scales
constexpr int64_t kStateBytes = 320;  // the JSON text, padded with spaces so that sizes are known beforehand
constexpr const char* kState = ".weight.quant_state.bitsandbytes__nf4";

// bitsandbytes' "dynamic" 8-bit map, signed: for each exponent i of seven, 2^i fractions, the middles of
// equal parts of [0.1, 1], times 10^(i-6); both signs, 0 and 1 (functional.py, create_dynamic_map).
std::array<float, 256> dynamic_map() {
  std::array<float, 256> map{};
  size_t n = 0;
  for (int i = 0; i < 7; ++i) {
    const int items = 1 << i;
    const float power = static_cast<float>(std::pow(10.0, i - 6));
    // torch.linspace: from both ends, in float.
    const float step = (1.0f - 0.1f) / static_cast<float>(items);
    const auto boundary = [&](int j) {
      return j < (items + 1) / 2 ? 0.1f + step * static_cast<float>(j)
                                 : 1.0f - step * static_cast<float>(items - j);
    };
    for (int j = 0; j < items; ++j) {
      const float middle = (boundary(j) + boundary(j + 1)) / 2 * power;
      map[n++] = middle;
      map[n++] = -middle;
    }
  }
  map[n++] = 0;
  map[n++] = 1;
  std::sort(map.begin(), map.end());
  return map;
}

size_t nearest(const std::array<float, 256>& map, float x) {
  const auto upper = static_cast<size_t>(std::lower_bound(map.begin(), map.end(), x) - map.begin());
  if (upper == 0) return 0;
  if (upper == map.size()) return upper - 1;
  return x - map[upper - 1] <= map[upper] - x ? upper - 1 : upper;
}

std::string nf4_refusal(const Scheme& s, int64_t rows, int64_t cols) {
  if (s.code != CodeKind::kNf4 || s.activations != Activations::kFloat || s.group != kNf4Block)
    return fmt::format("{}, expected nf4g{}", s.text(), kNf4Block);
  if (cols % kNf4Block != 0) return fmt::format("{} inputs are not a multiple of {}", cols, kNf4Block);
  return rows < 1 ? "no outputs" : "";
}

std::vector<StoredPart> nf4_parts(const Scheme&, int64_t rows, int64_t cols, DType) {
  const int64_t blocks = rows * cols / kNf4Block;
  return {{".weight", DType::kU8, {rows * cols / 2, 1}},
          {".weight.absmax", DType::kU8, {blocks}},
          {".weight.quant_map", DType::kF32, {kNf4Codes}},
          {".weight.nested_absmax", DType::kF32, {(blocks + kNested - 1) / kNested}},
          {".weight.nested_quant_map", DType::kF32, {256}},
          {kState, DType::kU8, {kStateBytes}}};
}

Tensor state_text(const QuantWeight& w, float offset, DType dense) {
  const nlohmann::ordered_json json = {{"quant_type", "nf4"},
                                       {"blocksize", kNf4Block},
                                       {"dtype", dense == DType::kBF16 ? "bfloat16" : "float16"},
                                       {"shape", {w.rows, w.cols}},
                                       {"nested_blocksize", kNested},
                                       {"nested_dtype", "float32"},
                                       {"nested_offset", static_cast<double>(offset)}};
  std::string text = json.dump();
  check_internal(static_cast<int64_t>(text.size()) <= kStateBytes,
                 "bitsandbytes' quant_state is longer than planned");
  text.resize(kStateBytes, ' ');
  Tensor out(DType::kU8, {kStateBytes});
  std::memcpy(out.mutable_bytes(), text.data(), text.size());
  return out;
}

std::vector<EncodedPart> encode_nf4(const QuantWeight& w, DType dense) {
  const auto blocks = static_cast<int64_t>(w.scales.size()), nested = (blocks + kNested - 1) / kNested;
  Tensor codes(DType::kU8, {w.rows * w.cols / 2, 1}), absmax(DType::kU8, {blocks});
  auto* bytes = codes.mutable_data<uint8_t>();
  for (int64_t i = 0; i < codes.numel(); ++i)
    bytes[i] = static_cast<uint8_t>(w.codes[2 * i] << 4 | w.codes[2 * i + 1]);

  double sum = 0;
  for (const float s : w.scales) sum += s;
  const auto offset = static_cast<float>(sum / static_cast<double>(blocks));
  const auto map = dynamic_map();
  std::vector<float> largest(static_cast<size_t>(nested), 0.0f);
  for (int64_t b = 0; b < blocks; ++b)
    largest[b / kNested] = std::max(largest[b / kNested], std::fabs(w.scales[b] - offset));
  for (int64_t b = 0; b < blocks; ++b) {
    const float top = largest[b / kNested];
    absmax.mutable_data<uint8_t>()[b] =
        static_cast<uint8_t>(nearest(map, top > 0 ? (w.scales[b] - offset) / top : 0.0f));
  }
  return {{".weight", std::move(codes)},
          {".weight.absmax", std::move(absmax)},
          {".weight.quant_map", floats_as({kNf4Values, kNf4Values + kNf4Codes}, {kNf4Codes}, DType::kF32)},
          {".weight.nested_absmax", floats_as(largest, {nested}, DType::kF32)},
          {".weight.nested_quant_map", floats_as({map.begin(), map.end()}, {256}, DType::kF32)},
          {kState, state_text(w, offset, dense)}};
}

// What the JSON text says; kBadFile for anything else than nf4 with plausible numbers.
struct Nf4State {
  int64_t block = 0, rows = 0, cols = 0, nested_block = kNested;
  float offset = 0;
};

Nf4State parse_state(const Tensor& t, const std::string& name) {
  const auto wrong = [&](const char* what) { fail(Code::kBadFile, "{}{}: expected {}", name, kState, what); };
  if (t.dtype() != DType::kU8 || t.numel() > 1 << 16) wrong("a JSON text as U8");
  const char* begin = reinterpret_cast<const char*>(t.bytes());
  const auto json = nlohmann::json::parse(begin, begin + t.nbytes(), nullptr, false);
  if (!json.is_object() || !json.contains("quant_type") || json["quant_type"] != "nf4")
    wrong("an object of quant_type nf4");
  const auto integer = [&](const nlohmann::json& v) -> int64_t {
    if (!v.is_number_integer() || v < 1 || v > int64_t{1} << 40) wrong("positive integers for sizes");
    return v.get<int64_t>();
  };
  Nf4State s;
  if (!json.contains("blocksize") || !json.contains("shape") || !json["shape"].is_array() ||
      json["shape"].size() != 2)
    wrong("blocksize and a shape of two numbers");
  s.block = integer(json["blocksize"]);
  s.rows = integer(json["shape"][0]);
  s.cols = integer(json["shape"][1]);
  if (json.contains("nested_blocksize")) s.nested_block = integer(json["nested_blocksize"]);
  if (json.contains("nested_offset")) {
    if (!json["nested_offset"].is_number()) wrong("a number for nested_offset");
    s.offset = json["nested_offset"].get<float>();
  }
  return s;
}

std::vector<float> nested_scales(const PartSource& source, const Nf4State& s, int64_t blocks,
                                 const std::string& name) {
  const Tensor absmax = source.load(".weight.absmax");
  if (absmax.dtype() == DType::kF32) return read_floats(absmax, {blocks}, name, ".weight.absmax");
  expect_part(absmax, DType::kU8, {blocks}, name, ".weight.absmax");
  const auto map =
      read_floats(source.load(".weight.nested_quant_map"), {256}, name, ".weight.nested_quant_map");
  const int64_t nested = (blocks + s.nested_block - 1) / s.nested_block;
  const auto largest =
      read_floats(source.load(".weight.nested_absmax"), {nested}, name, ".weight.nested_absmax");
  std::vector<float> out(static_cast<size_t>(blocks));
  for (int64_t b = 0; b < blocks; ++b)
    out[b] = map[static_cast<uint8_t>(absmax.bytes()[b])] * largest[b / s.nested_block] + s.offset;
  return out;
}

QuantWeight decode_nf4(const PartSource& source, const FormHints&, const std::string& name) {
  const Nf4State s = parse_state(source.load(kState), name);
  const Tensor codes = source.load(".weight");
  // rows and cols are at most 2^40: bounded by the bytes that are there before they are multiplied.
  if (s.rows > 2 * codes.numel() || s.cols > 2 * codes.numel() / s.rows ||
      s.rows * s.cols != 2 * codes.numel())
    fail(Code::kBadFile, "{}.weight: expected {} x {} codes of 4 bits, got {} bytes", name, s.rows, s.cols,
         codes.nbytes());
  expect_part(codes, DType::kU8, codes.shape(), name, ".weight");
  if (s.cols % s.block != 0)
    fail(Code::kUnsupported, "{}: blocks of {} straddle rows of {} inputs", name, s.block, s.cols);
  QuantWeight w;
  w.rows = s.rows;
  w.cols = s.cols;
  w.scheme = {CodeKind::kNf4, 4, static_cast<int>(s.block), ZeroKind::kNone};
  w.scale_dtype = DType::kF32;
  const auto map = read_floats(source.load(".weight.quant_map"), {kNf4Codes}, name, ".weight.quant_map");
  if (!std::equal(map.begin(), map.end(), kNf4Values))
    fail(Code::kUnsupported, "{}.weight.quant_map: expected the NF4 table, got another", name);
  w.scales = nested_scales(source, s, s.rows * (s.cols / s.block), name);
  w.codes.resize(static_cast<size_t>(s.rows * s.cols));
  for (int64_t i = 0; i < codes.numel(); ++i) {
    const auto byte = static_cast<uint8_t>(codes.bytes()[i]);
    w.codes[2 * i] = byte >> 4;
    w.codes[2 * i + 1] = byte & 15;
  }
  return w;
}

// --- int8

constexpr int kMiddle = 128;

std::string int8_refusal(const Scheme& s, int64_t, int64_t cols) {
  const bool fits =
      s.code == CodeKind::kAffine && s.bits == 8 && s.zero == ZeroKind::kNone && s.groups(cols) == 1;
  return fits ? "" : fmt::format("{}, expected symmetric 8-bit codes with one scale per output", s.text());
}

std::vector<StoredPart> int8_parts(const Scheme&, int64_t rows, int64_t cols, DType) {
  return {{".weight", DType::kI8, {rows, cols}},
          {".SCB", DType::kF32, {rows}},
          {".weight_format", DType::kU8, {}}};
}

std::vector<EncodedPart> encode_int8(const QuantWeight& w, DType) {
  Tensor codes(DType::kI8, {w.rows, w.cols});
  auto* out = codes.mutable_data<int8_t>();
  for (size_t i = 0; i < w.codes.size(); ++i) out[i] = static_cast<int8_t>(w.codes[i] - kMiddle);
  std::vector<float> largest(w.scales);
  for (float& s : largest) s *= 127;
  return {{".weight", std::move(codes)},
          {".SCB", floats_as(largest, {w.rows}, DType::kF32)},
          {".weight_format", Tensor::zeros(DType::kU8, {})}};
}

QuantWeight decode_int8(const PartSource& source, const FormHints& hints, const std::string& name) {
  const Tensor codes = source.load(".weight");
  if (codes.dtype() != DType::kI8 || codes.rank() != 2 || codes.numel() == 0)
    fail(Code::kBadFile, "{}.weight: expected I8 [outputs, inputs], got {} {}", name,
         dtype_name(codes.dtype()), shape_text(codes.shape()));
  if (source.has(".weight_format")) {
    const Tensor format = source.load(".weight_format");
    if (format.dtype() != DType::kU8 || format.numel() != 1 || format.bytes()[0] != std::byte{0})
      fail(Code::kUnsupported, "{}.weight_format: expected 0 (rows as they are)", name);
  }
  QuantWeight w;
  w.rows = codes.dim(0);
  w.cols = codes.dim(1);
  w.scheme = {CodeKind::kAffine, 8, -1, ZeroKind::kNone, Activations::kInt8Outliers, hints.outlier_threshold};
  if (!(hints.outlier_threshold > 0))
    w.scheme.activations = Activations::kInt8Token, w.scheme.outlier_threshold = 0;
  w.scale_dtype = DType::kF32;
  w.scales = read_floats(source.load(".SCB"), {w.rows}, name, ".SCB");
  for (float& s : w.scales) s /= 127;
  w.codes.resize(static_cast<size_t>(codes.numel()));
  for (size_t i = 0; i < w.codes.size(); ++i)
    w.codes[i] = static_cast<uint8_t>(static_cast<int8_t>(codes.bytes()[i]) + kMiddle);
  return w;
}

}  // namespace

const Form kBnbNf4Form = {StoredForm::kBnbNf4, "bnb-nf4",  kState,    nf4_refusal,
                          nf4_parts,           encode_nf4, decode_nf4};
const Form kBnbInt8Form = {StoredForm::kBnbInt8, "bnb-int8",  ".SCB",     int8_refusal,
                           int8_parts,           encode_int8, decode_int8};

}  // namespace awq::packing
