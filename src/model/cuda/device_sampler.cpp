#include "model/cuda/device_sampler.h"

#include <algorithm>

namespace awq {

using cuda::Buffer;
using cuda::check;

// Twice what is needed, so that lists of seen tokens, which grow with every token, seldom outgrow it.
void DeviceSampler::grow(int64_t vocab, cudaStream_t stream) {
  const auto count = static_cast<int64_t>(plan_.rows.size());
  const auto reserve = [&](Buffer& buffer, int64_t bytes) {
    if (buffer.bytes() >= bytes) return false;
    check(cudaStreamSynchronize(stream), "waiting for a stream");
    buffer = Buffer(2 * bytes);
    return true;
  };
  reserve(sent_, count * static_cast<int64_t>(sizeof(cuda::SampleRow)) + plan_.edits * static_cast<int64_t>(sizeof(cuda::SampleEdit)));
  reserve(before_, plan_.edits * 4);
  reserve(parts_, count * cuda::sample_parts(vocab) * static_cast<int64_t>(sizeof(cuda::SamplePart)));
  reserve(ids_, count * 4);
  if (reserve(scratch_, count * static_cast<int64_t>(sizeof(cuda::SampleScratch))))
    check(cudaMemsetAsync(scratch_.data(), 0, static_cast<size_t>(scratch_.bytes()), stream), "clearing");
}

void DeviceSampler::draw(float* logits, int64_t vocab, std::span<const RowDraw> wanted, cudaStream_t stream, int32_t* tokens) {
  if (!cuda::sample_takes(vocab)) return;
  plan_samples(wanted, plan_);
  const auto count = static_cast<int64_t>(plan_.rows.size());
  if (count == 0) return;
  grow(vocab, stream);
  const int64_t row_bytes = count * static_cast<int64_t>(sizeof(cuda::SampleRow)),
                bytes = row_bytes + plan_.edits * static_cast<int64_t>(sizeof(cuda::SampleEdit));
  auto* sent = sent_host_.grown<std::byte>(sent_.bytes());
  write_samples(wanted, plan_, reinterpret_cast<cuda::SampleRow*>(sent), reinterpret_cast<cuda::SampleEdit*>(sent + row_bytes));
  check(cudaMemcpyAsync(sent_.data(), sent, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream), "copying to the device");
  cuda::SampleArgs args;
  args.logits = logits, args.vocab = vocab, args.count = static_cast<int>(count);
  args.rows = sent_.as<cuda::SampleRow>();
  args.edits = reinterpret_cast<const cuda::SampleEdit*>(sent_.as<std::byte>() + row_bytes), args.before = before_.as<float>();
  args.scratch = scratch_.as<cuda::SampleScratch>(), args.parts = parts_.as<cuda::SamplePart>(), args.ids = ids_.as<int>();
  check(cuda::launch_sample(args, plan_.passes, stream), "drawing tokens");
  auto* ids = ids_host_.grown<int32_t>(ids_.bytes() / 4);
  check(cudaMemcpyAsync(ids, ids_.data(), static_cast<size_t>(count) * 4, cudaMemcpyDeviceToHost, stream), "copying from the device");
  check(cudaStreamSynchronize(stream), "waiting for a stream");
  for (int64_t i = 0; i < count; ++i) tokens[plan_.rows[static_cast<size_t>(i)]] = ids[i];
  if (plan_.passes.edit && std::find(ids, ids + count, -1) != ids + count) check(cuda::launch_undo_edits(args, stream), "drawing tokens");
}

}  // namespace awq
