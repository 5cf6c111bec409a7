// awq serve: a model behind an HTTP interface that OpenAI's clients speak.
#include <fmt/core.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/log.h"
#include "base/system.h"
#include "checkpoint/chat_source.h"
#include "checkpoint/hub_cache.h"
#include "checkpoint/tokenizer_source.h"
#include "cli/commands.h"
#include "cli/draft_options.h"
#include "cli/options.h"
#include "model/load_words.h"
#include "runtime/end_ids.h"
#include "server/api.h"
#include "text/chat.h"

namespace awq::cli {
namespace {

using namespace std::chrono_literals;

struct Options {
  std::string model, host = "127.0.0.1", name, key_file, kv_dtype = "float16", precision = "fast", load_in, pack_cache;
  int head_bits = 0;
  uint16_t port = 8000;
  std::vector<std::string> hosts, origins;
  bool no_key = false, invariant = false;
  uint64_t kv_bytes = 0, memory_bytes = 0;
  int64_t max_sequences = 64, max_waiting = 256;
  DraftOptions draft;
  double request_seconds = 600, drain_seconds = 30;
};

bool is_loopback(const std::string& address) { return address.starts_with("127.") || address == "::1"; }

server::AccessRules access_rules(const Options& o) {
  server::AccessRules rules;
  if (!o.key_file.empty()) rules.keys.add_file(o.key_file);
  // Not from the command line, which every user of the machine can read.
  if (const char* key = std::getenv("AWQ_API_KEY"); key != nullptr && *key != '\0') rules.keys.add(key);
  if (!is_loopback(o.host) && !rules.keys.required() && !o.no_key)
    fail(Code::kBadArgument,
         "--host {}: whoever reaches this machine could use the server; expected a key (--api-key-file or "
         "AWQ_API_KEY), or "
         "--no-key to go without",
         o.host);
  rules.origins = o.origins;
  rules.hosts = o.hosts;
  // A page elsewhere can make a browser call us under a name of its own (DNS rebinding).
  if (!rules.hosts.empty() || is_loopback(o.host))
    for (const char* own : {"localhost", "127.0.0.1", "[::1]"}) rules.hosts.emplace_back(own);
  if (is_loopback(o.host) && o.host != "::1") rules.hosts.push_back(o.host);
  return rules;
}

// What comes on top while serving: connections, requests, answers, the allocator's slack.
constexpr int64_t kServingBytes = 24 << 20;

// Reads all weights once, so that what is mapped is resident.
void warm_up(const Model& model) {
  const int32_t token = 0, position = 0;
  const SpanView span{0, 1, 0, nullptr};
  Scratch scratch;
  std::vector<float> hidden, logits(static_cast<size_t>(model.config().vocab));
  model.forward({{&token, 1}, {&position, 1}, {&span, 1}}, nullptr, scratch, hidden);
  model.logits(hidden.data(), 1, logits.data());
}

// Bytes for keys and values. By default half of the memory that is free.
int64_t cache_bytes(const Options& o, const Model& model, const EngineOptions& e) {
  if (o.kv_bytes > 0) return static_cast<int64_t>(o.kv_bytes);
  if (o.memory_bytes == 0) return available_ram_bytes() / 2;
  int64_t taken = kServingBytes;
  for (const Model* m : {&model, e.draft_model.get()}) {
    if (m == nullptr) continue;
    warm_up(*m);
    taken += Engine::step_bytes(m->config(), e);
  }
  return_freed_memory();  // of warming up
  taken += rss_bytes();
  const auto memory = static_cast<int64_t>(o.memory_bytes);
  if (taken >= memory)
    fail(Code::kBadArgument, "--memory: expected more than {} for weights and buffers, got {}", human_bytes(static_cast<double>(taken)),
         human_bytes(static_cast<double>(memory)));
  return memory - taken;
}

// The cache gets no more than all places with full contexts could use. Pages of a draft model come with it.
EngineOptions engine_options(const Options& o, const Checkpoint& checkpoint, const Model& model, const LoadOptions& load,
                             const Tokenizer& tokenizer) {
  const ModelConfig& config = model.config();
  EngineOptions e;
  e.kv_dtype = kv_dtype_named(o.kv_dtype);
  e.max_sequences = o.max_sequences;
  e.max_batch_tokens = std::max<int64_t>(512, o.max_sequences);
  e.end_ids = end_ids(checkpoint);
  e.step_seconds = 0.1;
  apply_draft_options(o.draft, load, tokenizer, e);
  const int64_t page = KvCache::page_bytes(model, e.kv_dtype) + (e.draft_model ? KvCache::page_bytes(*e.draft_model, e.kv_dtype) : 0);
  const int64_t most = PageAllocator::pages_for(config.max_position) * o.max_sequences;
  const int64_t bytes = cache_bytes(o, model, e);
  e.kv_pages = std::min(bytes / page, most);
  if (e.kv_pages == 0)
    fail(Code::kBadArgument, "memory: {} hold no page of the key/value cache: one takes {}",
         human_bytes(static_cast<double>(bytes)), human_bytes(static_cast<double>(page)));
  return e;
}

// Null when the model has no chat template, or one that is not understood: it then serves completions.
std::shared_ptr<const ChatRenderer> chat_renderer(const Checkpoint& checkpoint) {
  try {
    return std::make_shared<const ChatRenderer>(chat_source(checkpoint));
  } catch (const Error& error) {
    log(error.code() == Code::kNotFound ? Level::kInfo : Level::kWarning, "no chat: {}", error.what());
    return nullptr;
  }
}

// The variables of a request, as the server collected them, fitted to the template.
std::string render(const ChatRenderer& chat, std::string_view variables) {
  nlohmann::ordered_json context = nlohmann::ordered_json::parse(variables);
  Conversation c;
  c.messages = context["messages"].dump();
  c.add_generation_prompt = context["add_generation_prompt"].get<bool>();
  if (context.contains("tools")) c.tools = context["tools"].dump();
  for (const char* own : {"messages", "add_generation_prompt", "tools"}) context.erase(own);
  c.variables = context.dump();
  return chat.render(c).text;
}

server::ServedModel load(const Options& o, const Context& context) {
  const std::filesystem::path path = resolve_model(o.model);
  const auto checkpoint = Checkpoint::open(path);
  server::ServedModel m;
  m.tokenizer = load_tokenizer(*checkpoint);
  LoadOptions weights{precision_named(o.precision), context.report};
  weights.head_bits = o.head_bits;
  weights.invariant = o.invariant;
  weights.pack_cache = o.pack_cache;
  weights.device = model_device(context);
  weights.load_in = load_in_named(o.load_in);
  const auto model = Model::load(*checkpoint, weights);
  EngineOptions engine = engine_options(o, *checkpoint, *model, weights, *m.tokenizer);
  if (const auto chat = chat_renderer(*checkpoint)) {
    if (const auto id = chat->turn_end(*m.tokenizer)) engine.end_ids.push_back(*id);
    Conversation with_tools;
    with_tools.tools = "[]";
    m.template_takes_tools = chat->choose(with_tools).mentions("tools");
    m.render_chat = [chat](std::string_view variables) { return render(*chat, variables); };
  }
  m.engine = std::make_shared<Engine>(model, engine);
  m.end_ids = engine.end_ids;
  m.created = std::time(nullptr);
  // The name of the file or folder alone: where it lies is nobody's business.
  m.name = o.name.empty() ? std::filesystem::path(o.model).lexically_normal().filename().string() : o.name;
  if (m.name.empty() || m.name == ".") m.name = std::filesystem::weakly_canonical(path).filename().string();
  context.end_report();
  log(Level::kInfo, "key/value cache: {} tokens in {}", engine.kv_pages * kPageTokens,
      human_bytes(
          static_cast<double>(engine.kv_pages * KvCache::page_bytes(*model, engine.kv_dtype))));
  return m;
}

// Each connection takes a file descriptor.
void raise_descriptor_limit() {
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

int run(Options o, const Context& context) {
  if (o.host == "localhost") o.host = "127.0.0.1";
  server::AccessRules rules = access_rules(o);
  raise_descriptor_limit();
  server::Service service(load(o, context), {o.max_waiting, o.request_seconds});
  server::Api api(service, std::move(rules));
  server::HttpOptions http;
  http.address = o.host;
  http.port = o.port;
  server::HttpServer listener(
      http, [&api](server::HttpRequest request, const std::shared_ptr<server::HttpReply>& reply) {
        api.handle(std::move(request), reply);
      });
  const std::string shown = o.host.find(':') == std::string::npos ? o.host : "[" + o.host + "]";
  log(Level::kInfo, "serving {} at http://{}:{} - stop with Ctrl-C", service.model().name, shown,
      listener.port());

  while (!cancel_requested()) std::this_thread::sleep_for(50ms);
  log(Level::kInfo, "stopping: running answers have up to {:.0f} s to end", o.drain_seconds);
  const bool all = service.drain(o.drain_seconds);
  listener.drain();
  for (int i = 0; i < 40 && listener.connections() > 0; ++i) std::this_thread::sleep_for(50ms);
  if (!all) log(Level::kWarning, "some answers were cut off");
  return 0;
}

}  // namespace

void add_serve(CLI::App& app, Context& context) {
  const auto o = std::make_shared<Options>();
  auto& command =
      add_command(app, context,
                  {"serve", "Serve a model over HTTP, as OpenAI's API and a page",
                   "awq serve ./qwen-awq\nawq serve model.gguf --host 0.0.0.0 --api-key-file keys.txt"},
                  [o, &context] { return run(*o, context); });
  command.add_option("MODEL", o->model, "folder, .gguf file or org/name")->required();
  command.add_option("--host", o->host, "address to listen on; others than this machine's own need a key")
      ->type_name("ADDRESS")
      ->capture_default_str();
  command.add_option("--port", o->port, "0: any free one")->type_name("N")->capture_default_str();
  command.add_option("--name", o->name, "what clients call the model (default: its file's name)")
      ->type_name("NAME");
  const char* access = "Access";
  command
      .add_option("--api-key-file", o->key_file, "keys that are accepted, one a line; AWQ_API_KEY adds one")
      ->type_name("FILE")
      ->group(access);
  command.add_flag("--no-key", o->no_key, "listen on other addresses without a key")->group(access);
  command.add_option("--allowed-host", o->hosts, "a name under which clients may call")
      ->type_name("NAME")
      ->group(access);
  command
      .add_option("--allowed-origin", o->origins, "a web origin whose pages may call, https://example.org")
      ->type_name("ORIGIN")
      ->group(access);
  const char* limits = "Limits";
  command.add_option("--max-sequences", o->max_sequences, "answers generated at one time")
      ->check(CLI::Range(int64_t{1}, int64_t{4096}))
      ->type_name("N")
      ->capture_default_str()
      ->group(limits);
  command.add_option("--max-waiting", o->max_waiting, "answers that may wait; more are refused")
      ->check(CLI::Range(int64_t{0}, int64_t{1000000}))
      ->type_name("N")
      ->capture_default_str()
      ->group(limits);
  command
      .add_option("--kv-memory", o->kv_bytes, "for keys and values, as 4GiB (default: half of what is free)")
      ->transform(CLI::AsSizeValue(false))
      ->type_name("SIZE")
      ->group(limits);
  command
      .add_option("--memory", o->memory_bytes, "for everything: weights, buffers, and what is left for keys and values")
      ->transform(CLI::AsSizeValue(false))
      ->type_name("SIZE")
      ->excludes("--kv-memory")
      ->group(limits);
  add_precision_options(command, o->precision, o->head_bits);
  add_invariant_option(command, o->invariant);
  add_load_in_option(command, o->load_in);
  add_pack_cache_option(command, o->pack_cache);
  add_draft_options(command, o->draft);
  add_kv_dtype_option(command, o->kv_dtype)->group(limits);
  command.add_option("--request-timeout", o->request_seconds, "seconds one request may take; 0: any")
      ->check(CLI::Range(0.0, 1e9))
      ->type_name("S")
      ->capture_default_str()
      ->group(limits);
  command.add_option("--drain-timeout", o->drain_seconds, "seconds that running answers get when stopped")
      ->check(CLI::Range(0.0, 1e9))
      ->type_name("S")
      ->capture_default_str()
      ->group(limits);
}

}  // namespace awq::cli
