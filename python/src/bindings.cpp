#include "bindings.h"

#include <cstring>
#include <functional>

#include "base/error.h"

namespace awq::python {
namespace {

// Calls in progress: the flag that stops them is one for the process, so only the first may clear it.
std::mutex calls_mutex;
int calls = 0;

void enter() {
  std::lock_guard lock(calls_mutex);
  if (calls++ == 0) clear_cancel();
}

void leave() {
  std::lock_guard lock(calls_mutex);
  if (--calls == 0) clear_cancel();
}

nb::object owned_array(std::unique_ptr<float[]> data, const std::vector<size_t>& shape) {
  float* raw = data.release();
  nb::capsule owner(raw, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, float>(raw, shape.size(), shape.data(), owner));
}

template <class T>
nb::object copied(const Tensor& tensor, const std::vector<size_t>& shape) {
  auto data = std::make_unique<T[]>(static_cast<size_t>(tensor.numel()));
  std::memcpy(data.get(), tensor.bytes(), static_cast<size_t>(tensor.nbytes()));
  T* raw = data.release();
  nb::capsule owner(raw, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T>(raw, shape.size(), shape.data(), owner));
}

}  // namespace

nb::object numpy_copy(const float* data, std::vector<size_t> shape) {
  size_t n = 1;
  for (const size_t d : shape) n *= d;
  auto copy = std::make_unique<float[]>(n);
  std::copy(data, data + n, copy.get());
  return owned_array(std::move(copy), shape);
}

nb::object numpy_of(const Tensor& tensor) {
  const std::vector<size_t> shape(tensor.shape().begin(), tensor.shape().end());
  if (is_float(tensor.dtype())) {
    const Tensor values = tensor.to_f32();
    return numpy_copy(values.f32(), shape);
  }
  switch (tensor.dtype()) {
    case DType::kI64:
      return copied<int64_t>(tensor, shape);
    case DType::kI32:
      return copied<int32_t>(tensor, shape);
    case DType::kI16:
      return copied<int16_t>(tensor, shape);
    case DType::kI8:
      return copied<int8_t>(tensor, shape);
    case DType::kU64:
      return copied<uint64_t>(tensor, shape);
    case DType::kU32:
      return copied<uint32_t>(tensor, shape);
    case DType::kU16:
      return copied<uint16_t>(tensor, shape);
    default:
      return copied<uint8_t>(tensor, shape);
  }
}

ProgressFn progress_to(Callback& callback) {
  if (callback.empty()) return {};
  return [&callback](const Progress& p) {
    const bool ok = callback.call([&](const nb::object& function) {
      nb::dict event;
      event["stage"] = nb::str(p.stage.data(), p.stage.size());
      event["done"] = p.done;
      event["total"] = p.total;
      event["unit"] = nb::str(p.unit.data(), p.unit.size());
      function(event);
    });
    if (!ok) fail(Code::kCancelled, "stopped by an exception in a callback");
  };
}

void LongCall::run_erased(const std::function<void()>& body) {
  enter();
  std::exception_ptr error;
  std::mutex mutex;
  std::condition_variable finished;
  bool done = false;
  std::optional<nb::python_error> interrupt;
  {
    nb::gil_scoped_release release;
    std::thread worker([&] {
      try {
        body();
      } catch (...) {
        error = std::current_exception();
      }
      std::lock_guard lock(mutex);
      done = true;
      finished.notify_all();
    });
    std::unique_lock lock(mutex);
    while (!finished.wait_for(lock, std::chrono::milliseconds(100), [&] { return done; })) {
      // The worker may hold the GIL in a callback and then wait for this mutex.
      lock.unlock();
      {
        nb::gil_scoped_acquire gil;
        if (!interrupt && PyErr_CheckSignals() != 0) {
          interrupt.emplace();
          request_cancel();
        }
      }
      lock.lock();
    }
    lock.unlock();
    worker.join();
  }
  leave();
  if (interrupt) throw nb::python_error(std::move(*interrupt));
  if (error) std::rethrow_exception(error);
}

}  // namespace awq::python
