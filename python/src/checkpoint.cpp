// Checkpoints: what is stored, and any tensor as a numpy array.
#include "checkpoint/chat_source.h"
#include "checkpoint/checkpoint.h"

#include <nlohmann/json.hpp>

#include "bindings.h"
#include "checkpoint/awq_config.h"
#include "checkpoint/hub_cache.h"

namespace awq::python {
namespace {

std::shared_ptr<Checkpoint> open(const std::string& model) {
  return std::const_pointer_cast<Checkpoint>(Checkpoint::open(resolve_model(model)));
}

nb::list tensors(const Checkpoint& c) {
  nb::list out;
  for (const StoredTensor& t : c.tensors()) {
    nb::dict row;
    row["name"] = t.name;
    row["dtype"] = t.dtype;
    row["shape"] = nb::tuple(nb::cast(t.shape));
    row["bytes"] = t.bytes;
    row["file"] = t.file.string();
    out.append(row);
  }
  return out;
}

nb::object tensor(const Checkpoint& c, const std::string& name) {
  const Tensor loaded = [&] {
    nb::gil_scoped_release release;
    const Tensor t = c.load(name, false);
    return is_float(t.dtype()) ? t.to_f32() : t;
  }();
  return numpy_of(loaded);
}

nb::object dequantized(const Checkpoint& c, const std::string& module) {
  Tensor out;
  {
    nb::gil_scoped_release release;
    const QuantWeight w = c.load_quant(module);
    out = Tensor(DType::kF32, {w.rows, w.cols});
    dequantize(w, out.f32());
  }
  return numpy_of(out);
}

nb::object bytes_array(const std::vector<uint8_t>& values, Shape shape) {
  return numpy_of(
      Tensor(DType::kU8, std::move(shape), reinterpret_cast<const std::byte*>(values.data()), nullptr));
}

nb::dict quantized(const Checkpoint& c, const std::string& module) {
  QuantWeight w;
  {
    nb::gil_scoped_release release;
    w = c.load_quant(module);
  }
  nb::dict out;
  out["scheme"] = w.scheme.text();
  out["bits"] = w.scheme.bits;
  out["group_size"] = w.scheme.group_size(w.cols);
  out["codes"] = bytes_array(w.codes, {w.rows, w.cols});
  out["scales"] = numpy_copy(w.scales.data(), {static_cast<size_t>(w.rows), static_cast<size_t>(w.groups())});
  out["zeros"] = w.zeros.empty() ? nb::none() : bytes_array(w.zeros, {w.rows, w.groups()});
  return out;
}

}  // namespace

void bind_checkpoint(nb::module_& m) {
  nb::class_<Checkpoint>(m, "Checkpoint")
      .def_static("open", &open, nb::arg("model"), nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("path", [](const Checkpoint& c) { return c.path().string(); })
      .def_prop_ro("format", [](const Checkpoint& c) { return c.format().name; })
      .def_prop_ro("is_gguf", &Checkpoint::is_gguf)
      .def_prop_ro("config_json", [](const Checkpoint& c) { return c.config().dump(); })
      .def("side_files",
           [](const Checkpoint& c) {
             nb::dict out;
             for (const auto& f : c.side_files())
               out[f.name.c_str()] = nb::bytes(f.contents.data(), f.contents.size());
             return out;
           })
      .def("chat_source",
           [](const Checkpoint& c) {
             const ChatSource source = chat_source(c);
             nb::list templates;
             for (const auto& t : source.templates) {
               nb::dict one;
               one["name"] = t.name;
               one["source"] = t.source;
               templates.append(one);
             }
             nb::dict out;
             out["templates"] = templates;
             out["special_tokens"] = source.special_tokens;
             return out;
           })
      .def("tensors", &tensors)
      .def("is_quantized",
           [](const Checkpoint& c, const std::string& module) { return c.is_quantized(module); })
      .def("tensor", &tensor, nb::arg("name"))
      .def("dequantized", &dequantized, nb::arg("module"))
      .def("quantized", &quantized, nb::arg("module"));
}

}  // namespace awq::python
