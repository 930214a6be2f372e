// What teams of many lanes have in common: lane l plays agents l, l + lanes, l + 2 lanes, ….
#pragma once

#include "math.cuh"
#include "ordered.cuh"
#include "portable.cuh"
#include "range.cuh"

class TeamLanes {
 public:
  // Adds to a counter that several agents may add to in the same loop.
  METHOD void add(int& target, int amount) { atomicAdd(&target, amount); }

 protected:
  // Makes later calls concern this copy only if the condition holds.
  METHOD void only_if(bool condition) { active_ = condition; }

  // Calls visit(i) for this lane's agents in the range. How many there may be is constant, so that a compiler knows
  // what unrolling costs.
  template <class Visit>
  METHOD void each_of_mine(Range range, Visit visit) const {
    for (int first = range.first / Geometry::lanes * Geometry::lanes; first < range.end(); first += Geometry::lanes) {
      const int i = first + lane_;
      const bool is_behind = first >= range.first || i >= range.first;
      const bool is_before = first + Geometry::lanes <= range.end() || i < range.end();
      if (is_behind && is_before) visit(i);
    }
  }

  // Calls visit(first) in all lanes of a warp for first = 0, size, …, as long as it is below the end. A warp takes the
  // next one as soon as it has time; the word `left`, which is the end before, says how many are.
  template <int size = 32, class Visit>
  METHOD void in_parts(int* left, int end, Visit visit) const {
#pragma unroll 1
    for (;;) {
      const int now = __shfl_sync(~0u, lane_ % 32 == 0 ? atomicAdd(left, -size) : 0, 0);
      if (now <= 0) return;
      visit(end - now);
    }
  }

  template <class Predicate>
  METHOD int tally(Range range, Predicate& predicate) const {
    int total = 0;
    each_of_mine(range, [&](int i) { total += predicate(i) ? 1 : 0; });
    return total;
  }

  // Adds in a binary tree over the lanes of a warp, of whose values the first `size` count, a constant `most` at most;
  // the result is right in lane 0.
  METHOD static float sum_tree(float value, int part, int size, int most) {
#pragma unroll
    for (int half = 16; half > 0; half /= 2) {
      if (half >= most) continue;
      const float other = __shfl_down_sync(~0u, value, half);
      if (size == 32 || part + half < size) value += other;
    }
    return value;
  }

  // Leaves the warp's smallest key in `key` and returns its index, the lowest of equal ones.
  METHOD static int least_of_warp(unsigned& key, int index) {
    const unsigned smallest = __reduce_min_sync(~0u, key);
    index = static_cast<int>(__reduce_min_sync(~0u, key == smallest ? static_cast<unsigned>(index) : ~0u));
    key = smallest;
    return index;
  }

  // The sum of the values of a warp's lanes up to this one, which is number `part`.
  METHOD static int sum_up_to(int value, int part) {
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int below = __shfl_up_sync(~0u, value, step);
      if (part >= step) value += below;
    }
    return value;
  }

  static constexpr int team_ = 0;
  static constexpr int warps_ = Geometry::lanes / 32;
  int lane_;        // of the team
  bool active_;     // whether calls concern this copy
  float* scratch_;  // memory of the team for partial results of reductions, in two halves
};
