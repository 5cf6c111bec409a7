#include "quant/pipeline.h"

#include <algorithm>
#include <cmath>
#include <future>
#include <memory>
#include <optional>

#include "base/log.h"
#include "base/system.h"
#include "base/thread_pool.h"
#include "checkpoint/finite_scan.h"
#include "quant/block_stage.h"
#include "quant/job_record.h"
#include "quant/rounding.h"

namespace awq {
namespace {

constexpr float kFp16Headroom = 65504.0f / 4;

constexpr double kSecondsBetweenRecords = 30;  // where blocks pass quickly

Tensor stored(const Tensor& t, DType dtype, const std::string& name) {
  Tensor out = t.to(dtype);
  if (dtype != DType::kF16) return out;
  if (const int64_t at = first_non_finite(DType::kF16, out.bytes(), out.numel()); at >= 0) {
    float value = 0;
    convert_to_f32(t.dtype(), t.bytes() + at * dtype_size(t.dtype()), &value, 1);
    fail(Code::kBadArgument, "tensor '{}' at element {}: {} is outside float16's range; use --dtype bfloat16", name, at, value);
  }
  return out;
}

double relative_distance(const HiddenStates& a, const HiddenStates& b) {
  constexpr int64_t kPart = 1 << 20;
  const int64_t n = a.sequences().tokens() * a.width();
  std::vector<std::pair<double, double>> sums(static_cast<size_t>((n + kPart - 1) / kPart));
  parallel_for(static_cast<int64_t>(sums.size()), [&](int64_t part) {
    double difference = 0, energy = 0;
    for (int64_t i = part * kPart; i < std::min(n, (part + 1) * kPart); ++i) {
      const double d = a.data()[i] - b.data()[i];
      difference += d * d;
      energy += static_cast<double>(a.data()[i]) * a.data()[i];
    }
    sums[static_cast<size_t>(part)] = {difference, energy};
  });
  double difference = 0, energy = 0;
  for (const auto& [d, e] : sums) difference += d, energy += e;
  return energy > 0 ? difference / energy : 0;
}

// Where the time of a run goes, for -v.
class Times {
 public:
  void start() { since_ = now_seconds(); }
  void end(const char* what) {
    const double now = now_seconds();
    for (auto& [name, seconds] : parts_)
      if (name == what) {
        seconds += now - since_, since_ = now;
        return;
      }
    parts_.emplace_back(what, now - since_), since_ = now;
  }
  std::string text() const {
    std::string out;
    for (const auto& [name, seconds] : parts_) out += fmt::format("{}{} {:.1f} s", out.empty() ? "" : ", ", name, seconds);
    return out;
  }

 private:
  double since_ = 0;
  std::vector<std::pair<std::string, double>> parts_;
};

class Pipeline {
 public:
  Pipeline(const Checkpoint& checkpoint, const QuantizePlan& plan, const QuantizeOptions& options, const QuantizeInputs& inputs,
           DType dtype, CheckpointWriter& writer, JobDirectory& job, const ProgressFn& progress)
      : checkpoint_(checkpoint), options_(options), plan_(plan), inputs_(inputs), dtype_(dtype), writer_(writer), job_(job), progress_(progress),
        config_(std::make_shared<const ModelConfig>(plan.config)),
        stage_(make_block_stage(checkpoint, config_, inputs.precision, inputs.backend)), stats_(inputs.precision == Precision::kBf16, keeps_sample(options.method)) {
    result_.dtype = dtype;
    if (tunes() && !calibrates()) fail(Code::kBadArgument, "--quality max: expected calibration text, got none");
  }

  QuantizeResult run() {
    times_.start();
    const int64_t first = resume();
    if (first > config_->layers) return std::move(result_);
    const Tensor embedding = load_embedding(checkpoint_, *config_);
    const Tensor written_embedding = stored(embedding, dtype_, kEmbedName);
    if (first == 0) begin(embedding, written_embedding);
    times_.end("begin");
    const ArchSpec& arch = find_arch(config_->model_type, checkpoint_.path().string());
    for (int64_t i = first; i < config_->layers; ++i) {
      report_progress(static_cast<double>(i));
      times_.end("record");
      one_block(i, arch.block(*config_, i));
      if (is_due(i + 1)) save(i + 1);
    }
    times_.end("record");
    report_progress(static_cast<double>(config_->layers));
    finish(embedding, written_embedding);
    times_.end("check");
    log(Level::kDebug, "time: {}", times_.text());
    return std::move(result_);
  }

