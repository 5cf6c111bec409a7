#include "quant/sample_count.h"

#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/log.h"
#include "quant/rounders.h"

namespace awq {
namespace {

constexpr Site kSites[] = {Site::kAttentionIn, Site::kAttentionOut, Site::kMlpIn, Site::kMlpDown};
constexpr int64_t kRows = 96;  // of a site's weights, evenly spaced
constexpr int kSweeps = 1, kRefits = 1;

TokenSequences part(const TokenSequences& all, int64_t first, int64_t count) {
  std::vector<int64_t> which(static_cast<size_t>(count));
  std::iota(which.begin(), which.end(), first);
  return select_sequences(all, which);
}

class Probe {
 public:
  Probe(const Checkpoint& checkpoint, const QuantizeOptions& options, const TokenSequences& pool, Precision precision, const ProgressFn& progress)
      : checkpoint_(checkpoint), options_(options), pool_(pool), precision_(precision), progress_(progress),
        plan_(plan_quantize(checkpoint, options, 0)), config_(std::make_shared<const ModelConfig>(plan_.config)),
        embedding_(load_embedding(checkpoint, *config_)) {
    const ArchSpec& arch = find_arch(config_->model_type, checkpoint.path().string());
    for (int64_t i = 0; i < std::min(kProbeBlocks, config_->layers); ++i) specs_.push_back(arch.block(*config_, i));
  }

  SampleChoice run() {
    SampleChoice out;
    out.available = pool_.count();
    int64_t seen = std::min(kFirstSamples, pool_.count());
    most_ = static_cast<int64_t>(specs_.size());
    for (int64_t n = seen; 2 * n <= pool_.count(); n *= 2) most_ += static_cast<int64_t>(specs_.size());
    fitted_ = statistics(part(pool_, 0, seen));
    while (2 * seen <= pool_.count()) {
      Sums fresh = statistics(part(pool_, seen, seen));
      out.steps.push_back({seen, gap(fresh)});
      log(Level::kDebug, "{} sequences fitted: gap {:.4f}", seen, out.steps.back().gap);
      add(fresh);
      seen *= 2;
      out.converged = out.steps.back().gap < kSampleGap;
      if (out.converged) break;
    }
    out.sequences = out.converged ? part(pool_, 0, seen) : pool_;
    out.used = out.sequences.count();
    out.automatic = true;
    return out;
  }

 private:
  struct SiteSum {
    int64_t tokens = 0, dim = 0;
    std::vector<float> gram;
  };
  using Sums = std::map<std::pair<size_t, Site>, SiteSum>;  // by block and site

  Sums statistics(const TokenSequences& sequences) {
    Sums out;
    HiddenStates states(sequences, *config_, embedding_);
    Scratch scratch;
    for (size_t b = 0; b < specs_.size(); ++b) {
      check_cancelled();
      if (progress_)
        progress_({"samples", static_cast<double>(done_++), static_cast<double>(most_), "blocks"});
      const BlockWeights weights = load_block(checkpoint_, *config_, specs_[b], true);
      if (rows_.size() <= b) rows_.push_back(sampled_rows(b, weights));
      StatsObserver stats(precision_ == Precision::kBf16);
      states.advance(Block(config_, specs_[b], weights, precision_), scratch, &stats);
      for (const Site site : kSites)
        if (rows_[b].contains(site)) out[{b, site}] = {stats.at(site).tokens, stats.at(site).dim, stats.at(site).gram};
    }
    return out;
  }

  std::map<Site, Tensor> sampled_rows(size_t b, const BlockWeights& weights) const {
    std::map<Site, Tensor> out;
    for (const Site site : kSites) {
      std::vector<QuantMatrix> matrices;
      int64_t total = 0;
      for (const LinearSpec& l : specs_[b].linears) {
        if (l.reads != site || l.in > kWidestProbe || !plan_.linear(static_cast<int64_t>(b), l.module).quantized) continue;
        matrices.emplace_back(std::get<Tensor>(weights.weights.at(l.module)));
        total += l.out;
      }
      const int64_t step = std::max<int64_t>(1, total / kRows);
      std::vector<QuantBackend::Rows> rows;
      for (const QuantMatrix& m : matrices)
        if (step / 2 < m.dim(0)) rows.push_back({&m, step / 2, step});
      if (!rows.empty()) out.emplace(site, cpu_quant_backend().gather(rows).clone());
    }
    return out;
  }

