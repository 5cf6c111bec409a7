#include "cli/eval_text.h"

#include <algorithm>

#include "base/log.h"
#include "base/system.h"
#include "checkpoint/hub_cache.h"
#include "checkpoint/tokenizer_source.h"
#include "model/load_words.h"
#include "text/protocol.h"

namespace awq::cli {
namespace {

// Windows are all alike: nothing is lost by the products that are faster for many tokens.
LoadOptions whole_windows(const Context& context, Precision precision) {
  LoadOptions load{precision, context.report};
  load.product = Product::kAuto;
  return load;
}

std::shared_ptr<const Model> load_model(const Context& context, const EvalOptions& o,
                                        const Checkpoint& checkpoint) {
  LoadOptions load = whole_windows(context, precision_named(o.precision));
  load.head_bits = o.head_bits;
  load.invariant = o.invariant;
  if (o.invariant) load.product = Product::kInvariant;
  load.device = model_device(context);
  return Model::load(checkpoint, load);
}

// A reference that splits text differently would be asked about tokens it means something else by. One
// without a tokenizer of its own is taken at its vocabulary's size.
void check_same_tokens(const EvalOptions& o, const Checkpoint& reference, const TextSet& text, Protocol protocol,
                       const std::vector<int32_t>& tokens) {
  std::shared_ptr<const Tokenizer> tokenizer;
  try {
    tokenizer = load_tokenizer(reference);
  } catch (const Error& error) {
    if (error.code() != Code::kNotFound) throw;
    return;
  }
  if (protocol_tokens(text, *tokenizer, protocol) != tokens)
    fail(Code::kBadArgument,
         "{} and {} split {} into different tokens: expected two models with one tokenizer", o.model,
         o.reference, text.name);
}

void warn_about_context(const Model& model, const WindowSpec& spec, const std::string& name) {
  if (const int64_t longest = model.config().max_position; longest > 0 && longest < spec.length)
    log(Level::kWarning, "{}: made for {} tokens of context, evaluated on windows of {}", name, longest,
        spec.length);
}

}  // namespace

TextRun measure_text(const Context& context, const EvalOptions& o) {
  const double start = now_seconds();
  const Protocol protocol = protocol_named(o.protocol);
  const auto checkpoint = Checkpoint::open(resolve_model(o.model));
  const auto reference_checkpoint = o.reference.empty() ? nullptr : Checkpoint::open(resolve_model(o.reference));
  const auto tokenizer = load_tokenizer(*checkpoint);
  const WindowSpec spec = protocol_windows(protocol, *tokenizer);
  TextRun run;
  run.text = load_text(o.data, Builtin::kHeldout);
  const std::vector<int32_t> tokens = protocol_tokens(run.text, *tokenizer, protocol);
  const int64_t length = static_cast<int64_t>(tokens.size());
  if (length < spec.length)
    fail(Code::kBadArgument, "--data {}: expected at least {} tokens, one window of {}, got {}", o.data, spec.length, o.protocol, length);
  if (reference_checkpoint) check_same_tokens(o, *reference_checkpoint, run.text, protocol, tokens);
  const auto model = load_model(context, o, *checkpoint);
  const auto reference = reference_checkpoint ? Model::load(*reference_checkpoint, whole_windows(context, Precision::kExact)) : nullptr;
  warn_about_context(*model, spec, o.model);
  const std::optional<DType> cache = o.kv_dtype.empty() ? std::nullopt : std::optional(kv_dtype_named(o.kv_dtype));
  run.evaluation = evaluate(*model, reference.get(), tokens, spec, o.limit, context.report, cache);
  run.used_tokens = o.limit > 0 ? std::min(length, o.limit * spec.length) : length;
  run.seconds = now_seconds() - start;
  return run;
}

}  // namespace awq::cli
