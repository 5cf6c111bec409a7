// How the tiles of a product are dealt to blocks: whole tiles while there is a full round of them, then the
// remaining tiles cut along the columns of W into equal shares ("stream-K", Osama et al. 2023), so that no
// block idles. Those cuts move with the number of tokens; a fixed plan cuts every tile at places that depend on
// W's shape alone, so that a token's sums are ordered the same way in any company.
#pragma once
#include <cstdint>

#include "kernels/cuda/layout.h"

namespace awq::cuda {

struct GemmPlan {
  int tiles_m = 0, tiles_n = 0;  // a tile: a panel of W, N tokens
  int units = 0;                 // pipeline stages along a tile's columns
  int workers = 0;               // blocks in flight
  int whole = 0;                 // whole tiles per worker; the others are shared
  int share = 0, extra = 0;      // shared stages per worker; the first `extra` workers have one more (deal())
  int parts = 0;                 // of each tile in a fixed plan, a worker for each; 0: shares as above
  int grain = 1;                 // stages in 128 columns: cuts of a fixed plan lie between those
  int group_n = 4;  // neighbouring tiles of tokens that run side by side, for the L2 cache's sake

  AWQ_HOST_DEVICE int tiles() const { return tiles_m * tiles_n; }
  void deal() {
    const int shared = (tiles() - whole * workers) * units;
    share = shared / workers, extra = shared % workers;
  }
  // Shared stages are numbered through the shared tiles; worker c's share is [first(c), first(c + 1)).
  AWQ_HOST_DEVICE int first(int c) const {
    if (parts > 0) return c / parts * units + c % parts * (units / grain) / parts * grain;
    return c * share + (c < extra ? c : extra);
  }
  AWQ_HOST_DEVICE void position(int tile, int* m, int* n) const {
    const int group = tile / (tiles_m * group_n), in_group = tile - group * tiles_m * group_n;
    const int width = group_n < tiles_n - group * group_n ? group_n : tiles_n - group * group_n;
    *m = in_group / width;
    *n = group * group_n + in_group % width;
  }
};

// A walk over what worker c does: stages [begin, end) of `tile`.
struct GemmWalk {
  int tile = 0, begin = 0, end = 0;

  AWQ_HOST_DEVICE GemmWalk(const GemmPlan& plan, int c)
      : next_whole_(0), at_(plan.first(c)), last_(plan.first(c + 1)) {}
  AWQ_HOST_DEVICE bool next(const GemmPlan& plan, int c) {
    if (next_whole_ < plan.whole) {
      tile = c + next_whole_++ * plan.workers;
      begin = 0, end = plan.units;
      return true;
    }
    if (at_ >= last_) return false;
    const int shared = at_ / plan.units;
    tile = plan.whole * plan.workers + shared;
    begin = at_ - shared * plan.units;
    end = begin + (last_ - at_) < plan.units ? begin + (last_ - at_) : plan.units;
    at_ += end - begin;
    return true;
  }

 private:
  int next_whole_, at_, last_;
};

// Fixed plans. They count on so many multiprocessors whatever the device has, so that cards of different sizes agree.
constexpr int kFixedProcessors = 132, kFixedPartUnits = 2;  // a part has 256 columns at least
// Parts of W's columns, given its panels of 128 rows and its units of 128 columns.
inline int fixed_parts(int panels, int column_units) {
  const int wanted = kFixedProcessors / panels, most = column_units / kFixedPartUnits;
  return wanted < 1 || most < 1 ? 1 : wanted < most ? wanted : most;
}
// How many tokens one fixed plan takes in tiles of `tile_tokens`: tiles in parts may not outnumber the slots for their sums.
inline int64_t fixed_tokens(int panels, int parts, int64_t tokens, int tile_tokens) {
  if (parts == 1) return tokens;
  const int tiles = kFixedProcessors / (panels * parts);  // of tokens; at least 1, as fixed_parts() has it
  return tokens < int64_t{tiles} * tile_tokens ? tokens : int64_t{tiles} * tile_tokens;
}
// grain: stages in 128 columns.
inline GemmPlan fixed_plan(int panels, int column_units, int64_t tokens, int tile_tokens, int grain) {
  GemmPlan plan;
  plan.tiles_m = panels;
  plan.tiles_n = static_cast<int>((tokens + tile_tokens - 1) / tile_tokens);
  plan.units = column_units * grain, plan.grain = grain;
  plan.parts = fixed_parts(panels, column_units);
  plan.workers = plan.tiles() * plan.parts;
  return plan;
}

}  // namespace awq::cuda