  // Of the weights: what happens to activations is nothing that is searched here.
  Scheme scheme_of(size_t b, Site site) const {
    for (const PlannedLinear& l : plan_.blocks[b]) {
      if (l.spec.reads != site || !l.quantized) continue;
      Scheme scheme = l.scheme;
      scheme.activations = Activations::kFloat;
      return scheme;
    }
    fail(Code::kInternal, "internal error: no quantized linear reads site {} of block {}", site_name(site), b);
  }

  double gap(const Sums& fresh) const {
    QuantBackend& backend = cpu_quant_backend();
    double sum = 0;
    int64_t sites = 0;
    for (const auto& [key, other] : fresh) {
      check_cancelled();
      const SiteSum& own = fitted_.at(key);
      const GramView fit{own.dim, own.gram.data()}, check{other.dim, other.gram.data()};
      const QuantMatrix w = rows_[key.first].at(key.second);
      const Scheme scheme = scheme_of(key.first, key.second);
      const RoundedWeight nearest = backend.minmax(w, scheme, DType::kF16);
      RoundedWeight q = backend.search(w, scheme, DType::kF16, fit, RangeEffort::kFull);
      if (compensates(options_)) backend.compensation(fit, kDamping)->improve(w, kSweeps, kRefits, q);
      const double nearest_fit = backend.loss(w, nearest, fit), nearest_check = backend.loss(w, nearest, check);
      const double on_fit = backend.loss(w, q, fit), on_check = backend.loss(w, q, check);
      if (!(nearest_fit > 0) || !(nearest_check > 0) || !(on_fit > 0)) continue;
      sum += on_check / nearest_check / (on_fit / nearest_fit) - 1;
      ++sites;
    }
    return sites > 0 ? sum / static_cast<double>(sites) : 0;
  }

  void add(const Sums& fresh) {
    for (const auto& [key, other] : fresh) {
      SiteSum& own = fitted_.at(key);
      own.tokens += other.tokens;
      for (size_t i = 0; i < own.gram.size(); ++i) own.gram[i] += other.gram[i];
    }
  }

  const Checkpoint& checkpoint_;
  const QuantizeOptions& options_;
  const TokenSequences& pool_;
  Precision precision_;
  const ProgressFn& progress_;
  QuantizePlan plan_;
  std::shared_ptr<const ModelConfig> config_;
  Tensor embedding_;
  std::vector<BlockSpec> specs_;
  std::vector<std::map<Site, Tensor>> rows_;  // of each block
  Sums fitted_;
  int64_t done_ = 0, most_ = 1;  // blocks that sequences were run through
};

}  // namespace

bool compensates(const QuantizeOptions& o) { return o.method == "gptq" || (o.method == "awq" && o.quality == "best"); }

SampleChoice choose_samples(const Checkpoint& checkpoint, const QuantizeOptions& options, std::span<const int32_t> stream, int64_t seq_len,
                            Precision precision, const ProgressFn& progress) {
  if (!calibrates(options.method)) return {};
  const TokenSequences cut = cut_sequences(stream, seq_len, kMostSamples);
  const TokenSequences pool = select_sequences(cut, spread_order(cut.count()));
  return Probe(checkpoint, options, pool, precision, progress).run();
}

nlohmann::ordered_json samples_json(const SampleChoice& choice) {
  nlohmann::ordered_json json = {{"automatic", choice.automatic}, {"used", choice.used}};
  if (!choice.automatic) return json;
  json["available"] = choice.available;
  json["converged"] = choice.converged;
  json["steps"] = nlohmann::ordered_json::array();
  for (const SampleStep& step : choice.steps) json["steps"].push_back({{"fitted", step.fitted}, {"gap", step.gap}});
  return json;
}

std::string samples_text(const SampleChoice& choice, int64_t seq_len) {
  std::string out = fmt::format("{} sequences of {} tokens", choice.used, seq_len);
  if (!choice.automatic) return out;
  if (choice.steps.empty()) return out + ": all there are";
  const SampleStep& last = choice.steps.back();
  const double left = 100 * last.gap / 4;
  if (choice.converged) return out + fmt::format(" of {}: with more the error would fall by about {:.1f} %", choice.available, left);
  return out + fmt::format(": {}, though with more the error would fall by about {:.1f} %",
                           choice.available == kMostSamples ? "the most that are tried" : "all that the text gives", left);
}

}  // namespace awq
