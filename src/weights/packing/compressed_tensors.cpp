// compressed-tensors (docs/formats.md, section e).
//
//   pack-quantized  weight_packed [rows, ceil(cols * bits/32)] I32: a row's codes as one stream, lowest bits
//   first
//                   weight_scale [rows, groups]; weight_shape [2] I64 = rows, cols
//                   weight_zero_point [ceil(rows * bits/32), groups] I32, asymmetric only: along the outputs
//   int-quantized   weight [rows, cols] I8 = code - 128; weight_scale [rows, 1] (or [rows, groups])
//
// Scales have the dtype of the checkpoint's other tensors.
#include <algorithm>

#include "base/thread_pool.h"
#include "weights/packing/parts.h"

namespace awq::packing {
namespace {

constexpr int64_t kRowsPerTask = 16;

template <class Body>
void for_rows(int64_t rows, const Body& body) {
  parallel_for((rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task) {
    for (int64_t n = task * kRowsPerTask; n < std::min(rows, (task + 1) * kRowsPerTask); ++n) body(n);
  });
}

// --- pack-quantized

std::string packed_refusal(const Scheme& s, int64_t, int64_t) {
  if (s.code != CodeKind::kAffine || s.zero == ZeroKind::kReal || s.activations != Activations::kFloat)
    return fmt::format("{}, expected evenly spaced codes with integer zero points", s.text());
  return "";
}

std::vector<StoredPart> packed_parts(const Scheme& s, int64_t rows, int64_t cols, DType dense) {
  const int64_t groups = s.groups(cols);
  std::vector<StoredPart> out = {{".weight_packed", DType::kI32, {rows, stream_words(cols, s.bits)}},
                                 {".weight_scale", dense, {rows, groups}},
                                 {".weight_shape", DType::kI64, {2}}};
  if (s.zero == ZeroKind::kInteger)
    out.push_back({".weight_zero_point", DType::kI32, {stream_words(rows, s.bits), groups}});
  return out;
}

std::vector<EncodedPart> encode_packed(const QuantWeight& w, DType dense) {
  const int bits = w.scheme.bits;
  const int64_t words = stream_words(w.cols, bits), groups = w.groups();
  Tensor packed(DType::kI32, {w.rows, words}), shape(DType::kI64, {2});
  std::byte* at = packed.mutable_bytes();
  for_rows(w.rows, [&](int64_t n) {
    pack_stream(w.codes.data() + n * w.cols, w.cols, 1, bits, at + 4 * n * words, 1);
  });
  shape.mutable_data<int64_t>()[0] = w.rows;
  shape.mutable_data<int64_t>()[1] = w.cols;
  std::vector<EncodedPart> out = {{".weight_packed", std::move(packed)},
                                  {".weight_scale", floats_as(w.scales, {w.rows, groups}, dense)},
                                  {".weight_shape", std::move(shape)}};
  if (w.scheme.zero != ZeroKind::kInteger) return out;
  Tensor zeros(DType::kI32, {stream_words(w.rows, bits), groups});
  for (int64_t g = 0; g < groups; ++g)
    pack_stream(w.zeros.data() + g, w.rows, groups, bits, zeros.mutable_bytes() + 4 * g, groups);
  out.push_back({".weight_zero_point", std::move(zeros)});
  return out;
}

// The width whose stream fills the words; `asked` where several do (rows shorter than a word).
int bits_of(int64_t cols, int64_t words, int asked, const std::string& name) {
  const auto fills = [&](int bits) { return stream_words(cols, bits) == words; };
  if (asked >= 2 && asked <= 8 && fills(asked)) return asked;
  for (int bits = 2; bits <= 8; ++bits)
    if (fills(bits)) return bits;
  fail(Code::kBadFile, "{}.weight_packed: {} words for {} inputs are not 2 to 8 bits each", name, words,
       cols);
}

QuantWeight decode_packed(const PartSource& source, const FormHints& hints, const std::string& name) {
  const Tensor packed = source.load(".weight_packed"), shape = source.load(".weight_shape"),
               scale = source.load(".weight_scale");
  expect_part(shape, DType::kI64, {2}, name, ".weight_shape");
  QuantWeight w;
  std::memcpy(&w.rows, shape.bytes(), 8);
  std::memcpy(&w.cols, shape.bytes() + 8, 8);
  const int64_t words = packed.rank() == 2 ? packed.dim(1) : 0;
  // Bounded before it is multiplied: at least 2 bits per input.
  if (w.rows < 1 || w.cols < 1 || w.cols > words * 16)
    fail(Code::kBadFile, "{}.weight_shape: [{}, {}] does not fit weight_packed {}", name, w.rows, w.cols,
         shape_text(packed.shape()));
  expect_part(packed, DType::kI32, {w.rows, words}, name, ".weight_packed");
  const bool asymmetric = source.has(".weight_zero_point");
  const int64_t groups = scale.rank() == 2 ? scale.dim(1) : 0;
  w.scheme = {.bits = bits_of(w.cols, words, hints.bits, name),
              .group = group_of(w.cols, groups, hints.group, name, ".weight_scale"),
              .zero = asymmetric ? ZeroKind::kInteger : ZeroKind::kNone};
  w.scales = read_floats(scale, {w.rows, groups}, name, ".weight_scale");
  w.scale_dtype = scale.dtype();
  w.codes.resize(static_cast<size_t>(w.rows * w.cols));
  for_rows(w.rows, [&](int64_t n) {
    unpack_stream(packed.bytes() + 4 * n * words, 1, w.cols, w.scheme.bits, w.codes.data() + n * w.cols, 1);
  });
  if (!asymmetric) return w;
  const Tensor zeros = source.load(".weight_zero_point");
  expect_part(zeros, DType::kI32, {stream_words(w.rows, w.scheme.bits), groups}, name, ".weight_zero_point");
  w.zeros.resize(w.scales.size());
  for (int64_t g = 0; g < groups; ++g)
    unpack_stream(zeros.bytes() + 4 * g, groups, w.rows, w.scheme.bits, w.zeros.data() + g, groups);
  return w;
}

// --- int-quantized

constexpr int kMiddle = 128;

std::string int_refusal(const Scheme& s, int64_t, int64_t) {
  const bool fits = s.code == CodeKind::kAffine && s.bits == 8 && s.zero == ZeroKind::kNone &&
                    s.activations != Activations::kInt8Outliers;
  return fits ? "" : fmt::format("{}, expected symmetric 8-bit codes", s.text());
}

std::vector<StoredPart> int_parts(const Scheme& s, int64_t rows, int64_t cols, DType dense) {
  return {{".weight", DType::kI8, {rows, cols}}, {".weight_scale", dense, {rows, s.groups(cols)}}};
}

std::vector<EncodedPart> encode_int(const QuantWeight& w, DType dense) {
  Tensor codes(DType::kI8, {w.rows, w.cols});
  auto* out = codes.mutable_data<int8_t>();
  for (size_t i = 0; i < w.codes.size(); ++i) out[i] = static_cast<int8_t>(w.codes[i] - kMiddle);
  return {{".weight", std::move(codes)}, {".weight_scale", floats_as(w.scales, {w.rows, w.groups()}, dense)}};
}

QuantWeight decode_int(const PartSource& source, const FormHints& hints, const std::string& name) {
  const Tensor codes = source.load(".weight"), scale = source.load(".weight_scale");
  if (codes.dtype() != DType::kI8 || codes.rank() != 2 || codes.numel() == 0)
    fail(Code::kBadFile, "{}.weight: expected I8 [outputs, inputs], got {} {}", name,
         dtype_name(codes.dtype()), shape_text(codes.shape()));
  if (source.has(".input_scale"))
    fail(Code::kUnsupported,
         "{}.input_scale: expected a scale per token, found at run time; got a stored one", name);
  QuantWeight w;
  w.rows = codes.dim(0);
  w.cols = codes.dim(1);
  const int64_t groups = scale.rank() == 2 ? scale.dim(1) : 1;
  w.scheme = {.bits = 8,
              .group = group_of(w.cols, groups, hints.group, name, ".weight_scale"),
              .zero = ZeroKind::kNone,
              .activations = Activations::kInt8Token};
  w.scales =
      read_floats(scale, scale.rank() == 1 ? Shape{w.rows} : Shape{w.rows, groups}, name, ".weight_scale");
  w.scale_dtype = scale.dtype();
  w.codes.resize(static_cast<size_t>(codes.numel()));
  for (size_t i = 0; i < w.codes.size(); ++i)
    w.codes[i] = static_cast<uint8_t>(static_cast<int8_t>(codes.bytes()[i]) + kMiddle);
  return w;
}

}  // namespace

const Form kPackQuantizedForm = {StoredForm::kPackQuantized,
                                 "pack-quantized",
                                 ".weight_packed",
                                 packed_refusal,
                                 packed_parts,
                                 encode_packed,
                                 decode_packed};
const Form kIntQuantizedForm = {StoredForm::kIntQuantized,
                                "int-quantized",
                                ".weight_scale",
                                int_refusal,
                                int_parts,
                                encode_int,
                                decode_int};

}  // namespace awq::packing
