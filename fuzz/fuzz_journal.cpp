// The record of an unfinished job. The input is the text below the first line; the first line, whose digest
// no mutation would meet, is made here. A second look takes the input as it is.
#include "base/sha256.h"
#include "checkpoint/journal.h"
#include "target.h"

using namespace awq;
using fuzz::require;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body = fuzz::text_of(data, size);
  if (body.starts_with("awq.journal/")) {
    fuzz::accepts([&] { parse_journal(body, "file"); });
    return 0;
  }
  std::string text = "awq.journal/1 " + sha256_hex(body) + "\n";
  text += body;
  JournalRecord record;
  if (!fuzz::accepts([&] { record = parse_journal(text, "file"); })) return 0;
  require(record.done >= 0 && record.done <= record.total + 1);
  for (const StateFile& s : record.states)
    require(s.bytes >= 0 && s.digest.size() == 64 &&
            s.digest.find_first_not_of("0123456789abcdef") == std::string::npos);
  require(identity_difference(record.identity, record.identity).empty());
  const std::string again = journal_text(record);
  require(journal_text(parse_journal(again, "file")) == again);
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return fuzz::mutate_json(data, size, max_size, seed);
}
