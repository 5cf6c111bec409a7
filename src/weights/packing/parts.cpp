#include "weights/packing/parts.h"

#include <algorithm>
#include <cmath>

namespace awq {
namespace packing {
namespace {

uint32_t load_word(const std::byte* words, int64_t i) {
  uint32_t word;
  std::memcpy(&word, words + 4 * i, 4);
  return word;
}

// The readable index of what exists.
const Form* const kForms[] = {&kAwqGemmForm,      &kGptqForm,   &kGptqV2Form, &kPackQuantizedForm,
                              &kIntQuantizedForm, &kBnbNf4Form, &kBnbInt8Form};

const Form& form_of(StoredForm form) {
  for (const Form* f : kForms)
    if (f->form == form) return *f;
  fail(Code::kInternal, "internal error: stored form {} is unknown", static_cast<int>(form));
}

}  // namespace

void pack_stream(const uint8_t* codes, int64_t n, int64_t code_stride, int bits, std::byte* words,
                 int64_t word_stride) {
  uint64_t window = 0;
  int filled = 0;
  const auto store = [&] {
    const auto word = static_cast<uint32_t>(window);
    std::memcpy(words, &word, 4);
    words += 4 * word_stride;
  };
  for (int64_t i = 0; i < n; ++i) {
    window |= static_cast<uint64_t>(codes[i * code_stride]) << filled;
    filled += bits;
    if (filled < 32) continue;
    store();
    window >>= 32;
    filled -= 32;
  }
  if (filled > 0) store();
}

void unpack_stream(const std::byte* words, int64_t word_stride, int64_t n, int bits, uint8_t* codes,
                   int64_t code_stride) {
  const uint32_t mask = (1u << bits) - 1;
  uint64_t window = 0;
  int available = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (available < bits) {
      window |= static_cast<uint64_t>(load_word(words, 0)) << available;
      words += 4 * word_stride;
      available += 32;
    }
    codes[i * code_stride] = static_cast<uint8_t>(window & mask);
    window >>= bits;
    available -= bits;
  }
}

void expect_part(const Tensor& t, DType dtype, const Shape& shape, const std::string& name,
                 std::string_view suffix) {
  if (t.dtype() != dtype || t.shape() != shape)
    fail(Code::kBadFile, "{}{}: expected {} {}, got {} {}", name, suffix, dtype_name(dtype),
         shape_text(shape), dtype_name(t.dtype()), shape_text(t.shape()));
}

std::vector<float> read_floats(const Tensor& t, const Shape& shape, const std::string& name,
                               std::string_view suffix) {
  const bool known = t.dtype() == DType::kF16 || t.dtype() == DType::kBF16 || t.dtype() == DType::kF32;
  expect_part(t, known ? t.dtype() : DType::kF16, shape, name, suffix);
  std::vector<float> out(static_cast<size_t>(t.numel()));
  convert_to_f32(t.dtype(), t.bytes(), out.data(), t.numel());
  for (size_t i = 0; i < out.size(); ++i)
    if (!std::isfinite(out[i]))
      fail(Code::kBadFile, "{}{}: expected finite values, got {} at element {}", name, suffix, out[i], i);
  return out;
}

int group_of(int64_t cols, int64_t groups, int asked, const std::string& name, std::string_view suffix) {
  if (groups < 1 || cols % groups != 0)
    fail(Code::kBadFile, "{}{}: {} groups do not divide {} input columns", name, suffix, groups, cols);
  if (groups == 1 && asked != cols) return -1;
  return static_cast<int>(cols / groups);
}

std::vector<float> transposed(const std::vector<float>& x, int64_t rows, int64_t cols) {
  std::vector<float> out(x.size());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) out[c * rows + r] = x[r * cols + c];
  return out;
}

Tensor floats_as(const std::vector<float>& values, Shape shape, DType dtype) {
  Tensor out(dtype, std::move(shape));
  convert_from_f32(values.data(), dtype, out.mutable_bytes(), out.numel());
  return out;
}

}  // namespace packing

const char* form_name(StoredForm form) { return packing::form_of(form).name; }
std::string_view form_marker(StoredForm form) { return packing::form_of(form).marker; }

std::string form_refusal(StoredForm form, const Scheme& scheme, int64_t rows, int64_t cols) {
  return packing::form_of(form).refusal(scheme, rows, cols);
}

std::vector<StoredPart> stored_parts(StoredForm form, const Scheme& scheme, int64_t rows, int64_t cols,
                                     DType dense) {
  return packing::form_of(form).parts(scheme, rows, cols, dense);
}

std::vector<EncodedPart> encode_weight(StoredForm form, const QuantWeight& w, DType dense) {
  if (const std::string reason = form_refusal(form, w.scheme, w.rows, w.cols); !reason.empty())
    fail(Code::kBadArgument, "{} layout: {}", form_name(form), reason);
  check_consistent(w);
  return packing::form_of(form).encode(w, dense);
}

QuantWeight decode_weight(StoredForm form, const PartSource& parts, const FormHints& hints,
                          const std::string& name) {
  return packing::form_of(form).decode(parts, hints, name);
}

QuantWeight decode_weight(StoredForm form, const std::vector<EncodedPart>& parts, const FormHints& hints,
                          const std::string& name) {
  const auto at = [&](std::string_view suffix) {
    return std::find_if(parts.begin(), parts.end(), [&](const EncodedPart& p) { return p.suffix == suffix; });
  };
  const PartSource source{[&](std::string_view suffix) { return at(suffix) != parts.end(); },
                          [&](std::string_view suffix) -> Tensor {
                            if (at(suffix) == parts.end()) fail(Code::kNotFound, "{}{}: missing", name, suffix);
                            return at(suffix)->tensor;
                          }};
  return decode_weight(form, source, hints, name);
}

}  // namespace awq
