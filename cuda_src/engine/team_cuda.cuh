// The lanes that share one copy of an environment.
//
// Two mappings, chosen by the number of agents (gpu_marl_envs/backends/layout.py):
//   packed   up to 32 agents: one lane an agent, and several copies side by side in a warp;
//   block    more agents: one block a copy, lane l playing agents l, l + lanes, l + 2 lanes, ….
// All lanes of a warp go through the same calls, also where a call concerns only some of its copies (the active ones):
// barriers of parts of a warp would make the parts run one after another.
// Each call ends in a barrier: what one loop wrote, the next may read.
#pragma once

#include "math.cuh"
#include "portable.cuh"
#include "range.cuh"

class Team {
 public:
  // Calls visit(i) for every agent i of the range, in no particular order. A visit may write the entries of agent i
  // and read what no visit of this loop writes.
  template <class Visit>
  METHOD void each(Range range, Visit visit) {
    if constexpr (Geometry::packed) {
      if (plays(range)) visit(lane_);
      __syncwarp();
    } else {
      if constexpr (lane_for_each_) {
        if (plays(range)) visit(lane_);
      } else if (active_) {
        for (int i = lane_; i < range.end(); i += Geometry::lanes)
          if (i >= range.first) visit(i);
      }
      __syncthreads();
    }
  }

  // Whether predicate(i) holds for some agent of the range.
  template <class Predicate>
  METHOD bool any(Range range, Predicate predicate) {
    const bool mine = tally(range, predicate) > 0;
    if constexpr (Geometry::packed) return (__ballot_sync(~0u, mine) & team_lanes_) != 0;
    return __syncthreads_or(mine);
  }

  // For how many agents of the range predicate(i) holds.
  template <class Predicate>
  METHOD int count(Range range, Predicate predicate) {
    const int mine = tally(range, predicate);
    if constexpr (Geometry::packed) return __popc(__ballot_sync(~0u, mine > 0) & team_lanes_);
    if constexpr (lane_for_each_) return __syncthreads_count(mine > 0);
    const int warp_total = __reduce_add_sync(~0u, mine);
    int* totals = reinterpret_cast<int*>(scratch_);
    if (lane_ % 32 == 0) totals[lane_ / 32] = warp_total;
    __syncthreads();
    const int total = __reduce_add_sync(~0u, lane_ % 32 < warps_ ? totals[lane_ % 32] : 0);
    __syncthreads();
    return total;
  }

  // The sum of value(i) over the range. The order of the additions depends on the size of the range alone: a binary
  // tree over each 32 consecutive agents, then over each 32 of these sums, and so on.
  template <class Value>
  METHOD float sum(Range range, Value value) {
    if constexpr (Geometry::packed) {
      const float mine = plays(range) ? value(lane_) : 0.0f;
      const float total = sum_tree(mine, lane_ - range.first, range.size);
      return __shfl_sync(~0u, total, first_lane_ + range.first);
    }
    if (range.size <= 32) {  // every warp computes it
      const int part = lane_ % 32;
      const float mine = part < range.size ? value(range.first + part) : 0.0f;
      const float total = __shfl_sync(~0u, sum_tree(mine, part, range.size), 0);
      __syncthreads();
      return total;
    }
    sum_parts(range.size, [&](int part) { return value(range.first + part); });
    int parts = (range.size + 31) / 32;
    for (; parts > 32; parts = (parts + 31) / 32) sum_parts(parts, [&](int part) { return scratch_[part]; });
    const int part = lane_ % 32;  // the last 32 sums are added by every warp
    const float total = __shfl_sync(~0u, sum_tree(part < parts ? scratch_[part] : 0.0f, part, parts), 0);
    __syncthreads();
    return total;
  }

