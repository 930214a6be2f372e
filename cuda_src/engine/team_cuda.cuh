// The threads of a block, or of a cluster of blocks, share one copy of an environment: lane l plays agents l, l +
// lanes, l + 2 lanes, …. Each call ends in a barrier, or has had one since it last read: what one loop wrote, the next
// may read.
#pragma once

#include "chosen.cuh"
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
    each_own(range, visit);
    synchronize();
  }

  // Calls visit(i, k) for every agent i of the range and each k = 0, …, count - 1 that chosen(i, k) holds for, in order
  // of k. A visit may do for agent i what one of `each` may; small copies are fastest if it uses fields of the state
  // only. Where few are chosen, this is faster than a condition in a loop, which all lanes go through if it holds for
  // one.
  template <class Chosen, class Visit>
  METHOD void each_chosen(Range range, int count, Chosen chosen, Visit visit) {
    each(range, [&](int i) { visit_chosen(count, [&](int k) { return chosen(i, k); }, [&](int k) { visit(i, k); }); });
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
    int* totals = fresh_scratch<int>();
    const int warp_total = __reduce_add_sync(~0u, mine);
    if (lane_ % 32 == 0) totals[lane_ / 32] = warp_total;
    synchronize();
    int total = 0;
    for_warps([&](int warp) { total += totals[warp]; });
    return __reduce_add_sync(~0u, total);
  }

  // The sum of value(i) over the range. The order of the additions depends on the size of the range alone: a binary
  // tree over each 32 consecutive agents, then over each 32 of these sums, and so on.
  template <class Value>
  METHOD float sum(Range range, Value value) {
    const int part = lane_ % 32;
    if (range.size <= 32) {  // every warp computes it
      const float mine = part < range.size ? value(range.first + part) : 0.0f;
      const float total = sum_of_warp(mine, part, range.size, range.size);
      synchronize();
      return total;
    }
    const float* sums = sum_parts(range.size, [&](int k) { return value(range.first + k); });
    int parts = (range.size + 31) / 32;
    for (; parts > 32 * 32; parts = (parts + 31) / 32) sums = sum_parts(parts, [&](int k) { return sums[k]; });
    if (parts <= 32) return sum_of_warp(part < parts ? sums[part] : 0.0f, part, parts, parts);
    float mine = 0.0f;  // every warp adds the last two levels, which is faster than to wait for each other
    for (int first = 0; first < parts; first += 32) {
      const int left = parts - first;
      const float total = sum_of_warp(part < left ? sums[first + part] : 0.0f, part, left, 32);
      if (part == first / 32) mine = total;
    }
    return sum_of_warp(mine, part, (parts + 31) / 32, 32);
  }

  // The agent of the range with the smallest key(i), an int or a float; of equal ones the lowest index.
  template <class Key>
  METHOD int argmin(Range range, Key key) {
    unsigned smallest = ~0u;
    int best = range.end() - 1;
    each_of_mine(range, [&](int i) {
      const unsigned candidate = ordered(key(i));
      if (candidate < smallest) {
        smallest = candidate;
        best = i;
      }
    });
    best = least_of_warp(smallest, best);
    unsigned* keys = fresh_scratch<unsigned>();
    if (lane_ % 32 == 0) {
      keys[lane_ / 32] = smallest;
      keys[warps_ + lane_ / 32] = static_cast<unsigned>(best);
    }
    synchronize();
    smallest = ~0u;
    best = range.end() - 1;
    for_warps([&](int warp) {
      const int other = static_cast<int>(keys[warps_ + warp]);
      if (keys[warp] > smallest || (keys[warp] == smallest && other > best)) return;
      smallest = keys[warp];
      best = other;
    });
    return least_of_warp(smallest, best);
  }

  // Adds to a counter that several agents may add to in the same loop.
  METHOD void add(int& target, int amount) { atomicAdd(&target, amount); }

 protected:
  // Makes later calls concern this copy only if the condition holds.
  METHOD void only_if(bool condition) { active_ = condition; }

  METHOD bool any_active() const { return active_; }

  METHOD bool is_leader() const { return active_ && lane_ == 0; }

  // `each` without its barrier: only the lane that plays agent i may rely on what visit(i) wrote.
  template <class Visit>
  METHOD void each_own(Range range, Visit visit) const {
    if (active_) each_of_mine(range, visit);
  }

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
  float* scratch_;  // memory of the team for reductions, in two halves that they use in turn

 private:
  static constexpr bool lane_for_each_ = Geometry::num_agents <= Geometry::lanes;

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

  template <class Predicate>
  METHOD int tally(Range range, Predicate& predicate) const {
    int total = 0;
    each_of_mine(range, [&](int i) { total += predicate(i) ? 1 : 0; });
    return total;
  }

  // Spreads the warps' numbers over the lanes of each warp.
  template <class Visit>
  METHOD void for_warps(Visit visit) const {
    for (int first = 0; first < warps_; first += 32)
      if (first + lane_ % 32 < warps_) visit(first + lane_ % 32);
  }

  // Memory for the partial results of a reduction. Whoever still reads those of the one before reads the other half,
  // and the one before that has been read by all who have come to the last barrier.
  template <class T>
  METHOD T* fresh_scratch() {
    half_ = Geometry::scratch_words - half_;
    return reinterpret_cast<T*>(scratch_ + half_);
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

  // The same for every lane.
  METHOD static float sum_of_warp(float value, int part, int size, int most) {
    return __shfl_sync(~0u, sum_tree(value, part, size, most), 0);
  }

  // The sums of 32 consecutive values each.
  template <class Value>
  METHOD const float* sum_parts(int size, Value value) {
    const int part = lane_ % 32;
    float* sums = fresh_scratch<float>();
    for (int first = 0; first < size; first += Geometry::lanes) {
      const int at = first + lane_;
      const bool all_count = first + Geometry::lanes <= size;
      const int number = all_count ? 32 : size - (at - part);
      const float total = sum_tree(all_count || at < size ? value(at) : 0.0f, part, number, 32);
      if (part == 0 && (all_count || at < size)) sums[at / 32] = total;
    }
    synchronize();
    return sums;
  }

  // Leaves the warp's smallest key in `key` and returns its index, the lowest of equal ones.
  METHOD static int least_of_warp(unsigned& key, int index) {
    const unsigned smallest = __reduce_min_sync(~0u, key);
    index = static_cast<int>(__reduce_min_sync(~0u, key == smallest ? static_cast<unsigned>(index) : ~0u));
    key = smallest;
    return index;
  }

  int half_ = 0;  // of the scratch memory that was used last, as an offset
};
