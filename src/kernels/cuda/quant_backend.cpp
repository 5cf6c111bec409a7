#include "kernels/cuda/quant_backend.h"

#include <algorithm>
#include <cstring>

#include "base/system.h"
#include "kernels/devices.h"

namespace awq::cuda {
namespace {

constexpr int64_t kScratchBytes = int64_t{1} << 30;  // of one operation, about
constexpr int64_t kFewRows = 512;  // a product of so few is limited by reading G: it stays fp32
constexpr int64_t kSmallDim = 1024;
constexpr int64_t kStagedBytes = int64_t{1} << 20;

int64_t budget_of(int64_t asked) {
  size_t available = 0, total = 0;
  check(cudaMemGetInfo(&available, &total), "reading the device's memory");
  if (asked == 0) return static_cast<int64_t>(available / 10 * 9);
  return asked;
}

int64_t context_bytes() {
  size_t available = 0, total = 0;
  check(cudaMemGetInfo(&available, &total), "reading the device's memory");
  return static_cast<int64_t>(total - available);
}

void keep_pool() {
  cudaMemPool_t pool = nullptr;
  int device = 0;
  check(cudaGetDevice(&device), "choosing a device");
  check(cudaDeviceGetDefaultMemPool(&pool, device), "reading the device's memory pool");
  uint64_t all = UINT64_MAX;  // what is given back is taken again soon
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all), "keeping the device's memory pool");
}

ScaleType scale_type(DType dtype) {
  return dtype == DType::kF16 ? ScaleType::kF16 : dtype == DType::kBF16 ? ScaleType::kBF16 : ScaleType::kF32;
}

void check_scheme(const Scheme& scheme, int64_t cols) {
  const int64_t group = scheme.group_size(cols);
  if (group <= 0 || cols % group != 0) fail(Code::kBadArgument, "group size {} does not divide {} inputs", group, cols);
  if (scheme.code != CodeKind::kAffine || scheme.zero == ZeroKind::kReal || scheme.bits < 2 || scheme.bits > 8)
    fail(Code::kUnsupported, "--device cuda: expected evenly spaced codes of 2 to 8 bits, got {}", scheme.text());
}

}  // namespace

std::shared_ptr<void> DeviceMemory::take(int64_t bytes) {
  if (used_ + bytes > budget_)
    fail(Code::kNoMemory, "--vram: {} of device memory are needed beside the {} in use, {} are allowed", human_bytes(static_cast<double>(bytes)),
         human_bytes(static_cast<double>(used_)), human_bytes(static_cast<double>(budget_)));
  void* data = nullptr;
  check(cudaMallocAsync(&data, static_cast<size_t>(std::max<int64_t>(bytes, 1)), stream_), "allocating device memory");
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  return {data, [this, bytes](void* p) {
            cudaFreeAsync(p, stream_);
            used_ -= bytes;
          }};
}

RoundingView view_of(const Scheme& scheme, DType scale_dtype, int64_t rows, int64_t cols) {
  RoundingView v;
  v.rows = rows, v.cols = cols;
  v.group = static_cast<int>(scheme.group_size(cols));
  v.max_code = scheme.max_code();
  v.symmetric = scheme.zero == ZeroKind::kNone;
  v.scale_type = scale_type(scale_dtype);
  return v;
}

std::shared_ptr<DeviceGram> empty_gram(CudaQuantBackend& backend, int64_t dim) {
  auto gram = std::make_shared<DeviceGram>();
  gram->dim = dim;
  gram->values = backend.memory().take(dim * dim * 4);
  check(cudaMemsetAsync(gram->at(), 0, static_cast<size_t>(dim * dim * 4), backend.stream()), "clearing a Gram matrix");
  return gram;
}

int64_t rows_at_once(int64_t rows, int64_t bytes_per_row) {
  return std::min(rows, std::max<int64_t>(32, kScratchBytes / bytes_per_row / 32 * 32));
}

