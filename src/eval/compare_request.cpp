#include "eval/compare_request.h"

#include "base/system.h"
#include "base/thread_pool.h"
#include "checkpoint/manifest.h"
#include "checkpoint/tokenizer_source.h"
#include "text/protocol.h"

namespace awq {
namespace {

constexpr const char* kDefaultMethods[] = {"awq", "autoawq",     "gptq",     "rtn",
                                           "nf4", "smoothquant", "llm-int8", "salient-fp16"};

// For the side-by-side: facts, lists, code, arithmetic, other languages.
constexpr const char* kPrompts[] = {
    "The capital of France is",
    "Water boils at a lower temperature on a mountain because",
    "Here is a list of five fruits:\n1.",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "If a train travels 60 km in 45 minutes, its speed in km/h is",
    "Once upon a time, in a small village by the sea, there lived",
    "The main difference between a virus and a bacterium is that",
    "Bonjour, je m'appelle",
    "SELECT name, COUNT(*) FROM orders",
    "To make a cup of tea, first",
};

// "gptq", "awq:fast", "rtn:b3", "awq:b3:g32": a method, then quality, bits and group size that differ from
// the command's.
Contender parse_method(const std::string& text, const QuantizeOptions& base) {
  Contender c{text, base, Salient::kNone};
  size_t at = text.find(':');
  std::string name = text.substr(0, at);
  if (name == "salient-fp16" || name == "salient-fp16-weight" || name == "salient-fp16-random") {
    c.salient = name == "salient-fp16"     ? Salient::kByActivation
                : name.ends_with("weight") ? Salient::kByWeight
                                           : Salient::kAtRandom;
    name = "rtn";
  }
  c.options.method = name;
  const Scheme fixed = find_method(name).fixed;
  if (fixed.bits != 0) c.options.bits = 0, c.options.group.reset();
  while (at != std::string::npos) {
    const size_t next = text.find(':', at + 1);
    const std::string part = text.substr(at + 1, next == std::string::npos ? next : next - at - 1);
    at = next;
    const std::string digits = part.size() > 1 ? part.substr(1) : "";
    const bool whole =
        !digits.empty() && digits.size() < 7 && digits.find_first_not_of("0123456789") == std::string::npos;
    if (part == "fast" || part == "best")
      c.options.quality = part;
    else if (part == "sym")
      c.options.symmetric = true;
    else if (part[0] == 'b' && whole)
      c.options.bits = std::stoi(digits);
    else if (part[0] == 'g' && whole)
      c.options.group = std::stoi(digits);
    else
      fail(Code::kBadArgument, "--methods {}: '{}' is not fast, best, sym, bN or gN", text, part);
  }
  return c;
}

std::vector<Contender> contenders_of(const CompareRequest& o) {
  std::vector<std::string> names = o.methods;
  if (names.empty()) names.assign(std::begin(kDefaultMethods), std::end(kDefaultMethods));
  std::vector<Contender> out;
  for (const std::string& name : names) {
    out.push_back(parse_method(name, o.quantize));
    for (size_t i = 0; i + 1 < out.size(); ++i)
      if (out[i].label == name) fail(Code::kBadArgument, "--methods: '{}' is named twice", name);
  }
  return out;
}

// Whose statistics need most text.
const QuantizeOptions& most_demanding(const std::vector<Contender>& contenders) {
  const Contender* most = &contenders.front();
  const auto demand = [](const Contender& c) { return compensates(c.options) ? 2 : calibrates(c.options.method) ? 1 : 0; };
  for (const Contender& c : contenders)
    if (demand(c) > demand(*most)) most = &c;
  return most->options;
}

// All models stand in memory together.
void check_memory(const Checkpoint& checkpoint, const std::vector<Contender>& contenders, int64_t tokens) {
  int64_t models = 0, widest = 0;
  for (const Contender& c : contenders) {
    const QuantizePlan plan = plan_quantize(checkpoint, c.options, tokens);
    models += c.salient == Salient::kNone ? plan.weight_bytes : plan.source_bytes * 2;
    widest = std::max(widest, plan.memory_bytes + plan.source_bytes);
  }
  const int64_t needed = models + widest;
  if (needed > available_ram_bytes())
    fail(Code::kNoMemory,
         "comparing {} methods side by side needs about {} of memory, {} are available: name fewer with "
         "--methods",
         contenders.size(), human_bytes(static_cast<double>(needed)),
         human_bytes(static_cast<double>(available_ram_bytes())));
}

CompareOptions compare_options(const CompareRequest& o, const std::vector<TextSet>& texts, const Tokenizer& tokenizer) {
  const Protocol protocol = protocol_named(o.protocol);
  CompareOptions out;
  out.statistics = o.stats;
  out.limit = o.limit;
  out.speed = !o.no_speed;
  for (const TextSet& text : texts) {
    MeasuredText measured{text.name == "builtin" ? "built-in held-out text" : text.name, text.sha256,
                          protocol_tokens(text, tokenizer, protocol), protocol_windows(protocol, tokenizer)};
    if (static_cast<int64_t>(measured.tokens.size()) < measured.spec.length)
      fail(Code::kBadArgument, "--data {}: expected at least {} tokens, one window of {}, got {}", text.name,
           measured.spec.length, o.protocol, measured.tokens.size());
    out.texts.push_back(std::move(measured));
  }
  if (!o.no_prompts)
    for (const char* prompt : kPrompts) out.prompts.push_back(tokenizer.encode(prompt, true));
  return out;
}

}  // namespace

std::vector<std::string> default_methods() { return {std::begin(kDefaultMethods), std::end(kDefaultMethods)}; }

CompareResult run_compare(const Checkpoint& checkpoint, const CompareRequest& request, const CalibrationText& calibration,
                          const std::vector<TextSet>& texts, const ProgressFn& progress) {
  const double start = now_seconds();
  CompareRequest o = request;
  o.resolve_group();
  const std::vector<Contender> contenders = contenders_of(o);
  for (const Contender& c : contenders) plan_quantize(checkpoint, c.options, 0);  // what is wrong is said before text is read
  const auto tokenizer = load_tokenizer(checkpoint);
  const CompareOptions options = compare_options(o, texts, *tokenizer);
  const std::vector<int32_t> stream = calibration.ids ? *calibration.ids : token_stream(calibration.text, *tokenizer);
  const int64_t vocabulary = parse_model_config(checkpoint.config(), checkpoint.path().string()).vocab;
  for (const int32_t id : stream)
    if (id < 0 || id >= vocabulary)
      fail(Code::kBadArgument, "--calib {}: expected token ids below {}, got {}", calibration.text.name, vocabulary, id);
  SampleChoice choice = calibration_sequences(checkpoint, o, most_demanding(contenders), stream, progress);
  const QuantizeInputs inputs{std::move(choice.sequences), {}, Precision::kBf16};
  if (inputs.calibration.tokens() == 0) fail(Code::kBadArgument, "--calib {}: expected text, got none", calibration.text.name);
  check_memory(checkpoint, contenders, inputs.calibration.tokens());

  CompareResult out;
  out.comparison = compare_methods(checkpoint, contenders, inputs, options, progress);
  CompareFacts& facts = out.facts;
  facts.model = public_name(checkpoint.path());
  facts.calibration = calibration.text.name;
  facts.machine = fmt::format("{} threads, {}", threads(), isa_name(isa()));
  facts.calibration_tokens = inputs.calibration.tokens();
  facts.seq_len = o.seq_len;
  facts.samples = std::move(choice);
  for (const MeasuredText& t : options.texts) facts.text_names.push_back(fmt::format("{}, {}", t.name, o.protocol));
  if (!o.no_prompts) facts.prompts.assign(std::begin(kPrompts), std::end(kPrompts));
  facts.seconds = now_seconds() - start;
  facts.tokenizer = tokenizer;
  return out;
}

}  // namespace awq