  // The agent of the range with the smallest key(i), an int or a float; of equal ones the lowest index.
  template <class Key>
  METHOD int argmin(Range range, Key key) {
    if constexpr (Geometry::packed) {
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
    unsigned smallest = ~0u;
    int best = range.end() - 1;
    for (int i = lane_; i < range.end(); i += Geometry::lanes) {
      const unsigned candidate = i >= range.first ? ordered(key(i)) : ~0u;
      if (candidate < smallest) {
        smallest = candidate;
        best = i;
      }
    }
    best = least_of_warp(smallest, best);
    unsigned* keys = reinterpret_cast<unsigned*>(scratch_);
    if (lane_ % 32 == 0) {
      keys[lane_ / 32] = smallest;
      keys[32 + lane_ / 32] = static_cast<unsigned>(best);
    }
    __syncthreads();
    smallest = lane_ % 32 < warps_ ? keys[lane_ % 32] : ~0u;
    best = lane_ % 32 < warps_ ? static_cast<int>(keys[32 + lane_ % 32]) : range.end() - 1;
    __syncthreads();
    return least_of_warp(smallest, best);
  }

  // Adds to a counter that several agents may add to in the same loop.
  METHOD void add(int& target, int amount) { atomicAdd(&target, amount); }

 protected:
  // Makes later calls concern this copy only if the condition holds.
  METHOD void only_if(bool condition) { active_ = present_ && condition; }

  // Whether later calls concern any copy at all: if not, all lanes may skip them together.
  METHOD bool any_active() const {
    if constexpr (Geometry::packed) return __any_sync(~0u, active_);
    return active_;
  }

  METHOD bool is_leader() const { return active_ && lane_ == 0; }

  METHOD void synchronize() const {
    if constexpr (Geometry::packed)
      __syncwarp();
    else
      __syncthreads();
  }

  int team_;             // number of this lane's copy in the block
  int lane_;             // in the team
  int first_lane_;       // packed: the warp's lane that is the team's first
  unsigned team_lanes_;  // packed: the team's lanes of the warp, as bits
  bool present_;         // whether this lane's copy exists
  bool active_;          // whether calls concern this lane's copy
  float* scratch_;       // block: shared memory for reductions

  // Unsigned integers in the order of the given numbers, and back.
  METHOD static unsigned ordered(int key) { return static_cast<unsigned>(key) ^ 0x80000000u; }
  METHOD static unsigned ordered(float key) {
    const unsigned bits = __float_as_uint(key + 0.0f);  // -0 becomes +0
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  }
  METHOD static float in_order(unsigned key) { return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key); }

 private:
  static constexpr int warps_ = (Geometry::lanes + 31) / 32;  // of a block team
  static constexpr bool lane_for_each_ = Geometry::num_agents <= Geometry::lanes;

  METHOD bool plays(Range range) const { return active_ && range.has(lane_); }

  template <class Predicate>
  METHOD int tally(Range range, Predicate& predicate) {
    if constexpr (Geometry::packed) return plays(range) && predicate(lane_) ? 1 : 0;
    if constexpr (lane_for_each_) return range.has(lane_) && predicate(lane_) ? 1 : 0;
    int total = 0;
    for (int i = lane_; i < range.end(); i += Geometry::lanes) total += i >= range.first && predicate(i) ? 1 : 0;
    return total;
  }

  // Adds in a binary tree over lanes whose `part` is 0, …, size - 1 (size <= 32); the result is right in part 0.
  METHOD static float sum_tree(float value, int part, int size) {
#pragma unroll
    for (int half = 16; half > 0; half /= 2) {
      if (half >= size) continue;
      const float other = __shfl_down_sync(~0u, value, half);
      if (part >= 0 && part < half && part + half < size) value += other;
    }
    return value;
  }

  // Writes the sums of 32 consecutive values each to scratch_[0], scratch_[1], ….
  template <class Value>
  METHOD void sum_parts(int size, Value value) {
    const int parts = (size + 31) / 32;
    for (int first = 0; first < parts; first += warps_) {
      const int chunk = first + lane_ / 32, part = lane_ % 32, at = 32 * chunk + part;
      const float total = sum_tree(at < size ? value(at) : 0.0f, part, Math::min(size - 32 * chunk, 32));
      __syncthreads();  // scratch_ has been read before it is written
      if (part == 0 && chunk < parts) scratch_[chunk] = total;
    }
    __syncthreads();
  }

  // Leaves the warp's smallest key in `key` and returns its index, the lowest of equal ones.
  METHOD static int least_of_warp(unsigned& key, int index) {
    const unsigned smallest = __reduce_min_sync(~0u, key);
    index = static_cast<int>(__reduce_min_sync(~0u, key == smallest ? static_cast<unsigned>(index) : ~0u));
    key = smallest;
    return index;
  }

};
