// The threads of a block, or of a cluster of blocks, share one copy of an environment. Each call ends in a barrier, or
// has had one since it last read: what one loop wrote, the next may read.
#pragma once

#include "team_lanes.cuh"

class Team : public TeamLanes {
 public:
  // Calls visit(i) for every agent i of the range, in no particular order. A visit may write the entries of agent i
  // and read what no visit of this loop writes.
  template <class Visit>
  METHOD void each(Range range, Visit visit) {
    in_phase([&] { each_of_mine(range, visit); });
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

 protected:
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

  // The part of a call between two barriers; not for copies that calls do not concern.
  template <class Part>
  METHOD void in_phase(Part part) const {
    if (active_) part();
    synchronize();
  }

  // The same for what lanes take part in as they have time.
  template <int agents = 32, class Part>
  METHOD void in_helped_phase(const int*, Part part) const {
    in_phase(part);
  }

  // Calls visit(k) for k = 0, …, count - 1, none of which waits for what another one returns.
  template <int count, bool sums_apart = true, class Visit>
  METHOD void side_by_side(Visit visit) const {
#pragma unroll
    for (int k = 0; k < count; ++k) visit(k);
  }

  // The given words, zero.
  template <int words>
  METHOD unsigned* zeroed_words(unsigned* memory) const {
    if (lane_ < words) memory[lane_] = 0;
    synchronize();
    return memory;
  }

  // Sets sums[k] to the sum of the values before the k-th.
  METHOD void add_up(const int* values, int* sums, int count) {
    int* totals = reinterpret_cast<int*>(scratch_);
    const int per_lane = (count + Geometry::lanes - 1) / Geometry::lanes;
    const int first = Math::min(lane_ * per_lane, count), end = Math::min(first + per_lane, count);
    int own = 0, sum = 0;
    in_phase([&] {
      for (int k = first; k < end; ++k) own += values[k];
      sum = sum_up_to(own, lane_ % 32);
      if (lane_ % 32 == 31) totals[lane_ / 32] = sum;
    });
    in_phase([&] {
      int before = 0;
      for (int warp = lane_ % 32; warp < lane_ / 32; warp += 32) before += totals[warp];
      sum += __reduce_add_sync(~0u, before) - own;
      for (int k = first; k < end; ++k) {
        sums[k] = sum;
        sum += values[k];
      }
    });
  }

 private:
  static constexpr bool lane_for_each_ = Geometry::num_agents <= Geometry::lanes;

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

  int half_ = 0;  // of the scratch memory that was used last, as an offset
};
