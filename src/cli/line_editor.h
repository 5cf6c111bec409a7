// Reads what a user types: on a terminal with editing over several lines and history, else line by line.
#pragma once
#include <optional>
#include <string>
#include <vector>

namespace awq::cli {

class LineEditor {
 public:
  LineEditor();
  // A message, without its last newline; empty at the end of the input. On a terminal Enter sends; Alt-Enter,
  // Ctrl-J and a backslash before Enter begin a new line, as pasted newlines do; the arrows move and, beyond
  // the first and last line, go through what was typed before. Ctrl-C drops what is typed, Ctrl-D on an empty
  // line ends the input. Off a terminal each line is a message, and a backslash at its end joins the next.
  std::optional<std::string> read(const std::string& prompt);
  bool is_terminal() const { return is_terminal_; }

 private:
  class RawMode;
  struct Place {
    size_t row = 0, column = 0;
  };

  std::optional<std::string> read_line();
  std::optional<std::string> edit();
  bool escape_sequence();  // false at the end of the input
  void paste();
  void insert(std::string_view text);
  void erase(size_t begin, size_t end);
  void up();
  void down();
  void recall(size_t index);
  size_t line_begin() const;
  size_t line_end() const;
  size_t before(size_t at) const;
  size_t after(size_t at) const;
  void draw();
  Place put(std::string_view text, size_t begin, size_t end, Place place, std::string& out) const;

  bool is_terminal_;
  std::string prompt_, text_;
  size_t at_ = 0;          // byte of text_ where the cursor stands
  size_t cursor_row_ = 0;  // below the prompt's row, as drawn last
  std::vector<std::string> history_;
  size_t recalled_ = 0;  // history_.size(): the new message
  std::string draft_;    // the new message, while an old one is shown
};

}  // namespace awq::cli
