#include "cli/line_editor.h"

#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

#include <algorithm>
#include <cerrno>
#include <clocale>
#include <cstdio>
#include <iostream>
#include <string_view>

#include "tokenizer/unicode.h"

namespace awq::cli {
namespace {

constexpr char kEscape = '\x1b';
constexpr std::string_view kContinued = "... ";

// One byte of the terminal's input; empty at its end.
std::optional<char> next_byte() {
  char c = 0;
  for (;;) {
    const ssize_t n = ::read(STDIN_FILENO, &c, 1);
    if (n == 1) return c;
    if (n == 0 || errno != EINTR) return std::nullopt;
  }
}

size_t screen_width() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 8 ? size.ws_col : 80;
}

void send(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace

// The terminal hands over each key as it is pressed, and marks what is pasted.
class LineEditor::RawMode {
 public:
  RawMode() {
    ::tcgetattr(STDIN_FILENO, &before_);
    termios raw = before_;
    raw.c_iflag &= ~static_cast<tcflag_t>(ICRNL | INLCR | IXON | BRKINT | ISTRIP);
    raw.c_lflag &= ~static_cast<tcflag_t>(ECHO | ICANON | ISIG | IEXTEN);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    ::tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    send("\x1b[?2004h");
  }
  ~RawMode() {
    send("\x1b[?2004l");
    ::tcsetattr(STDIN_FILENO, TCSADRAIN, &before_);
  }
  RawMode(const RawMode&) = delete;
  RawMode& operator=(const RawMode&) = delete;

 private:
  termios before_{};
};

LineEditor::LineEditor() : is_terminal_(::isatty(STDIN_FILENO) && ::isatty(STDOUT_FILENO)) {
  if (is_terminal_) std::setlocale(LC_CTYPE, "C.UTF-8");  // for wcwidth
}

std::optional<std::string> LineEditor::read(const std::string& prompt) {
  if (!is_terminal_) return read_line();
  prompt_ = prompt;
  text_.clear();
  draft_.clear();
  at_ = cursor_row_ = 0;
  recalled_ = history_.size();
  std::optional<std::string> message;
  {
    const RawMode raw;
    draw();
    message = edit();
    at_ = text_.size();
    draw();
    send("\r\n");
  }
  if (message && !message->empty() && (history_.empty() || history_.back() != *message))
    history_.push_back(*message);
  return message;
}

std::optional<std::string> LineEditor::read_line() {
  std::string message, line;
  bool any = false;
  while (std::getline(std::cin, line)) {
    any = true;
    if (line.ends_with('\r')) line.pop_back();
    if (!line.ends_with('\\')) return message + line;
    line.back() = '\n';
    message += line;
  }
  return any ? std::optional(message) : std::nullopt;
}

std::optional<std::string> LineEditor::edit() {
  constexpr auto control = [](char letter) { return static_cast<char>(letter & 0x1f); };
  while (const auto key = next_byte()) {
    switch (*key) {
      case '\r':
        if (at_ == 0 || text_[at_ - 1] != '\\') return text_;
        erase(at_ - 1, at_);
        insert("\n");
        break;
      case '\n':
        insert("\n");
        break;
      case control('c'):
        erase(0, text_.size());
        break;
      case control('d'):
        if (text_.empty()) return std::nullopt;
        erase(at_, after(at_));
        break;
      case '\x7f':
      case control('h'):
        erase(before(at_), at_);
        break;
      case control('a'):
        at_ = line_begin();
        break;
      case control('e'):
        at_ = line_end();
        break;
      case control('b'):
        at_ = before(at_);
        break;
      case control('f'):
        at_ = after(at_);
        break;
      case control('p'):
        up();
        break;
      case control('n'):
        down();
        break;
      case control('k'):
        erase(at_, line_end());
        break;
      case control('u'):
        erase(line_begin(), at_);
        break;
      case control('w'): {
        size_t begin = at_;
        while (begin > 0 && (text_[begin - 1] == ' ' || text_[begin - 1] == '\n')) --begin;
        while (begin > 0 && text_[begin - 1] != ' ' && text_[begin - 1] != '\n') --begin;
        erase(begin, at_);
        break;
      }
      case control('l'):
        send("\x1b[H\x1b[2J");
        cursor_row_ = 0;
        break;
      case kEscape:
        if (!escape_sequence()) return std::nullopt;
        break;
      default:
        if (static_cast<unsigned char>(*key) < 0x20 && *key != '\t') break;
        std::string character(1, *key);
        for (size_t more = utf8_length(*key); more > 1; --more)
          if (const auto byte = next_byte()) character += *byte;
        if (is_valid_utf8(character)) insert(character);
    }
    draw();
  }
  return std::nullopt;
}

bool LineEditor::escape_sequence() {
  const auto first = next_byte();
  if (!first) return false;
  if (*first == '\r' || *first == '\n') insert("\n");
  if (*first != '[' && *first != 'O') return true;
  std::string sequence;
  for (;;) {
    const auto byte = next_byte();
    if (!byte) return false;
    sequence += *byte;
    if (*byte >= '@' && *byte <= '~') break;
  }
  if (sequence == "A") up();
  if (sequence == "B") down();
  if (sequence == "C") at_ = after(at_);
  if (sequence == "D") at_ = before(at_);
  if (sequence == "H" || sequence == "1~") at_ = line_begin();
  if (sequence == "F" || sequence == "4~") at_ = line_end();
  if (sequence == "3~") erase(at_, after(at_));
  if (sequence == "200~") paste();
  return true;
}

// Up to the mark that ends it, as it is.
void LineEditor::paste() {
  constexpr std::string_view kEnd = "\x1b[201~";
  std::string pasted;
  while (!pasted.ends_with(kEnd)) {
    const auto byte = next_byte();
    if (!byte) return;
    pasted += *byte;
  }
  pasted.resize(pasted.size() - kEnd.size());
  std::string text;
  for (size_t i = 0; i < pasted.size(); ++i) {
    if (pasted[i] == '\r' && i + 1 < pasted.size() && pasted[i + 1] == '\n') continue;
    const char c = pasted[i] == '\r' ? '\n' : pasted[i];
    if (static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t') text += c;
  }
  insert(replace_invalid_utf8(text));
}

void LineEditor::insert(std::string_view text) {
  text_.insert(at_, text);
  at_ += text.size();
}

void LineEditor::erase(size_t begin, size_t end) {
  text_.erase(begin, end - begin);
  at_ = begin;
}

size_t LineEditor::line_begin() const {
  const size_t newline = at_ == 0 ? std::string::npos : text_.rfind('\n', at_ - 1);
  return newline == std::string::npos ? 0 : newline + 1;
}

size_t LineEditor::line_end() const { return std::min(text_.find('\n', at_), text_.size()); }

size_t LineEditor::before(size_t at) const {
  if (at > 0) previous_code_point(text_, at);
  return at;
}

size_t LineEditor::after(size_t at) const { return at < text_.size() ? at + utf8_length(text_[at]) : at; }

// To the same column of the line above; above the first line comes what was typed before.
void LineEditor::up() {
  const size_t begin = line_begin(), column = at_ - begin;
  if (begin == 0) {
    if (recalled_ > 0) recall(recalled_ - 1);
    return;
  }
  at_ = begin - 1;
  const size_t above = line_begin();
  at_ = std::min(above + column, begin - 1);
  while (at_ > above && (static_cast<unsigned char>(text_[at_]) & 0xc0U) == 0x80U) --at_;
}

void LineEditor::down() {
  const size_t column = at_ - line_begin(), end = line_end();
  if (end == text_.size()) {
    if (recalled_ < history_.size()) recall(recalled_ + 1);
    return;
  }
  at_ = end + 1;
  const size_t below = at_;
  at_ = std::min(below + column, line_end());
  while (at_ > below && at_ < text_.size() && (static_cast<unsigned char>(text_[at_]) & 0xc0U) == 0x80U)
    --at_;
}

void LineEditor::recall(size_t index) {
  if (recalled_ == history_.size()) draft_ = text_;
  recalled_ = index;
  text_ = index == history_.size() ? draft_ : history_[index];
  at_ = text_.size();
}

// Appends text[begin, end) to `out` as it appears from `place` on, and says where it ends. Rows are ended
// explicitly, so that no terminal's own wrapping has to be known.
LineEditor::Place LineEditor::put(std::string_view text, size_t begin, size_t end, Place place,
                                  std::string& out) const {
  const size_t width = screen_width();
  while (begin < end) {
    const size_t from = begin;
    const char32_t c = next_code_point(text, begin);
    if (c == '\n') {
      out += "\r\n";
      out += kContinued;
      place = {place.row + 1, kContinued.size()};
      continue;
    }
    const auto columns =
        c == '\t' ? 1U : static_cast<size_t>(std::max(0, ::wcwidth(static_cast<wchar_t>(c))));
    if (place.column + columns > width) {
      out += "\r\n";
      place = {place.row + 1, 0};
    }
    out += c == '\t' ? std::string_view(" ") : text.substr(from, begin - from);
    place.column += columns;
  }
  return place;
}

void LineEditor::draw() {
  std::string out = "\r";
  if (cursor_row_ > 0) out += "\x1b[" + std::to_string(cursor_row_) + "A";
  out += "\x1b[J";
  Place place = put(prompt_, 0, prompt_.size(), {}, out);
  place = put(text_, 0, at_, place, out);
  const Place cursor = place;
  const Place end = put(text_, at_, text_.size(), place, out);
  if (end.row > cursor.row) out += "\x1b[" + std::to_string(end.row - cursor.row) + "A";
  out += "\r";
  if (cursor.column > 0) out += "\x1b[" + std::to_string(cursor.column) + "C";
  send(out);
  cursor_row_ = cursor.row;
}

}  // namespace awq::cli
