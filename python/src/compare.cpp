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
  const auto take = [&](const char* name, auto& field) {
    if (given.contains(name)) field = nb::cast<std::remove_reference_t<decltype(field)>>(given[name]);
  };
  take("model", o.model);
  take("methods", o.methods);
  take("bits", o.quantize.bits);
  take("group_size", o.group);
  take("calib", o.calib);
  take("samples", o.samples);
  take("seq_len", o.seq_len);
  take("protocol", o.protocol);
  take("limit", o.limit);
  bool speed = true, prompts = true;
  take("speed", speed);
  take("prompts", prompts);
  o.no_speed = !speed;
  o.no_prompts = !prompts;
  take("stats", o.stats.load);
  take("save_stats", o.stats.save);
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
