// The lanes of several blocks play one copy of an environment, and a launch may end where they would have to wait for
// each other: phases of an operation, from one such end to the next, are kernels of their own. See team_cuda.cuh for
// what the functions mean.
//
// All these kernels are the same code, which counts the phases it comes to. A kernel runs what belongs to the one it is
// for, and passes over the others; since that number and the order of calls are constants, a compiler leaves nothing
// else of it. What earlier phases have found out is in the memory of the copy: reductions leave it in words that nobody
// else uses until the last phase makes them zero again.
//
// A kernel may be for several phases in succession: then the blocks of a team are a cluster, which waits in between.
#pragma once

#include <utility>

#include "team_lanes.cuh"

class Team : public TeamLanes {
 public:
  template <class Visit>
  METHOD void each(Range range, Visit visit) {
    in_phase([&] { each_of_mine(range, visit); });
  }

  template <class Predicate>
  METHOD bool any(Range range, Predicate predicate) {
    unsigned* found = fresh_words<1>();
    in_phase([&] {
      if (__any_sync(~0u, tally(range, predicate) > 0) && lane_ % 32 == 0) *found = 1;
    });
    return *found != 0;
  }

  template <class Predicate>
  METHOD int count(Range range, Predicate predicate) {
    int* total = reinterpret_cast<int*>(fresh_words<1>());
    in_phase([&] {
      const int of_block = sum_of_warps(__reduce_add_sync(~0u, tally(range, predicate)), Geometry::warps);
      if (threadIdx.x == 0 && of_block > 0) atomicAdd(total, of_block);
    });
    return *total;
  }

  template <class Value>
  METHOD float sum(Range range, Value value) {
    float* total = reinterpret_cast<float*>(fresh_words<1>());
    int parts = (range.size + 31) / 32;
    float *sums = scratch_ + parts_in_use_, *others = sums + Geometry::scratch_words;
    if (is_beside_others_) parts_in_use_ += parts;
    in_phase([&] { sum_parts(range.size, sums, [&](int k) { return value(range.first + k); }); });
    for (; parts > 32 * 32; parts = (parts + 31) / 32) {
      in_phase([&] { sum_parts(parts, others, [&](int k) { return sums[k]; }); });
      float* const last = sums;
      sums = others;
      others = last;
    }
    in_phase([&] {  // the last two levels, by one block
      if (lane_ >= Geometry::threads) return;
      __shared__ float sums_of_block[32];
      __syncthreads();  // another sum side by side may still be reading them
      const int part = lane_ % 32;
      for (int first = lane_ & ~31; first < parts; first += Geometry::threads) {
        const float sum =
            sum_tree(first + part < parts ? sums[first + part] : 0.0f, part, Math::min(parts - first, 32), 32);
        if (part == 0) sums_of_block[first / 32] = sum;
      }
      __syncthreads();
      if (lane_ >= 32) return;
      const int left = (parts + 31) / 32;
      const float sum = sum_tree(part < left ? sums_of_block[part] : 0.0f, part, left, 32);
      if (lane_ == 0) *total = sum;
    });
    return *total;
  }

  template <class Key>
  METHOD int argmin(Range range, Key key) {
    using Candidate = unsigned long long;                         // a key, and below it an index
    auto* best = reinterpret_cast<Candidate*>(fresh_words<2>());  // its complement
    in_phase([&] {
      unsigned smallest = ~0u;
      int index = range.end() - 1;
      each_of_mine(range, [&](int i) {
        const unsigned candidate = ordered(key(i));
        if (candidate < smallest) {
          smallest = candidate;
          index = i;
        }
      });
      index = least_of_warp(smallest, index);
      const Candidate candidate = ~(static_cast<Candidate>(smallest) << 32 | static_cast<unsigned>(index));
      if (lane_ % 32 == 0 && candidate > *best) atomicMax(best, candidate);
    });
    return static_cast<int>(~*best);
  }

 protected:
  METHOD static constexpr bool any_active() { return true; }  // all kernels come to the same phases

  METHOD bool is_leader() const { return is_own_phase() && lane_ == 0; }

  // Whether what follows belongs to a phase that this kernel is for.
  METHOD bool is_current_phase() const { return phase_ >= first_ && phase_ < end_; }

  // The same for what the lanes of the team do, each its part, in copies that calls concern.
  METHOD bool is_own_phase() const {
#ifdef __CUDA_ARCH__
    if (first_ == counting) asm volatile("// plays in %0" ::"r"(phase_));
#endif
    return is_current_phase() && active_;
  }

  // `each` without the end of the phase: only the lane that plays agent i may rely on what visit(i) wrote.
  template <class Visit>
  METHOD void each_own(Range range, Visit visit) const {
    if (is_own_phase()) each_of_mine(range, visit);
  }

  METHOD void synchronize() {
    const bool was_current = is_current_phase();
    ++phase_;
    if (was_current && is_current_phase()) wait_for_cluster();
  }

  // The part of a call up to the end of a phase; not for copies that calls do not concern.
  template <class Part>
  METHOD void in_phase(Part part) {
    if (is_own_phase()) part();
    synchronize();
  }

  // The same for what warps of all blocks do, so many agents at a time: `left`, one of the words for results, says how
  // many there are before the phase. The word behind it is free for the launch to use.
  template <int agents = 32, class Part>
  METHOD void in_helped_phase([[maybe_unused]] const int* left, Part part) {
#ifdef __CUDA_ARCH__
    if (first_ == counting)
      asm volatile("// searches in %0, parts of %1, left in %2" ::"r"(phase_), "n"(agents),
                   "r"(static_cast<int>(reinterpret_cast<const unsigned*>(left) - words_)));
#endif
    if (is_current_phase() && active_) part();
    synchronize();
  }