 private:
  void report_progress(double done) const {
    if (progress_) progress_({"quantize", done, static_cast<double>(config_->layers), "blocks"});
  }

  // The blocks an earlier run has done, with everything as it was after them. A record whose data are damaged gives way to
  // the one before it.
  int64_t resume() {
    std::string damage;
    for (const JournalRecord& record : job_.records()) {
      try {
        restore(record);
        job_.use(record);
        if (record.done > 0) log(Level::kInfo, "continuing after {} of {} blocks", std::min(record.done, record.total), record.total);
        return record.done;
      } catch (const Error& error) {
        if (error.code() != Code::kBadFile) throw;
        log(Level::kWarning, "{}", error.what());
        damage = error.what();
      }
    }
    if (!damage.empty()) fail(Code::kBadFile, "{}; no older state of the unfinished job is there: --restart begins anew", damage);
    return 0;
  }

  void restore(const JournalRecord& record) {
    if (record.done == 0) return;
    QuantizeResult result = parse_report(record.report, job_.path().string()).result;
    std::optional<HiddenStates> calibration, source, written, followed;
    for (const StateFile& file : record.states) {
      const bool calibrates = file.role == "calibration" || file.role == "followed";
      auto& states = file.role == "calibration" ? calibration
                     : file.role == "followed"  ? followed
                     : file.role == "source"    ? source
                                                : written;
      states.emplace(calibrates ? inputs_.calibration : inputs_.heldout, config_->hidden, job_.read_state(file));
    }
    const bool blocks_left = record.done < config_->layers, check_left = record.done <= config_->layers;
    if (calibration.has_value() != (calibrates() && blocks_left) || source.has_value() != (checks() && check_left) ||
        written.has_value() != source.has_value() || followed.has_value() != (tunes() && blocks_left))
      fail(Code::kBadFile, "{}: the record of {} blocks does not name all hidden states", job_.path().string(), record.done);
    writer_.adopt(record.tensors);
    result_ = std::move(result);
    calibration_ = std::move(calibration);
    source_ = std::move(source);
    written_ = std::move(written);
    followed_ = std::move(followed);
  }

  bool calibrates() const { return inputs_.calibration.count() > 0 && awq::calibrates(options_.method); }
  bool checks() const { return inputs_.heldout.count() > 0; }
  bool tunes() const { return options_.quality == "max"; }

  void begin(const Tensor& embedding, const Tensor& written_embedding) {
    writer_.add(kEmbedName, written_embedding);
    if (calibrates()) calibration_.emplace(inputs_.calibration, *config_, embedding);
    if (tunes()) followed_.emplace(inputs_.calibration, *config_, written_embedding);
    if (checks()) {
      source_.emplace(inputs_.heldout, *config_, embedding);
      written_.emplace(inputs_.heldout, *config_, written_embedding);
    }
  }

  bool is_due(int64_t done) const {
    return !stage_->quick() || done == config_->layers || now_seconds() - saved_at_ > kSecondsBetweenRecords;
  }

  void save(int64_t done) {
    finish_writing();
    std::vector<StateView> states;
    if (calibration_ && done < config_->layers) states.push_back({"calibration", std::as_bytes(calibration_->values())});
    if (followed_ && done < config_->layers) states.push_back({"followed", std::as_bytes(followed_->values())});
    if (source_) states.push_back({"source", std::as_bytes(source_->values())});
    if (written_) states.push_back({"written", std::as_bytes(written_->values())});
    JournalRecord record;
    record.done = done;
    record.tensors = writer_.written();
    record.report = report_json({result_, ""});
    job_.commit(std::move(record), states);
    saved_at_ = now_seconds();
  }

