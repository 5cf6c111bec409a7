// Measuring a model on a text, with or without a reference: what `awq eval` and `awq gate` share.
#pragma once
#include "cli/eval_tasks.h"
#include "eval/perplexity.h"
#include "text/text_source.h"

namespace awq::cli {

struct TextRun {
  TextSet text;
  Evaluation evaluation;
  int64_t used_tokens = 0;  // of the text: --limit shortens it
  double seconds = 0;
};
// Everything but the weights is read first, so that what is wrong with it is said at once.
TextRun measure_text(const Context& context, const EvalOptions& options);

}  // namespace awq::cli