CudaQuantBackend::CudaQuantBackend(int64_t budget)
    : blas_(stream_.get()), fixed_bytes_(context_bytes()), memory_(stream_.get(), budget_of(budget) - (budget == 0 ? 0 : fixed_bytes_)) {
  int device = 0;
  check(cudaGetDevice(&device), "choosing a device");
  check(cudaDeviceGetAttribute(&shared_limit_, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "reading a device's limits");
  keep_pool();
}

CudaQuantBackend::~CudaQuantBackend() { cudaStreamSynchronize(stream_.get()); }

Staging::~Staging() {
  for (int i = 0; i < 2; ++i) {
    if (done_[i] != nullptr) cudaEventDestroy(done_[i]);
    cudaFreeHost(buffers_[i]);
  }
}

void Staging::open() {
  if (done_[1] != nullptr) return;
  for (int i = 0; i < 2; ++i) {
    check(cudaMallocHost(&buffers_[i], kBytes), "allocating pinned memory");
    check(cudaEventCreateWithFlags(&done_[i], cudaEventDisableTiming), "creating an event");
  }
}

namespace {

void copy_by_all(void* to, const void* from, int64_t bytes) {
  constexpr int64_t kPart = int64_t{1} << 20;
  parallel_for((bytes + kPart - 1) / kPart, [&](int64_t i) {
    const int64_t at = i * kPart;
    std::memcpy(static_cast<std::byte*>(to) + at, static_cast<const std::byte*>(from) + at, static_cast<size_t>(std::min(kPart, bytes - at)));
  });
}

}  // namespace

void Staging::upload(void* to, const void* from, int64_t bytes, cudaStream_t stream) {
  open();
  for (int64_t at = 0, turn = 0; at < bytes; at += kBytes, ++turn) {
    const int slot = static_cast<int>(turn % 2);
    const int64_t n = std::min(kBytes, bytes - at);
    check(cudaEventSynchronize(done_[slot]), "copying to the device");  // never recorded: done
    copy_by_all(buffers_[slot], static_cast<const std::byte*>(from) + at, n);
    check(cudaMemcpyAsync(static_cast<std::byte*>(to) + at, buffers_[slot], static_cast<size_t>(n), cudaMemcpyHostToDevice, stream),
          "copying to the device");
    check(cudaEventRecord(done_[slot], stream), "copying to the device");
  }
}

void Staging::download(void* to, const void* from, int64_t bytes, cudaStream_t stream) {
  open();
  const int64_t parts = (bytes + kBytes - 1) / kBytes;
  const auto start = [&](int64_t part) {
    const int64_t at = part * kBytes;
    check(cudaMemcpyAsync(buffers_[part % 2], static_cast<const std::byte*>(from) + at, static_cast<size_t>(std::min(kBytes, bytes - at)),
                          cudaMemcpyDeviceToHost, stream),
          "copying from the device");
    check(cudaEventRecord(done_[part % 2], stream), "copying from the device");
  };
  start(0);  // behind what uploads still read from there
  for (int64_t part = 0; part < parts; ++part) {
    if (part + 1 < parts) start(part + 1);
    check(cudaEventSynchronize(done_[part % 2]), "copying from the device");
    const int64_t at = part * kBytes;
    copy_by_all(static_cast<std::byte*>(to) + at, buffers_[part % 2], std::min(kBytes, bytes - at));
  }
}

void CudaQuantBackend::upload(void* to, const void* from, int64_t bytes) {
  if (bytes >= kStagedBytes) return staging_.upload(to, from, bytes, stream());
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream()), "copying to the device");
  stream_.synchronize();
}

void CudaQuantBackend::download(void* to, const void* from, int64_t bytes) {
  if (bytes >= kStagedBytes) return staging_.download(to, from, bytes, stream());
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream()), "copying from the device");
  stream_.synchronize();
}

namespace {

QuantMatrix shaped(int64_t rows, int64_t cols, std::shared_ptr<void> device) {
  QuantMatrix m(Tensor(DType::kF32, {rows, cols}, nullptr, nullptr));
  m.device = std::move(device);
  return m;
}

}  // namespace

