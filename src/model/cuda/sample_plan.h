// Rows to draw (model/draw.h) as the kernels take them (kernels/cuda/sample.h).
#pragma once
#include <algorithm>
#include <span>
#include <vector>

#include "kernels/cuda/sample.h"
#include "model/draw.h"

namespace awq {

// Which rows are drawn, and how many edits they have.
struct SamplePlan {
  std::vector<size_t> rows;  // of those asked for
  int64_t edits = 0;
  cuda::SamplePasses passes;
};

inline int64_t edits_of(const RowDraw& r) { return static_cast<int64_t>(r.added.size() + r.seen.size() + r.subtracted.size()); }

inline void plan_samples(std::span<const RowDraw> wanted, SamplePlan& plan) {
  plan.rows.clear();
  plan.edits = 0, plan.passes = {};
  for (size_t i = 0; i < wanted.size(); ++i) {
    const RowDraw& r = wanted[i];
    if (!r.draws) continue;
    plan.rows.push_back(i);
    plan.edits += edits_of(r);
    const bool random = r.temperature > 0;
    plan.passes.draw |= random;
    plan.passes.top_k |= random && r.top_k > 0;
    plan.passes.top_p |= random && r.top_p < 1;
  }
  plan.passes.edit = plan.edits > 0;
}

// rows [plan.rows], edits [plan.edits]; logits row i is that of wanted[i].
inline void write_samples(std::span<const RowDraw> wanted, const SamplePlan& plan, cuda::SampleRow* rows, cuda::SampleEdit* edits) {
  int written = 0;
  for (const size_t i : plan.rows) {
    const RowDraw& r = wanted[i];
    *rows++ = {r.uniform, r.temperature, r.top_p, r.min_p, r.repetition_penalty, static_cast<int>(i), r.top_k, written,
               static_cast<int>(r.added.size()), static_cast<int>(r.seen.size()), static_cast<int>(r.subtracted.size())};
    for (const auto& [id, value] : r.added) edits[written++] = {id, value};
    for (const int32_t id : r.seen) edits[written++] = {id, 0};
    for (const auto& [id, value] : r.subtracted) edits[written++] = {id, value};
  }
}

}  // namespace awq