  void one_block(int64_t layer, const BlockSpec& spec) {
    check_cancelled();
    BlockWeights weights = stage_->load(layer);
    stats_.reset();
    std::optional<HiddenStates> before;
    if (calibration_ && keeps_inputs(options_.method)) before = calibration_;
    times_.end("load");
    stage_->use(spec, weights);
    if (calibration_) stage_->advance(*calibration_, &stats_);
    // Methods without calibration measure their errors on the held-out text.
    if (source_) stage_->advance(*source_, calibration_ ? nullptr : &stats_);
    note_activations();
    times_.end("calibrate");
    RoundingContext context{plan_, options_, dtype_, inputs_.precision, before ? &*before : nullptr};
    std::optional<BlockTuning> tuning;
    if (tunes()) {
      tuning.emplace(BlockTuning{*followed_, *calibration_, options_.iterations, tuning_bf16(layer)});
      tuning->progress = [this, layer](double share) { report_progress(static_cast<double>(layer) + share); };
      context.tuning = &*tuning;
    }
    BlockRounding rounding = stage_->round(context, layer, spec, stats_, weights);
    result_.layers.insert(result_.layers.end(), rounding.reports.begin(), rounding.reports.end());
    times_.end("round");
    finish_writing();
    const auto written = std::make_shared<BlockWeights>(std::move(weights));
    write_block(spec, rounding, written);
    times_.end("write");
    follow(spec, *written);
    times_.end("follow");
  }

  void note_activations() {
    for (const Site site : {Site::kAttentionIn, Site::kAttentionOut, Site::kMlpIn, Site::kMlpDown})
      result_.activation_max = std::max(result_.activation_max, stats_.at(site).abs_max);
    if (calibration_) result_.activation_max = std::max(result_.activation_max, calibration_->abs_max());
  }

  void write_dense(const std::string& name, Tensor& t) {
    t = stored(t, dtype_, name);
    writer_.add(name, t);
  }

  std::vector<EncodedPart> write_packed(const std::string& module, const QuantWeight& q) {
    std::vector<EncodedPart> parts = encode_weight(*plan_.form, q, dtype_);
    for (const EncodedPart& part : parts) writer_.add(module + part.suffix, part.tensor);
    return parts;
  }

  // Leaves in `block` what was written, as a reader will see it, for the check. Where blocks pass quickly, quantized linears are
  // packed and written beside the work on the next block.
  void write_block(const BlockSpec& spec, BlockRounding& rounding, const std::shared_ptr<BlockWeights>& block) {
    BlockWeights& weights = *block;
    std::vector<std::string> packed;
    for (auto& [name, gain] : weights.norms) {
      gain = stored_gain(*config_, gain);
      write_dense(name + ".weight", gain);
    }
    for (const LinearSpec& linear : spec.linears) {
      const auto q = rounding.quantized.find(linear.module);
      WeightSource& weight = weights.weights.at(linear.module);
      if (q != rounding.quantized.end() && plan_.form) {
        weight = std::move(q->second);
        packed.push_back(linear.module);
      } else {
        const bool rounded = q != rounding.quantized.end();
        Tensor dense = rounded ? Tensor(DType::kF32, {linear.out, linear.in}) : std::get<Tensor>(weight);
        if (rounded) dequantize(q->second, dense.f32());
        write_dense(linear.module + ".weight", dense);
        weight = std::move(dense);
      }
      const auto bias = weights.biases.find(linear.module);
      if (bias != weights.biases.end()) write_dense(linear.module + ".bias", bias->second);
    }
    if (packed.empty()) return;
    if (*plan_.form == StoredForm::kBnbNf4) {  // scales change on the way
      for (const std::string& module : packed) {
        WeightSource& weight = weights.weights.at(module);
        weight = decode_weight(*plan_.form, write_packed(module, std::get<QuantWeight>(weight)), {}, module);
      }
      return;
    }
    const auto write = [this, block, packed = std::move(packed)] {
      for (const std::string& module : packed) write_packed(module, std::get<QuantWeight>(block->weights.at(module)));
    };
    if (!stage_->quick()) return write();
    writing_ = std::async(std::launch::async, write);
  }

  void finish_writing() {
    if (writing_.valid()) writing_.get();
  }