QuantMatrix CudaQuantBackend::load(const Tensor& w) {
  QuantMatrix m = shaped(w.dim(0), w.dim(1), memory_.take(w.numel() * 4));
  if (w.dtype() == DType::kF16 || w.dtype() == DType::kBF16) {
    const auto raw = memory_.take(w.nbytes());
    upload(raw.get(), w.bytes(), w.nbytes());
    check(launch_to_f32(w.dtype() == DType::kF16 ? Act::kF16 : Act::kBF16, raw.get(), w.numel(), floats(m), stream()), "widening");
  } else {
    const Tensor f32 = w.to_f32();
    upload(floats(m), f32.bytes(), f32.nbytes());
  }
  return m;
}

QuantMatrix CudaQuantBackend::load(const QuantWeight& w) {
  if (w.scheme.code != CodeKind::kAffine || w.scheme.zero == ZeroKind::kReal) {
    Tensor dense(DType::kF32, {w.rows, w.cols});
    dequantize(w, dense.f32());
    return load(dense);
  }
  RoundingView v = view_of(w.scheme, w.scale_dtype, w.rows, w.cols);
  const auto codes = uploaded(w.codes), scales = uploaded(w.scales);
  const auto zeros = w.zeros.empty() ? memory_.take(static_cast<int64_t>(w.scales.size())) : uploaded(w.zeros);
  if (w.zeros.empty()) check(cudaMemsetAsync(zeros.get(), 1 << (w.scheme.bits - 1), w.scales.size(), stream()), "filling zero points");
  v.codes = static_cast<uint8_t*>(codes.get()), v.scales = static_cast<float*>(scales.get()), v.zeros = static_cast<uint8_t*>(zeros.get());
  QuantMatrix m = shaped(w.rows, w.cols, memory_.take(w.rows * w.cols * 4));
  check(launch_dequantize_codes(v, floats(m), stream()), "dequantizing");
  return m;
}

Tensor CudaQuantBackend::read(const QuantMatrix& w) {
  Tensor out(DType::kF32, w.shape());
  download(out.mutable_bytes(), floats(w), out.nbytes());
  return out;
}

QuantMatrix CudaQuantBackend::gather(const std::vector<Rows>& rows) {
  const int64_t cols = rows.front().from->dim(1);
  const auto count = [](const Rows& r) { return (r.from->dim(0) - r.first + r.step - 1) / r.step; };
  int64_t total = 0;
  for (const Rows& r : rows) total += count(r);
  QuantMatrix m = shaped(total, cols, memory_.take(total * cols * 4));
  float* to = floats(m);
  for (const Rows& r : rows) {
    check(cudaMemcpy2DAsync(to, static_cast<size_t>(cols * 4), floats(*r.from) + r.first * cols, static_cast<size_t>(r.step * cols * 4),
                            static_cast<size_t>(cols * 4), static_cast<size_t>(count(r)), cudaMemcpyDeviceToDevice, stream()),
          "gathering rows");
    to += count(r) * cols;
  }
  return m;
}

QuantMatrix CudaQuantBackend::scaled(const QuantMatrix& w, const std::vector<float>& s) {
  const auto factors = uploaded(s);
  QuantMatrix m = shaped(w.dim(0), w.dim(1), memory_.take(w.numel() * 4));
  check(launch_scale_columns(floats(w), static_cast<float*>(factors.get()), w.dim(0), w.dim(1), floats(m), stream()), "scaling columns");
  return m;
}

void CudaQuantBackend::scale_columns(QuantMatrix& w, const std::vector<float>& s) {
  const auto factors = uploaded(s);
  check(launch_scale_columns(floats(w), static_cast<float*>(factors.get()), w.dim(0), w.dim(1), floats(w), stream()), "scaling columns");
}

void CudaQuantBackend::divide_rows(QuantMatrix& w, int64_t first, const std::vector<float>& s) {
  const auto divisors = uploaded(s);
  check(launch_divide_rows(floats(w) + first * w.dim(1), static_cast<float*>(divisors.get()), static_cast<int64_t>(s.size()), w.dim(1),
                           stream()),
        "dividing rows");
}

