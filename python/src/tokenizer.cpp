#include "tokenizer/tokenizer.h"
#include "bindings.h"
#include "checkpoint/chat_source.h"
#include "checkpoint/hub_cache.h"
#include "checkpoint/tokenizer_source.h"
#include "text/chat.h"
#include "text/detokenizer.h"
#include "text/text_source.h"
#include "tokenizer/same_ids.h"

namespace awq::python {
namespace {

std::vector<int32_t> encode(const Tokenizer& t, const std::string& text, bool special) {
  nb::gil_scoped_release release;
  return t.encode(text, special);
}

std::vector<int32_t> stream(const Tokenizer& t, const TextSet& text) {
  nb::gil_scoped_release release;
  return token_stream(text, t);
}

struct PythonChat {
  PythonChat(const std::vector<std::pair<std::string, std::string>>& templates, const std::string& special_tokens,
             const std::string& where)
      : renderer(source(templates, special_tokens, where)) {}
  static ChatSource source(const std::vector<std::pair<std::string, std::string>>& templates,
                           const std::string& special_tokens, const std::string& where) {
    ChatSource out{{}, special_tokens, where};
    for (const auto& [name, text] : templates) out.templates.push_back({name, text, where + ": chat template '" + name + "'"});
    return out;
  }
  ChatRenderer renderer;
};

std::string render_chat(const PythonChat& chat, const std::string& messages, const nb::dict& settings) {
  Conversation c;
  c.messages = messages;
  c.tools = nb::cast<std::string>(settings["tools"]);
  c.variables = nb::cast<std::string>(settings["variables"]);
  c.template_name = nb::cast<std::string>(settings["template_name"]);
  c.add_generation_prompt = nb::cast<bool>(settings["add_generation_prompt"]);
  c.continue_final_message = nb::cast<bool>(settings["continue_final_message"]);
  c.adapt = false;
  nb::gil_scoped_release release;
  return chat.renderer.render(c).text;
}

// Conversations in calibration text, in the template of `model`; read only where there are any.
ConversationFn conversations_of(const std::string& model) {
  auto renderer = std::make_shared<std::unique_ptr<ChatRenderer>>();
  return [model, renderer](const std::string& record) {
    if (!*renderer) *renderer = std::make_unique<ChatRenderer>(chat_source(*Checkpoint::open(resolve_model(model))));
    return conversation_text(**renderer, record);
  };
}

}  // namespace

void bind_tokenizer(nb::module_& m) {
  nb::class_<Tokenizer>(m, "Tokenizer")
      .def_static(
          "from_model",
          [](const std::string& model) {
            return std::const_pointer_cast<Tokenizer>(
                load_tokenizer(*Checkpoint::open(resolve_model(model))));
          },
          nb::call_guard<nb::gil_scoped_release>())
      .def_static(
          "from_dir",
          [](const std::string& dir) { return std::const_pointer_cast<Tokenizer>(Tokenizer::from_dir(dir)); },
          nb::call_guard<nb::gil_scoped_release>())
      .def("encode", &encode, nb::arg("text"), nb::arg("add_special_tokens"))
      .def("decode",
           [](const Tokenizer& t, const std::vector<int32_t>& ids, bool skip) { return t.decode(ids, skip); })
      .def("token_bytes",
           [](const Tokenizer& t, int32_t id) {
             const std::string bytes = t.token_bytes(id);
             return nb::bytes(bytes.data(), bytes.size());
           })
      .def("is_special", &Tokenizer::is_special)
      .def("id_of", [](const Tokenizer& t, const std::string& token) { return t.id_of(token); })
      .def("stream", &stream)
      .def("same_ids", &same_ids, nb::arg("other"))
      .def_prop_ro("vocab_size", &Tokenizer::vocab_size);

  nb::class_<Detokenizer>(m, "Detokenizer")
      .def("__init__", [](Detokenizer* self, std::shared_ptr<Tokenizer> t) { new (self) Detokenizer(t); })
      .def("push", [](Detokenizer& d, int32_t id) { return d.push(id); })
      .def("flush", [](Detokenizer& d) { return d.flush(); });

  nb::class_<TextSet>(m, "TextSet")
      .def_ro("name", &TextSet::name)
      .def_ro("sha256", &TextSet::sha256)
      .def_ro("samples", &TextSet::samples);
  nb::class_<PythonChat>(m, "ChatRenderer")
      .def(nb::init<const std::vector<std::pair<std::string, std::string>>&, const std::string&, const std::string&>())
      .def("render", &render_chat);
  m.def(
      "load_text",
      [](const std::string& spec, bool heldout, const std::string& model) {
        return load_text(spec, heldout ? Builtin::kHeldout : Builtin::kCalibration,
                         model.empty() ? ConversationFn() : conversations_of(model));
      },
      nb::arg("spec"), nb::arg("heldout"), nb::arg("model") = "", nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "parse_json_lines",
      [](const std::string& bytes, const std::string& name, const std::string& model) {
        return parse_text(bytes, name, name, TextFormat::kJsonLines,
                          model.empty() ? ConversationFn() : conversations_of(model));
      },
      nb::arg("bytes"), nb::arg("name"), nb::arg("model") = "", nb::call_guard<nb::gil_scoped_release>());
  m.def("resolve_model", [](const std::string& model) { return resolve_model(model).string(); });
}

}  // namespace awq::python