  // The texts that see the block as it is now read.
  void follow(const BlockSpec& spec, BlockWeights& weights) {
    if (!written_ && !followed_) return;
    for (auto& [name, gain] : weights.norms) gain = gain_of(*config_, gain);
    for (auto& [module, bias] : weights.biases) bias = bias.to_f32();
    stage_->use(spec, weights);
    if (followed_) stage_->advance(*followed_, nullptr);
    if (!written_) return;
    stage_->advance(*written_, nullptr);
    result_.depth_error.push_back(relative_distance(*source_, *written_));
  }

  // Products of 8 bits are as coarse as the weights of 5 bits and more are fine.
  bool tuning_bf16(int64_t layer) const {
    if (inputs_.precision != Precision::kBf16) return false;
    for (const PlannedLinear& l : plan_.blocks[static_cast<size_t>(layer)])
      if (l.quantized && l.scheme.bits > 4) return false;
    return true;
  }

  void finish(const Tensor& embedding, const Tensor& written_embedding) {
    const Tensor norm = load_gain(checkpoint_, *config_, kFinalNormName, config_->hidden);
    const Tensor written_norm = stored(stored_gain(*config_, norm), dtype_, kFinalNormName);
    writer_.add(kFinalNormName, written_norm);
    const Tensor head = load_head(checkpoint_, *config_, embedding);
    Tensor written_head = written_embedding;
    if (!config_->tied) {
      written_head = stored(head, dtype_, kHeadName);
      writer_.add(kHeadName, written_head);
    }
    if (!written_) return;
    const Tensor written_norm_f32 = gain_of(*config_, written_norm);
    result_.check = stage_->compare(*source_, {norm, head}, *written_, {written_norm_f32, written_head}, progress_);
  }

  const Checkpoint& checkpoint_;
  const QuantizeOptions& options_;
  const QuantizePlan& plan_;
  const QuantizeInputs& inputs_;
  DType dtype_;
  CheckpointWriter& writer_;
  JobDirectory& job_;
  const ProgressFn& progress_;
  std::shared_ptr<const ModelConfig> config_;
  std::optional<HiddenStates> calibration_, source_, written_;  // the stage may hold on to their memory: it goes first
  std::optional<HiddenStates> followed_;  // the calibration text in the network as it is written, for tuning
  std::unique_ptr<BlockStage> stage_;
  StatsObserver stats_;
  double saved_at_ = now_seconds();
  Times times_;
  QuantizeResult result_;
  std::future<void> writing_;  // of the last block
};

}  // namespace

DType choose_dtype(const Checkpoint& checkpoint, const QuantizePlan& plan, const QuantizeOptions& options, const TokenSequences& probe,
                   QuantBackend* backend) {
  if (options.dtype == "float16") return DType::kF16;
  if (options.dtype == "bfloat16") return DType::kBF16;
  if (options.dtype != "auto") fail(Code::kBadArgument, "--dtype {}: expected auto, float16 or bfloat16", options.dtype);
  if (probe.count() == 0) return checkpoint.format().name == "BF16" ? DType::kBF16 : DType::kF16;
  const auto config = std::make_shared<const ModelConfig>(plan.config);
  const ArchSpec& arch = find_arch(config->model_type, checkpoint.path().string());
  HiddenStates states(probe, *config, load_embedding(checkpoint, *config));
  const auto stage = make_block_stage(checkpoint, config, Precision::kBf16, backend);
  float largest = 0;
  for (int64_t i = 0; i < config->layers; ++i) {
    const BlockSpec spec = arch.block(*config, i);
    stage->use(spec, stage->load(i));
    largest = std::max({largest, stage->advance_and_watch(states), states.abs_max()});
  }
  return largest < kFp16Headroom ? DType::kF16 : DType::kBF16;
}

QuantizeResult quantize_blocks(const Checkpoint& checkpoint, const QuantizePlan& plan, const QuantizeOptions& options,
                               const QuantizeInputs& inputs, DType dtype, CheckpointWriter& writer, JobDirectory& job,
                               const ProgressFn& progress) {
  return Pipeline(checkpoint, plan, options, inputs, dtype, writer, job, progress).run();
}

}  // namespace awq
