#include "model/pack_cache.h"

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/sha256.h"
#include "checkpoint/checkpoint.h"
#include "model/model.h"

namespace awq {
namespace fs = std::filesystem;
namespace {

// Of the forms as a whole; each kind of linear has a version of its own besides.
constexpr int kCacheVersion = 1;

std::string identity_of(const Checkpoint& checkpoint, const LoadOptions& o) {
  return sha256_hex(fmt::format("{} precision {} head {} load-in {} fuse {}\n{}", kCacheVersion, static_cast<int>(o.precision),
                                o.head_bits, static_cast<int>(o.load_in), o.fuse, file_identity(checkpoint)));
}

}  // namespace

std::string packed_name(const BlockSpec& spec, Site site) { return spec.prefix + site_name(site); }

PackCache::PackCache(const fs::path& directory, const Checkpoint& checkpoint, const LoadOptions& options)
    : identity_(identity_of(checkpoint, options)), precision_(options.precision), product_(options.product) {
  std::string name = checkpoint.path().filename().string();
  if (name.empty()) name = checkpoint.path().parent_path().filename().string();
  path_ = directory / fmt::format("{}-{}.awqpack", name, identity_.substr(0, 16));
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) fail(Code::kIo, "{}: cannot make the directory: {}", directory.string(), error.message());
  try {
    found_ = KeptTensors::open(path_, identity_);
  } catch (const Error& e) {
    log(Level::kWarning, "{}; it is made anew", e.what());
  }
}

bool PackCache::has(const std::string& name) const { return found_ && found_->note(name) != nullptr; }

// A note is a list of [kind, [numbers], [tensor names]], one for each part.
std::vector<std::unique_ptr<PackedLinear>> PackCache::take(const std::string& name) const {
  std::vector<std::unique_ptr<PackedLinear>> parts;
  try {
    int64_t index = 0;
    for (const auto& part : nlohmann::json::parse(*found_->note(name))) {
      PackedForm form{part.at(0).get<std::string>(), part.at(1).get<std::vector<int64_t>>(), {}};
      for (const auto& tensor : part.at(2)) {
        auto key = tensor.get<std::string>();
        if (auto found = found_->find(fmt::format("{}.{}.{}", name, index, key))) form.tensors.emplace_back(std::move(key), std::move(*found));
      }
      parts.push_back(linear_of(form, precision_, product_, path_.string()));
      ++index;
    }
  } catch (const nlohmann::json::exception&) {
    fail(Code::kBadFile, "{}: the note on '{}' is not a list of packed linears; delete the file", path_.string(), name);
  }
  return parts;
}

void PackCache::keep(const std::string& name, const std::vector<const PackedLinear*>& linears) {
  auto note = nlohmann::json::array();
  NamedTensors tensors;
  for (size_t i = 0; i < linears.size(); ++i) {
    const auto form = linears[i]->form();
    if (!form) return;
    auto names = nlohmann::json::array();
    for (const auto& [key, tensor] : form->tensors) {
      names.push_back(key);
      tensors.emplace_back(fmt::format("{}.{}.{}", name, i, key), tensor);
    }
    note.push_back({form->kind, form->numbers, names});
  }
  notes_[name] = note.dump();
  tensors_.insert(tensors_.end(), tensors.begin(), tensors.end());
}

std::optional<Tensor> PackCache::take_tensor(const std::string& name) const {
  return found_ ? found_->find(name) : std::nullopt;
}

void PackCache::save() const {
  if (found_ || tensors_.empty()) return;
  try {
    write_kept_tensors(path_, identity_, tensors_, notes_);
  } catch (const Error& e) {
    log(Level::kWarning, "{}; the next start packs again", e.what());
  }
}

}  // namespace awq
