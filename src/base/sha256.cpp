#include "base/sha256.h"

// The plain functions, deprecated in OpenSSL 3: unlike EVP they allocate nothing, so running out of memory cannot meet them
// (setting up EVP then ends in a crash inside the library).
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include <algorithm>

#include "base/error.h"
#include "base/mmap.h"

namespace awq {

struct Sha256::State {
  SHA256_CTX context;
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  check_internal(SHA256_Init(&state_->context) == 1, "SHA-256 set-up");
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(std::span<const std::byte> bytes) {
  check_internal(SHA256_Update(&state_->context, bytes.data(), bytes.size()) == 1, "SHA-256 update");
}
void Sha256::update(std::string_view text) { update(std::as_bytes(std::span(text))); }

std::string Sha256::hex() {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  check_internal(SHA256_Final(digest, &state_->context) == 1, "SHA-256 final");
  std::string out;
  for (const unsigned char byte : digest) {
    out += "0123456789abcdef"[byte >> 4];
    out += "0123456789abcdef"[byte & 15];
  }
  return out;
}

std::string sha256_hex(std::string_view text) {
  Sha256 digest;
  digest.update(text);
  return digest.hex();
}

std::string sha256_file(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  const auto bytes = file->bytes();
  Sha256 digest;
  constexpr size_t kChunk = 16 << 20;  // so that hashing a large file does not keep it resident
  for (size_t at = 0; at < bytes.size(); at += kChunk) {
    const size_t n = std::min(kChunk, bytes.size() - at);
    digest.update(bytes.subspan(at, n));
    file->done_with(at, n);
  }
  return digest.hex();
}

}  // namespace awq
