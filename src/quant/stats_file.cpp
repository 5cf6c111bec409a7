#include "quant/stats_file.h"

#include <cstring>

#include "base/sha256.h"
#include "base/system.h"
#include "base/version.h"
#include "checkpoint/output_files.h"

namespace awq {
namespace {

constexpr const char* kFirstLine = "awq statistics 1\n";
constexpr size_t kDigest = 64;
constexpr Site kSites[] = {Site::kAttentionIn, Site::kAttentionOut, Site::kMlpIn, Site::kMlpDown};

struct SiteHead {
  int64_t dim, tokens, sample_tokens;
  float abs_max, unused;
};

std::string head_text(const StatsIdentity& identity) {
  std::string text = kFirstLine;
  for (const auto& [name, value] : identity) text += name + "\t" + value + "\n";
  return text + "\n";
}

}  // namespace

StatsIdentity stats_identity(const Checkpoint& checkpoint, const QuantizeInputs& inputs) {
  return {{"tool", fmt::format("awq {}", kVersion)},
          {"source", checkpoint.fingerprint()},
          {"calibration sequences", std::to_string(inputs.calibration.count())},
          {"calibration tokens", tokens_digest(inputs.calibration)},
          {"precision", inputs.precision == Precision::kBf16 ? "bfloat16" : "exact"},
          {"instruction set", isa_name(isa())}};
}

struct StatsWriter::State {
  std::filesystem::path path, part;
  std::unique_ptr<OutputFile> file;
  int64_t at = 0;
  Sha256 hash = {};

  void write(const void* data, size_t bytes) {
    if (bytes == 0) return;
    file->write_at(at, data, static_cast<int64_t>(bytes));
    at += static_cast<int64_t>(bytes);
    hash.update(std::span(static_cast<const std::byte*>(data), bytes));
  }
  template <class T>
  void write(const std::vector<T>& values) {
    write(values.data(), values.size() * sizeof(T));
  }
};

StatsWriter::StatsWriter(std::filesystem::path path, const StatsIdentity& identity) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.path = std::move(path);
  s.part = s.path.string() + ".part";
  std::error_code ec;
  std::filesystem::remove(s.part, ec);  // of a run that was killed
  s.file = std::make_unique<OutputFile>(s.part, s.path);
  const std::string head = head_text(identity);
  s.write(head.data(), head.size());
}

StatsWriter::~StatsWriter() {
  if (!state_->file) return;
  state_->file.reset();
  std::error_code ec;
  std::filesystem::remove(state_->part, ec);
}

void StatsWriter::add(const StatsObserver& stats) {
  State& s = *state_;
  s.hash = Sha256();
  for (const Site site : kSites) {
    const SiteStats& x = stats.at(site);
    const SiteHead head{x.dim, x.tokens, x.sample_tokens, x.abs_max, 0};
    s.write(&head, sizeof head);
    s.write(x.gram);
    s.write(x.abs_sum);
    s.write(x.channel_max);
    s.write(x.sample);
  }
  const std::string digest = s.hash.hex();
  s.file->write_at(s.at, digest.data(), kDigest);
  s.at += kDigest;
}

void StatsWriter::finish() {
  State& s = *state_;
  s.file->sync();
  s.file.reset();
  std::error_code ec;
  std::filesystem::rename(s.part, s.path, ec);
  if (ec) fail(Code::kIo, "{}: cannot rename the file into place: {}", s.path.string(), ec.message());
}

StatsReader::StatsReader(const std::filesystem::path& path, const StatsIdentity& identity) : file_(MappedFile::open(path)) {
  const std::string_view all(reinterpret_cast<const char*>(file_->bytes().data()), file_->bytes().size());
  if (!all.starts_with(kFirstLine)) fail(Code::kBadFile, "{}: expected a file of awq compare --save-stats", path.string());
  at_ = std::strlen(kFirstLine);
  for (const auto& [name, value] : identity) {
    const size_t end = all.find('\n', at_);
    if (end == std::string_view::npos) fail(Code::kBadFile, "{}: ends within its head", path.string());
    const std::string_view line = all.substr(at_, end - at_);
    if (line != name + "\t" + value)
      fail(Code::kBadArgument, "{}: statistics of another run: expected {} {}, found {}", path.string(), name, value,
           line.substr(std::min(line.size(), line.find('\t') + 1)));
    at_ = end + 1;
  }
  if (at_ >= all.size() || all[at_] != '\n') fail(Code::kBadFile, "{}: expected an empty line after the head", path.string());
  ++at_;
}

void StatsReader::next(StatsObserver& stats) {
  const std::span<const std::byte> bytes = file_->bytes();
  const std::string name = file_->path().string();
  const size_t begin = at_;
  const auto take = [&](void* to, size_t size, size_t count) {
    if (count > (bytes.size() - at_) / size) fail(Code::kBadFile, "{}: ends early: {} bytes", name, bytes.size());
    if (count > 0) std::memcpy(to, bytes.data() + at_, size * count);
    at_ += size * count;
  };
  const auto fill = [&](auto& values, size_t rows, size_t columns) {
    using Value = typename std::remove_reference_t<decltype(values)>::value_type;
    const size_t most = (bytes.size() - at_) / sizeof(Value);
    if (rows > 0 && columns > most / rows) fail(Code::kBadFile, "{}: ends early: {} bytes", name, bytes.size());
    values.resize(rows * columns);
    take(values.data(), sizeof(Value), values.size());
  };
  for (const Site site : kSites) {
    SiteHead head;
    take(&head, sizeof head, 1);
    if (head.dim < 0 || head.tokens < 0 || head.sample_tokens < 0) fail(Code::kBadFile, "{}: negative sizes", name);
    SiteStats x;
    x.dim = head.dim;
    x.tokens = head.tokens;
    x.abs_max = head.abs_max;
    x.sample_tokens = head.sample_tokens;
    const auto dim = static_cast<size_t>(head.dim);
    fill(x.gram, dim, dim);
    fill(x.abs_sum, dim, 1);
    fill(x.channel_max, dim, 1);
    fill(x.sample, static_cast<size_t>(head.sample_tokens), dim);
    stats.set(site, std::move(x));
  }
  Sha256 hash;
  hash.update(bytes.subspan(begin, at_ - begin));
  const std::string expected = hash.hex();
  std::string found(kDigest, ' ');
  take(found.data(), 1, kDigest);
  if (found != expected) fail(Code::kBadFile, "{}: damaged: a block's numbers do not have their digest", name);
  file_->done_with(begin, at_ - begin);
}

}  // namespace awq
