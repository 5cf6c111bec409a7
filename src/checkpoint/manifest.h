// manifest.json, "awq.manifest/1" (docs/formats.md, section m): where an output came from, how good each
// layer is, and a SHA-256 of every file. The same inputs give the same bytes: no time, host, user or absolute
// path stands in it.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace awq {

inline constexpr const char* kManifestFile = "manifest.json";

struct Manifest {
  std::string tool;  // "awq 0.1.0"
  struct Source {
    std::string name;         // public_name() of the path
    std::string format;       // "BF16", "Q4_1", ...
    std::string fingerprint;  // Checkpoint::fingerprint()
  } source;
  struct Calibration {
    std::string name;    // "builtin", or a file name
    std::string sha256;  // of the text
    int64_t samples = 0;
    int64_t tokens = 0;
  };
  std::optional<Calibration> calibration;  // empty for methods without data

  std::string method;                                        // "awq", "rtn", ...
  std::string scheme;                                        // Scheme::text() of the quantized linears
  std::string format;                                        // "gemm" or "dense"
  std::vector<std::pair<std::string, std::string>> options;  // as given, values through public_argument()

  struct Layer {
    std::string module;  // "model.layers.0.mlp.up_proj"
    std::string scheme;  // "w4g128z"
    double relative_error =
        0;               // output error over output energy on the calibration data; NaN if not measured
    std::string chosen;  // what won the search: "scale^0.45 clip gptq", "identity", ...
  };
  std::vector<Layer> layers;

  struct Check {
    std::string text;  // "builtin held-out"
    int64_t tokens = 0;
    double kl = 0, kl_ci95 = 0;  // nats per token, half width of the 95 % interval
    double top1_agreement = 0;   // 0..1
    double perplexity_source = 0, perplexity = 0;
    std::string worst;  // the linear with the largest relative error
  };
  std::optional<Check> check;  // empty with --no-check

  struct File {
    std::string name;
    int64_t bytes = 0;
    std::string sha256;
  };
  std::vector<File> files;  // by name; every file but manifest.json itself
};

std::string manifest_json(const Manifest& manifest);
// Throws kBadFile naming `where` and the field, kUnsupported for another schema version.
Manifest parse_manifest(std::string_view json, const std::string& where);
Manifest read_manifest(const std::filesystem::path& dir);
// Whether dir holds a manifest.json written by awq, of any version.
bool holds_manifest(const std::filesystem::path& dir);

struct FileFinding {
  enum class Kind { kMissing, kSize, kContent, kUnlisted } kind;
  std::string file;
  std::string text;  // "expected 120 bytes, got 119"
};
// Compares the files of dir with its manifest, in the manifest's order, then unlisted ones by name; empty
// means intact. Reads every byte. Throws kNotFound or kBadFile when there is no readable manifest.
std::vector<FileFinding> verify_files(const std::filesystem::path& dir);

// A path as others may see it: the last component, or "org/name" for a path inside a Hugging Face cache.
std::string public_name(const std::filesystem::path& path);
// A command-line argument ("x", "--opt=x") with absolute and upward paths reduced by public_name().
std::string public_argument(std::string_view argument);
// "awq quantize ..." from argv, publishable and quoted for a POSIX shell.
std::string public_command(const std::vector<std::string>& argv);

}  // namespace awq
