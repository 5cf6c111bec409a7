// Methods compared as `awq compare --json` does it.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "bindings.h"
#include "checkpoint/hub_cache.h"
#include "eval/compare_request.h"

namespace awq::python {
namespace {

CompareRequest request_from(const nb::dict& given) {
  CompareRequest o;
  take(given, "model", o.model);
  take(given, "methods", o.methods);
  take(given, "bits", o.quantize.bits);
  take(given, "group_size", o.group);
  take(given, "calib", o.calib);
  take(given, "samples", o.samples);
  take(given, "seq_len", o.seq_len);
  take(given, "protocol", o.protocol);
  take(given, "limit", o.limit);
  bool speed = true, prompts = true;
  take(given, "speed", speed);
  take(given, "prompts", prompts);
  o.no_speed = !speed;
  o.no_prompts = !prompts;
  take(given, "stats", o.stats.load);
  take(given, "save_stats", o.stats.save);
  return o;
}

}  // namespace

void bind_compare(nb::module_& m) {
  m.def(
      "compare",
      [](const nb::dict& given, const std::string& calib_name, const std::string& calib_sha256, std::vector<int32_t> ids,
         std::vector<TextSet> texts, nb::object progress) {
        const CompareRequest request = request_from(given);
        CalibrationText calibration{{calib_name, calib_sha256, {}, false}, std::move(ids)};
        Callback callback(std::move(progress));
        const ProgressFn report = progress_to(callback);
        LongCall call;
        try {
          return call.run([&] {
            const auto checkpoint = Checkpoint::open(resolve_model(request.model));
            const CompareResult result = run_compare(*checkpoint, request, calibration, texts, report);
            // Answers may end within a character.
            return compare_json(result.comparison, result.facts).dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
          });
        } catch (const Error&) {
          callback.rethrow();
          throw;
        }
      },
      nb::arg("options"), nb::arg("calib_name"), nb::arg("calib_sha256"), nb::arg("calib_ids"), nb::arg("texts"),
      nb::arg("progress").none());
}

}  // namespace awq::python
