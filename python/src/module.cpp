// awq._core: the library as the Python package sees it. Users import awq; names here may change between
// versions.
#include "base/error.h"
#include "base/log.h"
#include "base/system.h"
#include "base/thread_pool.h"
#include "base/version.h"
#include "bindings.h"
#include "kernels/devices.h"

namespace awq::python {
namespace {

// The sink is called on threads without the GIL, also while Python shuts down.
void send_to_python(Level level, std::string_view line) {
  if (!Py_IsInitialized()) return;
  nb::gil_scoped_acquire gil;
  try {
    const char* name = level == Level::kDebug ? "debug" : level == Level::kInfo ? "info" : "warning";
    nb::module_::import_("logging").attr("getLogger")("awq").attr(name)("%s",
                                                                        nb::str(line.data(), line.size()));
  } catch (nb::python_error& error) {
    error.discard_as_unraisable("awq logging");
  }
}

}  // namespace

void bind_errors(nb::module_&) {
  nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const Error& error) {
      const nb::object type = nb::module_::import_("awq.errors").attr("BY_CODE")[code_name(error.code())];
      PyErr_SetObject(type.ptr(), nb::str(error.what()).ptr());
    }
  });
}

void bind_system(nb::module_& m) {
  m.attr("version") = kVersion;
  m.def("threads", &threads);
  m.def("set_threads", &set_threads, nb::arg("n"));
  m.def("isa", [] { return isa_name(isa()); });
  m.def("peak_rss_bytes", &peak_rss_bytes);
  m.def("human_bytes", &human_bytes);
  m.def("cuda_devices", [] {
    std::vector<std::string> names;
    for (const CudaDevice& device : cuda_devices()) names.push_back(device.name);
    return names;
  });
  m.def("cuda_absence", &cuda_absence);
  set_log_sink(send_to_python);
}

}  // namespace awq::python

NB_MODULE(_core, m) {
  using namespace awq::python;
  bind_errors(m);
  bind_system(m);
  bind_tokenizer(m);
  bind_checkpoint(m);
  bind_quantize(m);
  bind_model(m);
  bind_generate(m);
  bind_evaluate(m);
  bind_compare(m);
}