void CudaQuantBackend::add_relative_magnitudes(const QuantMatrix& w, int64_t group, std::vector<double>& sum) {
  const int64_t cols = w.dim(1);
  const auto partial = memory_.take(kMagnitudeChunks * cols * 8);
  check(launch_relative_magnitudes(floats(w), w.dim(0), cols, static_cast<int>(group), static_cast<double*>(partial.get()), stream()),
        "summing magnitudes");
  std::vector<double> parts(static_cast<size_t>(kMagnitudeChunks * cols));
  download(parts.data(), partial.get(), static_cast<int64_t>(parts.size() * 8));
  for (int c = 0; c < kMagnitudeChunks; ++c)
    for (int64_t k = 0; k < cols; ++k) sum[static_cast<size_t>(k)] += parts[static_cast<size_t>(c * cols + k)];
}

GramMatrix CudaQuantBackend::load_gram(std::vector<float> g, int64_t dim) {
  auto gram = std::make_shared<DeviceGram>();
  gram->dim = dim;
  gram->values = uploaded(g);
  return {dim, {}, gram};
}

std::vector<float> CudaQuantBackend::read_gram(const GramView& g) {
  std::vector<float> out(static_cast<size_t>(g.dim * g.dim));
  download(out.data(), gram_of(g).at(), static_cast<int64_t>(out.size() * 4));
  return out;
}

GramMatrix CudaQuantBackend::scaled_gram(const GramView& g, const std::vector<float>& s) {
  const auto factors = uploaded(s);
  auto out = std::make_shared<DeviceGram>();
  out->dim = g.dim;
  out->values = memory_.take(g.dim * g.dim * 4);
  check(launch_scaled_gram(gram_of(g).at(), static_cast<float*>(factors.get()), g.dim, out->at(), stream()), "scaling a Gram matrix");
  return {g.dim, {}, out};
}

void CudaQuantBackend::times_gram(const float* a, int64_t m, DeviceGram& g, float* c) {
  const int64_t k = g.dim;
  if (m <= kFewRows || k < kSmallDim) return blas_.multiply(m, k, k, 1, {a, k}, {g.at(), k}, 0, {c, k});
  if (!g.high) {
    g.high = memory_.take(k * k * 2), g.low = memory_.take(k * k * 2);
    check(launch_split(g.at(), k, k, k, g.high.get(), g.low.get(), stream()), "splitting a Gram matrix");
  }
  const auto high = memory_.take(m * k * 2), low = memory_.take(m * k * 2);
  check(launch_split(a, k, m, k, high.get(), low.get(), stream()), "splitting a matrix");
  blas_.multiply_split(m, k, k, 1, {high.get(), low.get(), k}, {g.high.get(), g.low.get(), k}, 0, {c, k});
}

double CudaQuantBackend::quadratic(int64_t rows, DeviceGram& g, FillRows fill) {
  const int64_t k = g.dim, each = rows_at_once(rows, k * 12);
  const auto a = memory_.take(each * k * 4), product = memory_.take(each * k * 4), sums = memory_.take(rows * 8);
  auto* values = static_cast<float*>(a.get());
  for (int64_t first = 0; first < rows; first += each) {
    const int64_t n = std::min(each, rows - first);
    fill(first, n, values);
    times_gram(values, n, g, static_cast<float*>(product.get()));
    check(launch_row_dots(values, static_cast<float*>(product.get()), n, k, static_cast<double*>(sums.get()) + first, stream()),
          "summing losses");
  }
  std::vector<double> losses(static_cast<size_t>(rows));
  download(losses.data(), sums.get(), rows * 8);
  double total = 0;
  for (const double l : losses) total += l;
  return total;
}

double CudaQuantBackend::minmax_loss(const QuantMatrix& w, const Scheme& scheme, DType scale_dtype, const std::vector<float>& channel_scale,
                                     const GramView& g) {
  check_scheme(scheme, w.dim(1));
  const auto factors = uploaded(channel_scale);
  return quadratic(w.dim(0), gram_of(g), [&](int64_t first, int64_t n, float* e) {
    check(launch_minmax_error(floats(w) + first * w.dim(1), static_cast<float*>(factors.get()), view_of(scheme, scale_dtype, n, w.dim(1)), e,
                              stream()),
          "rounding");
  });
}

