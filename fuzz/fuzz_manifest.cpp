// manifest.json: what is accepted names plain files only, and written again it reads the same.
#include "checkpoint/manifest.h"
#include "target.h"

using namespace awq;
using fuzz::require;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Manifest manifest;
  if (!fuzz::accepts([&] { manifest = parse_manifest(fuzz::text_of(data, size), "file"); })) return 0;
  for (const Manifest::File& f : manifest.files) {
    require(f.bytes >= 0 && f.sha256.size() == 64 && !f.name.empty() && f.name != ".." && f.name != ".");
    require(f.name.find('/') == std::string::npos && f.name.find('\0') == std::string::npos);
  }
  const std::string text = manifest_json(manifest);
  require(manifest_json(parse_manifest(text, "file")) == text);
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return fuzz::mutate_json(data, size, max_size, seed);
}
