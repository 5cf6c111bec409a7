// What the files of the extension module share. Everything here expects the GIL unless it says otherwise.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <type_traits>

#include "base/error.h"
#include "base/progress.h"
#include "tensor/tensor.h"

namespace awq::python {

namespace nb = nanobind;

// Each adds its part to the module.
void bind_errors(nb::module_& m);
void bind_system(nb::module_& m);
void bind_tokenizer(nb::module_& m);
void bind_checkpoint(nb::module_& m);
void bind_quantize(nb::module_& m);
void bind_model(nb::module_& m);
void bind_generate(nb::module_& m);
void bind_evaluate(nb::module_& m);
void bind_compare(nb::module_& m);

// A numpy array that owns a copy of, or shares, what `data` points to.
nb::object numpy_copy(const float* data, std::vector<size_t> shape);
nb::object numpy_of(const Tensor& tensor);  // float types become float32

// Sets a field to what `given` has under its name; where it has nothing, the field stays. TypeError for a value of a wrong type.
template <class T>
void take(const nb::dict& given, const char* name, T& field) {
  if (!given.contains(name)) return;
  const nb::object value = given[name];
  if (!nb::try_cast(value, field))
    throw nb::type_error(fmt::format("{}: a value of type {} does not fit", name, nb::type_name(value.type()).c_str()).c_str());
}

// A Python function called while the library works without the GIL. The first exception it raises is kept,
// the work is stopped, and the exception goes on in the thread that asked for the work.
class Callback {
 public:
  explicit Callback(nb::object function) : function_(std::move(function)) {}
  bool empty() const { return function_.is_none(); }
  // Takes the GIL. False once a call has raised.
  template <class Call>
  bool call(Call&& body) {
    if (raised_) return false;
    nb::gil_scoped_acquire gil;
    try {
      body(function_);
      return true;
    } catch (nb::python_error& error) {
      raised_.emplace(std::move(error));
      return false;
    }
  }
  bool raised() const { return raised_.has_value(); }
  void rethrow() {
    if (!raised_) return;
    nb::python_error error = std::move(*raised_);
    raised_.reset();
    throw error;
  }

 private:
  nb::object function_;
  std::optional<nb::python_error> raised_;
};

// Progress as a dict {stage, done, total, unit} handed to `callback`; a raising callback cancels the work.
ProgressFn progress_to(Callback& callback);

// Runs the body on a thread of its own without the GIL, while this one looks for Ctrl-C ten times a second
// and asks the library to stop. Signals are only seen when this is Python's main thread.
class LongCall {
 public:
  template <class Body>
  auto run(Body&& body) {
    using Result = std::invoke_result_t<Body>;
    std::optional<Result> result;
    run_erased([&] { result.emplace(body()); });
    return std::move(*result);
  }

 private:
  void run_erased(const std::function<void()>& body);
};

}  // namespace awq::python
