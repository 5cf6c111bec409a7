// Names that come from files, made safe for a one-line message.
#pragma once
#include <string>
#include <string_view>

namespace awq {

// At most `limit` bytes of `text`; control bytes and bytes outside ASCII that are not valid UTF-8 become
// \xNN.
std::string printable(std::string_view text, size_t limit = 120);

}  // namespace awq
