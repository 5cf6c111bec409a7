// Private to packing/: the encoders and decoders behind weights/packing.h, and what they share.
#pragma once
#include <cstring>

#include "weights/packing.h"

namespace awq::packing {

// n codes of `bits` bits as one stream, lowest bits first, over consecutive 32-bit words: code i takes bits i
// * bits ... of the stream, across words where bits does not divide 32. code_stride in codes, word_stride in
// words.
void pack_stream(const uint8_t* codes, int64_t n, int64_t code_stride, int bits, std::byte* words,
                 int64_t word_stride);
void unpack_stream(const std::byte* words, int64_t word_stride, int64_t n, int bits, uint8_t* codes,
                   int64_t code_stride);
inline int64_t stream_words(int64_t n, int bits) { return (n * bits + 31) / 32; }

// kBadFile "<name><suffix>: expected I32 [..], got ..".
void expect_part(const Tensor& t, DType dtype, const Shape& shape, const std::string& name,
                 std::string_view suffix);
// F16, BF16 or F32 values of the shape, all finite.
std::vector<float> read_floats(const Tensor& t, const Shape& shape, const std::string& name,
                               std::string_view suffix);
// The group size that `groups` groups over `cols` columns mean; -1 for one group when `asked` is -1 or does
// not divide.
int group_of(int64_t cols, int64_t groups, int asked, const std::string& name, std::string_view suffix);
// [rows, cols] -> [cols, rows]
std::vector<float> transposed(const std::vector<float>& x, int64_t rows, int64_t cols);
Tensor floats_as(const std::vector<float>& values, Shape shape, DType dtype);

// Each form: why not, what, there, back.
struct Form {
  StoredForm form;
  const char* name;
  const char* marker;
  std::string (*refusal)(const Scheme& s, int64_t rows, int64_t cols);
  std::vector<StoredPart> (*parts)(const Scheme& s, int64_t rows, int64_t cols, DType dense);
  std::vector<EncodedPart> (*encode)(const QuantWeight& w, DType dense);
  QuantWeight (*decode)(const PartSource& parts, const FormHints& hints, const std::string& name);
};
extern const Form kAwqGemmForm, kGptqForm, kGptqV2Form, kPackQuantizedForm, kIntQuantizedForm, kBnbNf4Form,
    kBnbInt8Form;

}  // namespace awq::packing
