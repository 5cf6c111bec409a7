// The form of --help: examples first, then summary, usage, arguments and options by group, wrapped at 80
// columns.
#include <fmt/core.h>

#include <algorithm>

#include "cli/options.h"

namespace awq::cli {
namespace {

constexpr size_t kWidth = 80, kIndent = 26;

// Words of `text` in lines of at most kWidth columns that start at `indent`; the first line starts where
// `used` ends.
std::string wrap(const std::string& text, size_t indent, size_t used) {
  std::string out;
  size_t column = used;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    const std::string word = text.substr(at, end - at);
    if (column > indent && column + 1 + word.size() > kWidth) {
      out += '\n' + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out += ' ', ++column;
    }
    out += word;
    column += word.size();
    at = end + 1;
  }
  return out + "\n";
}

std::string entry(const std::string& name, const std::string& description) {
  std::string left = "  " + name;
  if (left.size() + 2 > kIndent)
    return left + "\n" + std::string(kIndent, ' ') + wrap(description, kIndent, kIndent);
  left.resize(kIndent, ' ');
  return left + wrap(description, kIndent, kIndent);
}

std::string indented(const std::string& lines) {
  std::string out = "  ";
  for (const char c : lines) out += c == '\n' ? std::string("\n  ") : std::string(1, c);
  return out + "\n";
}

std::string describe(const CLI::Option& option) {
  std::string text = option.get_description();
  if (!option.get_default_str().empty()) text += fmt::format(" (default: {})", option.get_default_str());
  if (option.get_required()) text += "; required";
  if (option.get_expected_max() > 1) text += "; may be given several times";
  return text;
}

std::string options_of(const CLI::App& app) {
  std::string out;
  std::vector<std::string> groups = app.get_groups();
  std::stable_partition(groups.begin(), groups.end(),
                        [](const std::string& group) { return group != kEverywhere; });
  for (const std::string& group : groups) {
    std::string entries;
    for (const CLI::Option* option : app.get_options())
      if (option->nonpositional() && option->get_group() == group) {
        // CLI11 appends the validators' descriptions to the type name, after a colon.
        const std::string type = option->get_type_name();
        const std::string value = option->get_type_size() > 0 ? " " + type.substr(0, type.find(':')) : "";
        entries += entry(option->get_name(false, true) + value, describe(*option));
      }
    if (!group.empty() && !entries.empty()) out += fmt::format("\n{}:\n{}", group, entries);
  }
  return out;
}

}  // namespace

std::string HelpFormatter::make_help(const CLI::App* app, std::string, CLI::AppFormatMode) const {
  const bool top = app->get_parent() == nullptr;
  const auto commands = app->get_subcommands([](const CLI::App* sub) { return !sub->get_group().empty(); });
  std::string usage = top ? "awq" : "awq " + app->get_name();
  std::string arguments, list;
  for (const CLI::Option* option : app->get_options())
    if (option->get_positional()) {
      const std::string name = option->get_name(true);
      usage += option->get_required() ? " " + name : " [" + name + "]";
      arguments += entry(name, describe(*option));
    }
  for (const CLI::App* command : commands) list += entry(command->get_name(), command->get_description());

  std::string out = indented(app->get_footer()) + "\n" + wrap(app->get_description(), 0, 0);
  out += fmt::format("\nUsage: {}{}\n", usage, commands.empty() ? " [OPTIONS]" : " COMMAND [OPTIONS]");
  if (!arguments.empty()) out += "\nArguments:\n" + arguments;
  if (!list.empty()) out += "\nCommands (awq COMMAND --help tells more):\n" + list;
  return out + options_of(*app);
}

}  // namespace awq::cli