RoundedWeight CudaQuantBackend::empty_rounding(const QuantMatrix& w, const Scheme& scheme, DType scale_dtype) {
  check_scheme(scheme, w.dim(1));
  RoundedWeight q;
  q.scheme = scheme, q.rows = w.dim(0), q.cols = w.dim(1), q.scale_dtype = scale_dtype;
  auto device = std::make_shared<DeviceRounding>();
  RoundingView& v = device->view = view_of(scheme, scale_dtype, q.rows, q.cols);
  const int64_t pairs = q.rows * v.groups(), codes = (q.rows * q.cols + 255) / 256 * 256;
  device->memory = memory_.take(codes + pairs * 5);
  v.codes = static_cast<uint8_t*>(device->memory.get());
  v.scales = reinterpret_cast<float*>(v.codes + codes);
  v.zeros = v.codes + codes + pairs * 4;
  q.device = std::move(device);
  return q;
}

RoundedWeight CudaQuantBackend::minmax(const QuantMatrix& w, const Scheme& scheme, DType scale_dtype) {
  RoundedWeight q = empty_rounding(w, scheme, scale_dtype);
  check(launch_minmax(floats(w), rounding_of(q).view, stream()), "rounding");
  return q;
}

RoundedWeight CudaQuantBackend::search(const QuantMatrix& w, const Scheme& scheme, DType scale_dtype, const GramView& g, RangeEffort effort) {
  RoundedWeight q = empty_rounding(w, scheme, scale_dtype);
  check(launch_range_search(floats(w), gram_of(g).at(), rounding_of(q).view, effort == RangeEffort::kFull, shared_limit_, stream()),
        "searching ranges");
  return q;
}

double CudaQuantBackend::loss(const QuantMatrix& w, const RoundedWeight& q, const GramView& g, bool) {
  const RoundingView& all = rounding_of(q).view;
  return quadratic(w.dim(0), gram_of(g), [&](int64_t first, int64_t n, float* e) {
    RoundingView part = all;
    part.rows = n;
    part.codes += first * part.cols, part.scales += first * part.groups(), part.zeros += first * part.groups();
    check(launch_rounding_error(floats(w) + first * part.cols, part, e, stream()), "measuring a rounding");
  });
}

double CudaQuantBackend::energy(const QuantMatrix& w, const GramView& g) {
  return quadratic(w.dim(0), gram_of(g), [&](int64_t first, int64_t n, float* e) {
    check(cudaMemcpyAsync(e, floats(w) + first * w.dim(1), static_cast<size_t>(n * w.dim(1) * 4), cudaMemcpyDeviceToDevice, stream()),
          "copying rows");
  });
}

std::unique_ptr<Compensator> CudaQuantBackend::compensation(const GramView& g, double damping) {
  return make_compensator(*this, gram_of(g), damping);
}

void CudaQuantBackend::fetch(RoundedWeight& q) {
  if (!q.device) return;
  const RoundingView& v = rounding_of(q).view;
  const auto pairs = static_cast<size_t>(v.rows * v.groups());
  q.codes.resize(static_cast<size_t>(v.rows * v.cols));
  q.scales.resize(pairs);
  download(q.codes.data(), v.codes, v.rows * v.cols);
  download(q.scales.data(), v.scales, static_cast<int64_t>(pairs * 4));
  if (q.scheme.zero == ZeroKind::kInteger) {
    q.zeros.resize(pairs);
    download(q.zeros.data(), v.zeros, static_cast<int64_t>(pairs));
  }
  q.device.reset();
}

}  // namespace awq::cuda

namespace awq {

std::unique_ptr<QuantBackend> make_cuda_quant_backend(int64_t vram_bytes) {
  if (cuda_devices().empty()) fail(Code::kUnsupported, "--device cuda: {}; use --device auto or cpu", cuda_absence());
  return std::make_unique<cuda::CudaQuantBackend>(vram_bytes);
}

}  // namespace awq
