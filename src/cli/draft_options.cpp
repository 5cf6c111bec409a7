#include "cli/draft_options.h"

#include "checkpoint/hub_cache.h"
#include "checkpoint/tokenizer_source.h"
#include "runtime/drafting.h"

namespace awq::cli {
namespace {

// What the tokenizers of different models cut differently.
constexpr const char* kProbe =
    "The tide of 1,024 boats\n\n\tdef area(w, h): return w * h  # m\u00b2 \u2014 \u7e41\u9ad4\u4e2d\u6587, \u0440\u0443\u0441\u0441\u043a\u0438\u0439 "
    "\U0001f600 don't  <|im_start|>user\n</s>";

}  // namespace

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
  engine.draft_tokens = options.tokens >= 0 ? options.tokens : options.model.empty() ? 0 : 4;
  if (options.model.empty() || engine.draft_tokens == 0) return;
  const auto checkpoint = Checkpoint::open(resolve_model(options.model));
  if (load_tokenizer(*checkpoint)->encode(kProbe, true) != tokenizer.encode(kProbe, true))
    fail(Code::kBadArgument, "--draft-model {}: expected the tokenizer of the model it guesses for, got another one", options.model);
  engine.draft_model = Model::load(*checkpoint, load);
}

}  // namespace awq::cli
