// The threads of a block, or of a cluster of blocks, share one copy of an environment: lane l plays agents l, l +
// lanes, l + 2 lanes, …. Each call ends in a barrier: what one loop wrote, the next may read.
#pragma once

#include "math.cuh"
#include "ordered.cuh"
#include "portable.cuh"
#include "range.cuh"

class Team {
 public:
  // Calls visit(i) for every agent i of the range, in no particular order. A visit may write the entries of agent i
  // and read what no visit of this loop writes.
  template <class Visit>
  METHOD void each(Range range, Visit visit) {
    if constexpr (lane_for_each_) {
      if (active_ && range.has(lane_)) visit(lane_);
    } else if (active_) {
      for (int i = lane_; i < range.end(); i += Geometry::lanes)
        if (i >= range.first) visit(i);
    }
    synchronize();
  }

  // Whether predicate(i) holds for some agent of the range.
  template <class Predicate>
  METHOD bool any(Range range, Predicate predicate) {
    if constexpr (Geometry::blocks > 1) return count(range, predicate) > 0;
    return __syncthreads_or(tally(range, predicate) > 0);
  }

  // For how many agents of the range predicate(i) holds.
  template <class Predicate>
  METHOD int count(Range range, Predicate predicate) {
    const int mine = tally(range, predicate);
    if constexpr (lane_for_each_ && Geometry::blocks == 1) return __syncthreads_count(mine > 0);
    const int warp_total = __reduce_add_sync(~0u, mine);
    int* totals = reinterpret_cast<int*>(scratch_);
    if (lane_ % 32 == 0) totals[lane_ / 32] = warp_total;
    synchronize();
    int total = 0;
    for (int warp = lane_ % 32; warp < warps_; warp += 32) total += totals[warp];
    synchronize();
    return __reduce_add_sync(~0u, total);
  }

  // The sum of value(i) over the range. The order of the additions depends on the size of the range alone: a binary
  // tree over each 32 consecutive agents, then over each 32 of these sums, and so on.
  template <class Value>
  METHOD float sum(Range range, Value value) {
    if (range.size <= 32) {  // every warp computes it
      const int part = lane_ % 32;
      const float mine = part < range.size ? value(range.first + part) : 0.0f;
      const float total = __shfl_sync(~0u, sum_tree(mine, part, range.size), 0);
      synchronize();
      return total;
    }
    sum_parts(range.size, [&](int part) { return value(range.first + part); });
    int parts = (range.size + 31) / 32;
    for (; parts > 32; parts = (parts + 31) / 32) sum_parts(parts, [&](int part) { return scratch_[part]; });
    const int part = lane_ % 32;  // the last 32 sums are added by every warp
    const float total = __shfl_sync(~0u, sum_tree(part < parts ? scratch_[part] : 0.0f, part, parts), 0);
    synchronize();
    return total;
  }

  // The agent of the range with the smallest key(i), an int or a float; of equal ones the lowest index.
  template <class Key>
  METHOD int argmin(Range range, Key key) {
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
      keys[warps_ + lane_ / 32] = static_cast<unsigned>(best);
    }
    synchronize();
    smallest = ~0u;
    best = range.end() - 1;
    for (int warp = lane_ % 32; warp < warps_; warp += 32) {
      const int other = static_cast<int>(keys[warps_ + warp]);
      if (keys[warp] > smallest || (keys[warp] == smallest && other > best)) continue;
      smallest = keys[warp];
      best = other;
    }
    synchronize();
    return least_of_warp(smallest, best);
  }

  // Adds to a counter that several agents may add to in the same loop.
  METHOD void add(int& target, int amount) { atomicAdd(&target, amount); }

 protected:
  // Makes later calls concern this copy only if the condition holds.
  METHOD void only_if(bool condition) { active_ = condition; }

  METHOD bool any_active() const { return active_; }

  METHOD bool is_leader() const { return active_ && lane_ == 0; }

  METHOD static void synchronize() {
    if constexpr (Geometry::blocks > 1)
      asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
    else
      __syncthreads();
  }

  static constexpr int team_ = 0;
  static constexpr int warps_ = Geometry::lanes / 32;
  int lane_;        // of the team
  bool active_;     // whether calls concern this copy
  float* scratch_;  // memory of the team for reductions

 private:
  static constexpr bool lane_for_each_ = Geometry::num_agents <= Geometry::lanes;

  template <class Predicate>
  METHOD int tally(Range range, Predicate& predicate) {
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
      synchronize();  // scratch_ has been read before it is written
      if (part == 0 && chunk < parts) scratch_[chunk] = total;
    }
    synchronize();
  }

  // Leaves the warp's smallest key in `key` and returns its index, the lowest of equal ones.
  METHOD static int least_of_warp(unsigned& key, int index) {
    const unsigned smallest = __reduce_min_sync(~0u, key);
    index = static_cast<int>(__reduce_min_sync(~0u, key == smallest ? static_cast<unsigned>(index) : ~0u));
    key = smallest;
    return index;
  }
};
