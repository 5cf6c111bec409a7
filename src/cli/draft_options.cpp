#include "cli/draft_options.h"

#include "checkpoint/hub_cache.h"
#include "checkpoint/tokenizer_source.h"
#include "runtime/drafting.h"
#include "tokenizer/same_ids.h"

namespace awq::cli {

void add_draft_options(CLI::App& command, DraftOptions& options) {
  const char* group = "Speculation";
  command
      .add_option("--draft-tokens", options.tokens,
                  "guess up to N tokens ahead from the text so far and check them in one step; the text stays the same")
      ->check(CLI::Range(int64_t{0}, kMostDrafts))
      ->type_name("N")
      ->group(group);
  command.add_option("--draft-model", options.model, "guess with this smaller model of the same tokens; 4 tokens unless said otherwise")
      ->type_name("MODEL")
      ->group(group);
}

void apply_draft_options(const DraftOptions& options, const LoadOptions& load, const Tokenizer& tokenizer, EngineOptions& engine) {
  engine.draft_tokens = options.tokens >= 0 ? options.tokens : options.model.empty() ? 0 : kModelDrafts;
  if (options.model.empty() || engine.draft_tokens == 0) return;
  const auto checkpoint = Checkpoint::open(resolve_model(options.model));
  if (!same_ids(*load_tokenizer(*checkpoint), tokenizer))
    fail(Code::kBadArgument, "--draft-model {}: expected the tokenizer of the model it guesses for, got another one", options.model);
  engine.draft_model = Model::load(*checkpoint, load);
}

}  // namespace awq::cli