  // Calls visit(first) for the part that the launch has given to the warp. If it has given none, blocks play a copy
  // each, and their warps share the parts.
  template <int size = 32, class Visit>
  METHOD void in_parts(int* left, int end, Visit visit) const {
    if (part_ >= 0)
      visit(size * part_);
    else
      TeamLanes::in_parts<size>(left, end, visit);
  }

  // Calls visit(k) for k = 0, …, count - 1, none of which waits for what another one returns: in the same phases.
  // `sums_apart`: they may make sums of the same copy. Each k is a constant: a large function that is called for all of
  // them would stay a call.
  template <int count, bool sums_apart = true, class Visit>
  METHOD void side_by_side(Visit visit) {
    const int first = phase_;
    int last = first;
    is_beside_others_ = sums_apart;
    const auto visit_from_first = [&](auto k) {
      phase_ = first;
      visit(k);
      last = Math::max(last, phase_);
    };
    for_each_of(std::make_integer_sequence<int, count>{}, visit_from_first);
    const bool must_wait = phase_ < last && is_current_phase();
    phase_ = last;
    if (must_wait && is_current_phase()) wait_for_cluster();
    is_beside_others_ = false;
    parts_in_use_ = 0;
  }

  // So many words, zero.
  template <int words>
  METHOD unsigned* zeroed_words(unsigned*) {
    return fresh_words<words>();
  }

  // Sets sums[k] to the sum of the values before the k-th; both are aligned to four, and there is room for three more.
  // Each block does so for a stretch of them.
  METHOD void add_up(const int* values, int* sums, int count) {
    constexpr int threads = Geometry::threads;
    const int block = lane_ / threads, number = lane_ % threads;
    const int of_block = ((count + Geometry::blocks - 1) / Geometry::blocks + 3) & ~3;
    const int start = Math::min(block * of_block, count), end = Math::min(start + of_block, count);
    int* const of_blocks = reinterpret_cast<int*>(scratch_);
    const auto load = [&](int k) { return reinterpret_cast<const int4*>(values)[k / 4]; };
    in_phase([&] {
      int own = 0;
      for (int k = start + 4 * number; k < end; k += 4 * threads) {
        const int4 some = load(k);
        own += (some.x + some.y) + (some.z + some.w);
      }
      own = sum_of_warps(__reduce_add_sync(~0u, own), Geometry::warps);
      if (number == 0) of_blocks[block] = own;
    });
    in_phase([&] {
      int before = 0;
      for (int k = number; k < block; k += threads) before += of_blocks[k];
      before = sum_of_warps(__reduce_add_sync(~0u, before), Geometry::warps);
#pragma unroll 1
      for (int first = start; first < end; first += 4 * threads) {
        const int k = first + 4 * number;
        const int4 some = k < end ? load(k) : int4{0, 0, 0, 0};
        const int two = some.x + some.y, three = two + some.z, own = three + some.w;
        const int sum = sum_up_to(own, lane_ % 32), of_warp = __shfl_sync(~0u, sum, 31);
        const int sum_before = before + sum_of_warps(of_warp, number / 32) + sum - own;
        if (k < end)
          reinterpret_cast<int4*>(sums)[k / 4] = {sum_before, sum_before + some.x, sum_before + two,
                                                  sum_before + three};
        before += sum_of_warps(of_warp, Geometry::warps);
      }
    });
  }

  // Makes words zero that reductions have left their results in: nothing of a step may follow.
  METHOD void clear_words() const {
    for (int k = 0; k < words_in_use_; ++k) words_[k] = 0;
  }

  static constexpr int counting = -1;  // instead of the phases that a kernel is for

  int first_, end_;  // the phases that this kernel is for
  int phase_ = 0;    // the one that the code has come to
  unsigned* words_;  // memory of the team for results of reductions
  int words_in_use_ = 0;
  int part_ = -1;  // that this warp takes, where warps belong to no copy

 private:
  template <int... numbers, class Visit>
  METHOD static void for_each_of(std::integer_sequence<int, numbers...>, Visit visit) {
    (visit(std::integral_constant<int, numbers>{}), ...);
  }

  template <int words>
  METHOD unsigned* fresh_words() {
    words_in_use_ = (words_in_use_ + words - 1) / words * words;  // pairs lie at even places
    unsigned* const first = words_ + words_in_use_;
    words_in_use_ += words;
    return first;
  }

  // Where a kernel is for several phases, the blocks of a team are a cluster.
  METHOD static void wait_for_cluster() {
#ifdef __CUDA_ARCH__
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
  }

  // The sums of 32 consecutive values each.
  template <class Value>
  METHOD void sum_parts(int size, float* sums, Value value) const {
    const int part = lane_ % 32;
    for (int first = lane_ & ~31; first < size; first += Geometry::lanes) {
      const int left = Math::min(size - first, 32);
      const float total = sum_tree(part < left ? value(first + part) : 0.0f, part, left, 32);
      if (part == 0) sums[first / 32] = total;
    }
  }

  // The sum of the values of a block's first warps, each the same in all lanes of a warp. All warps call it together.
  METHOD static int sum_of_warps(int value, int count) {
    __shared__ int values[(Geometry::warps + 3) & ~3];  // four are read at once
    __syncthreads();
    if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = value;
    __syncthreads();
    int sum = 0;
    for (int warp = 0; warp < count; ++warp) sum += values[warp];
    return sum;
  }

  bool is_beside_others_ = false;  // whether the present call is one of some side by side
  int parts_in_use_ = 0;           // of the memory for partial sums, by those before it
};
