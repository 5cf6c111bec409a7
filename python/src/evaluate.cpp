#include "base/error.h"
#include "bindings.h"
#include "checkpoint/hub_cache.h"
#include "checkpoint/tokenizer_source.h"
#include "eval/perplexity.h"
#include "loaded_model.h"
#include "text/protocol.h"

namespace awq::python {
namespace {

nb::dict result(const Evaluation& e) {
  nb::dict out;
  out["windows"] = e.windows;
  out["tokens"] = e.targets;
  out["nll"] = e.nll;
  out["nll_ci95"] = e.nll_ci95;
  out["perplexity"] = e.perplexity;
  out["perplexity_ci95"] = e.perplexity_ci95;
  if (const auto& d = e.divergence) {
    out["kl"] = d->kl;
    out["kl_ci95"] = d->kl_ci95;
    out["kl_median"] = d->kl_median;
    out["kl_p99"] = d->kl_p99;
    out["kl_max"] = d->kl_max;
    out["top1_agreement"] = d->top1_agreement;
    out["reference_perplexity"] = d->reference_perplexity;
  }
  return out;
}

nb::dict evaluate_on(const LoadedModel& m, nb::object reference, const Tokenizer& tokenizer,
                     const TextSet& text, const std::string& protocol, int64_t limit, nb::object progress) {
  const LoadedModel* other = reference.is_none() ? nullptr : nb::cast<const LoadedModel*>(reference);
  const Protocol p = protocol_named(protocol);
  Callback callback(std::move(progress));
  const ProgressFn report = progress_to(callback);
  LongCall call;
  try {
    const Evaluation e = call.run([&] {
      const std::vector<int32_t> tokens = protocol_tokens(text, tokenizer, p);
      return evaluate(*m.model, other ? other->model.get() : nullptr, tokens, protocol_windows(p, tokenizer),
                      limit, report);
    });
    return result(e);
  } catch (const Error&) {
    callback.rethrow();
    throw;
  }
}

}  // namespace

void bind_evaluate(nb::module_& m) {
  m.def("evaluate", &evaluate_on, nb::arg("model"), nb::arg("reference").none(), nb::arg("tokenizer"),
        nb::arg("text"), nb::arg("protocol"), nb::arg("limit"), nb::arg("progress").none());
}

}  // namespace awq::python
