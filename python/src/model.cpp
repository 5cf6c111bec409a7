// A loaded model: forward passes that show what lies inside, and scores of texts.
#include "model/model.h"

#include <nanobind/stl/filesystem.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "bindings.h"
#include "checkpoint/hub_cache.h"
#include "loaded_model.h"
#include "model/load_words.h"
#include "runtime/end_ids.h"

namespace awq::python {
namespace {

// Copies what a forward pass shows, laid out as transformers returns it for one sequence.
class Recorder final : public Observer {
 public:
  Recorder(bool hidden, bool attentions) : hidden_(hidden), attentions_(attentions) {}
  void on_input(int64_t, Site, const float*, int64_t, int64_t) override {}
  void on_hidden(int64_t, const float* hidden, int64_t tokens, int64_t dim) override {
    if (hidden_) hidden_states.emplace_back(hidden, hidden + tokens * dim);
  }
  bool wants_attention(int64_t) override { return attentions_; }
  void on_attention(int64_t, int64_t, const float* weights, int64_t heads, int64_t tokens) override {
    attentions.emplace_back(weights, weights + heads * tokens * tokens);
  }
  std::vector<std::vector<float>> hidden_states, attentions;

 private:
  bool hidden_, attentions_;
};

struct Forward {
  std::vector<float> states, logits;
};

void check_sequence(const Model& model, const std::vector<int32_t>& ids) {
  if (ids.empty()) fail(Code::kBadArgument, "input ids: expected at least one token, got none");
  for (const int32_t id : ids)
    if (id < 0 || id >= model.config().vocab)
      fail(Code::kBadArgument, "input ids: expected ids from 0 to {}, got {}", model.config().vocab - 1, id);
}

Forward run_forward(const Model& model, const std::vector<int32_t>& ids, Observer* observer) {
  check_sequence(model, ids);
  std::vector<int32_t> positions(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) positions[i] = static_cast<int32_t>(i);
  const int64_t tokens = static_cast<int64_t>(ids.size());
  const SpanView span{0, tokens, 0, nullptr};
  Forward out;
  Scratch scratch;
  model.forward({ids, positions, {&span, 1}}, nullptr, scratch, out.states, observer);
  out.logits.resize(static_cast<size_t>(tokens * model.config().vocab));
  model.logits(out.states.data(), tokens, out.logits.data());
  return out;
}

nb::dict forward(const LoadedModel& m, const std::vector<int32_t>& ids, bool want_hidden,
                 bool want_attentions) {
  const ModelConfig& c = m.model->config();
  if (m.model->device() && (want_hidden || want_attentions))
    fail(Code::kUnsupported, "hidden states and attentions: expected a model on the CPU, got one on the GPU");
  Recorder recorder(want_hidden, want_attentions);
  LongCall call;
  const Forward f = call.run(
      [&] { return run_forward(*m.model, ids, want_hidden || want_attentions ? &recorder : nullptr); });
  const size_t tokens = ids.size(), dim = static_cast<size_t>(c.hidden), heads = static_cast<size_t>(c.heads);
  nb::dict out;
  out["logits"] = numpy_copy(f.logits.data(), {1, tokens, static_cast<size_t>(c.vocab)});
  if (want_hidden) {
    // As transformers: the embedding, the states after each block, and in place of the last those after the
    // final norm.
    nb::list states;
    for (size_t i = 0; i + 1 < recorder.hidden_states.size(); ++i)
      states.append(numpy_copy(recorder.hidden_states[i].data(), {1, tokens, dim}));
    states.append(numpy_copy(f.states.data(), {1, tokens, dim}));
    out["hidden_states"] = nb::tuple(states);
  }
  if (want_attentions) {
    nb::list weights;
    for (const auto& layer : recorder.attentions)
      weights.append(numpy_copy(layer.data(), {1, heads, tokens, tokens}));
    out["attentions"] = nb::tuple(weights);
  }
  return out;
}

std::vector<double> logprobs(const LoadedModel& m, const std::vector<int32_t>& ids) {
  LongCall call;
  return call.run([&] {
    const Forward f = run_forward(*m.model, ids, nullptr);
    std::vector<double> out(ids.size() - 1);
    if (!out.empty())
      log_softmax_gather(f.logits.data(), static_cast<int64_t>(out.size()), m.model->config().vocab,
                         ids.data() + 1, out.data());
    return out;
  });
}

LoadOptions load_options(const nb::dict& given) {
  LoadOptions o;
  std::string precision = "exact", load_in, device = "cpu";
  take(given, "precision", precision);
  take(given, "head_bits", o.head_bits);
  take(given, "load_in", load_in);
  take(given, "pack_cache", o.pack_cache);
  take(given, "device", device);
  o.precision = precision_named(precision);
  o.load_in = load_in_named(load_in);
  o.device = device_named(device);
  check_head_bits(o.head_bits);
  return o;
}

std::shared_ptr<LoadedModel> load(const std::string& model, const nb::dict& given, nb::object progress) {
  LoadOptions options = load_options(given);
  Callback callback(std::move(progress));
  options.progress = progress_to(callback);
  LongCall call;
  try {
    return call.run([&] {
      auto out = std::make_shared<LoadedModel>();
      const auto checkpoint = Checkpoint::open(resolve_model(model));
      out->end_ids = end_ids(*checkpoint);
      out->model = Model::load(*checkpoint, options);
      return out;
    });
  } catch (const Error&) {
    callback.rethrow();
    throw;
  }
}

nb::dict config(const LoadedModel& m) {
  const ModelConfig& c = m.model->config();
  nb::dict out;
  out["model_type"] = c.model_type;
  out["hidden_size"] = c.hidden;
  out["num_hidden_layers"] = c.layers;
  out["num_attention_heads"] = c.heads;
  out["vocab_size"] = c.vocab;
  out["max_position_embeddings"] = c.max_position;
  out["bos_token_id"] = c.bos;
  out["eos_token_ids"] = m.end_ids;
  return out;
}

}  // namespace

void bind_model(nb::module_& m) {
  nb::class_<LoadedModel>(m, "Model")
      .def_static("load", &load, nb::arg("model"), nb::arg("options"), nb::arg("progress").none())
      .def_prop_ro("config", &config)
      .def_prop_ro("device", [](const LoadedModel& l) { return l.model->device() ? "cuda" : "cpu"; })
      .def_prop_ro("bytes", [](const LoadedModel& l) { return l.model->bytes(); })
      .def("forward", &forward, nb::arg("ids"), nb::arg("hidden_states") = false,
           nb::arg("attentions") = false)
      .def("logprobs", &logprobs, nb::arg("ids"));
}

}  // namespace awq::python
