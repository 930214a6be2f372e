// Each lane plays one agent, and a warp several copies side by side; see team_cuda.cuh for what the functions mean.
//
// All lanes of a warp go through the same calls, also where a call concerns only some of its copies (the active ones):
// barriers of parts of a warp would make the parts run one after another.
#pragma once

#include "math.cuh"
#include "ordered.cuh"
#include "portable.cuh"
#include "range.cuh"

class Team {
 public:
  template <class Visit>
  METHOD void each(Range range, Visit visit) {
    if (plays(range)) visit(lane_);
    __syncwarp();
  }

  template <class Predicate>
  METHOD bool any(Range range, Predicate predicate) {
    return those(range, predicate) != 0;
  }

  template <class Predicate>
  METHOD int count(Range range, Predicate predicate) {
    return __popc(those(range, predicate));
  }

  template <class Value>
  METHOD float sum(Range range, Value value) {
    float total = plays(range) ? value(lane_) : 0.0f;
    const int part = lane_ - range.first;
#pragma unroll
    for (int half = 16; half > 0; half /= 2) {
      if (half >= range.size) continue;
      const float other = __shfl_down_sync(~0u, total, half);
      if (part >= 0 && part < half && part + half < range.size) total += other;
    }
    return __shfl_sync(~0u, total, first_lane_ + range.first);
  }

  template <class Key>
  METHOD int argmin(Range range, Key key) {
    unsigned smallest = plays(range) ? ordered(key(lane_)) : ~0u;
    int best = lane_;
    const int part = lane_ - range.first;
#pragma unroll
    for (int half = 16; half > 0; half /= 2) {
      if (half >= range.size) continue;
      const unsigned other_key = __shfl_down_sync(~0u, smallest, half);
      const int other = __shfl_down_sync(~0u, best, half);
      const bool closer = other_key < smallest || (other_key == smallest && other < best);
      if (part >= 0 && part < half && part + half < range.size && closer) {
        smallest = other_key;
        best = other;
      }
    }
    return __shfl_sync(~0u, best, first_lane_ + range.first);
  }

  METHOD void add(int& target, int amount) { atomicAdd(&target, amount); }

 protected:
  // Makes later calls concern this copy only if the condition holds.
  METHOD void only_if(bool condition) { active_ = present_ && condition; }

  // Whether later calls concern any copy of the warp: if not, all lanes may skip them together.
  METHOD bool any_active() const { return __any_sync(~0u, active_); }

  METHOD bool is_leader() const { return active_ && lane_ == 0; }
  METHOD void synchronize() const { __syncwarp(); }

  // Calls visit(k) for k = 0, …, count - 1, none of which waits for what another one returns.
  template <int count, bool sums_apart = true, class Visit>
  METHOD void side_by_side(Visit visit) {
#pragma unroll
    for (int k = 0; k < count; ++k) visit(k);
  }

  template <class Visit>
  METHOD void each_own(Range range, Visit visit) {
    each(range, visit);
  }

  // Lane number `lane` of a warp whose copies up to `copies` exist.
  METHOD void join(int lane, int copies) {
    team_ = Math::min(lane / Geometry::lanes, Geometry::copies - 1);
    first_lane_ = team_ * Geometry::lanes;
    lane_ = lane - first_lane_;
    team_lanes_ = ((2u << ((Geometry::lanes - 1) % 32)) - 1) << first_lane_;
    present_ = lane_ < Geometry::lanes && team_ < copies;
  }

  int team_;      // number of this lane's copy in the warp
  int lane_;      // in the team
  bool present_;  // whether this lane's copy exists
  bool active_;   // whether calls concern this lane's copy

 private:
  METHOD bool plays(Range range) const { return active_ && range.has(lane_); }

  // The warp's lanes of this team whose agents satisfy the predicate, as bits.
  template <class Predicate>
  METHOD unsigned those(Range range, Predicate& predicate) const {
    return __ballot_sync(~0u, plays(range) && predicate(lane_)) & team_lanes_;
  }

  int first_lane_;       // the warp's lane that is the team's first
  unsigned team_lanes_;  // the team's lanes of the warp, as bits
};
