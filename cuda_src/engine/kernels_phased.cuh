// The kernels for many large copies, where phases of an operation are launches of their own for all of them
// (team_phased.cuh). State is worked on in place.
//
// In most phases, blocks play a copy each. In those in which warps search, there are as many as run at once, and every
// warp takes parts of what is to be done in all copies, one after the other: one that restarts has ten times the work
// of one whose agents have left. So few copies are searched at a time, and a cache holds their state.
#pragma once

#include "overlapping_cuda.cuh"
#include "team_copy.cuh"

class DeviceCopy : public TeamCopy {
 public:
  // Lane number `lane` of the team of a copy, in the phases from `first` up to `end`.
  METHOD DeviceCopy(const Arguments& arguments, int first, int end, unsigned copy, unsigned lane,
                    unsigned char* stage) {
    arguments_ = &arguments;
    copy_ = copy;
    lane_ = static_cast<int>(lane);
    __builtin_assume(lane_ >= 0 && lane_ < Geometry::lanes);
    first_ = first;
    end_ = end;
    unit_ = arguments.workspace + copy_ * Geometry::unit_bytes;
    scratch_ = reinterpret_cast<float*>(unit_ + Geometry::scratch_at);
    words_ = words_of(arguments, copy);
    search_memory_ = unit_ + Geometry::search_at;
    stage_ = stage;
    warp_memory_ = stage + threadIdx.x / 32 * Geometry::warp_stage_floats * sizeof(float);
    Declared::bind(arguments);
    visit_arrays([&](auto*& array, auto* global, int offset, int length, bool) {
      array = global != nullptr ? part(global, length) : reinterpret_cast<decltype(global)>(unit_ + offset);
    });
    only_if(true);
    load_counters();
  }

  // The lane that a thread is, where blocks play a copy each.
  METHOD DeviceCopy(const Arguments& arguments, int first, int end, unsigned char* stage)
      : DeviceCopy(arguments, first, end, blockIdx.x / Geometry::blocks,
                   blockIdx.x % Geometry::blocks * Geometry::threads + threadIdx.x, stage) {}

  // To count the phases.
  METHOD explicit DeviceCopy(const Arguments& arguments) : DeviceCopy(arguments, counting, counting, nullptr) {}

  // Words for results of a copy's reductions.
  METHOD static unsigned* words_of(const Arguments& arguments, unsigned copy) {
    auto* unit = arguments.workspace + copy * std::size_t{Geometry::unit_bytes};
    return reinterpret_cast<unsigned*>(unit + Geometry::words_at);
  }

  // Gives a part of what is to be done in a phase to the warp.
  METHOD void take(int part) {
    part_ = part;
    __builtin_assume(part >= 0);
  }

  using TeamLanes::sum_up_to;

  METHOD void step() {
    constexpr bool same_step = Geometry::autoreset == Autoreset::same_step;
    const bool played = advance(), restarts = same_step && finished_;
    side_by_side<2, false>([&](auto k) {
      only_if(true);
      scratch_ += k * 2 * Geometry::scratch_words;  // sums apart, whatever is added up to observe
      if constexpr (k > 0) {
        write_observations(restarts);
      } else {
        if (is_own_phase()) store_outcome();
        only_if(played);
        account(finished_);
      }
    });
    only_if(!restarts);  // who leaves a copy that restarts is back before anybody sees it
    leave();
    if constexpr (same_step) {
      only_if(restarts);
      restart();
      write_observations(false);
    } else {
      synchronize();
    }
    only_if(true);
    write_masks();
    if (!is_leader()) return;
    arguments_->truncated[copy_] = truncated_;
    arguments_->done[copy_] = done_;
    finish();
  }

  METHOD void reset() {
    restart_if(arguments_->mask == nullptr || arguments_->mask[copy_]);
    write_observations(false);
    write_masks();
    only_if(true);
    if (is_leader()) finish();
  }

  METHOD void observe() {
    write_observations(false);
    write_masks();
    if (is_leader()) finish();
  }

  // How many phases there are, and words for results.
  METHOD int number_of_phases() const { return phase_ + 1; }
  METHOD int number_of_words() const { return words_in_use_; }

 private:
  // The last phase is that of a single lane: others would take the new counters for those before the step.
  METHOD void finish() const {
    store_counters();
    clear_words();
  }
};

// Shared memory of so many warps for observations, which those kernels take that use it.
template <int warps>
METHOD unsigned char* stage_of_warps() {
  constexpr int floats = warps * Geometry::warp_stage_floats;
  __shared__ __align__(128) unsigned char stage[sizeof(float) * (floats > 0 ? floats : 1)];
  return stage;
}

// An operation of a copy, which is a constant of each kernel. A function that takes the copy by reference would stay a
// call if it is large, and what phase it is for unknown to it.
using Operation = void (DeviceCopy::*)();

template <Operation operation>
METHOD void launch(const Arguments& arguments, int first, int end) {
  overlap_launches();
  DeviceCopy copy(arguments, first, end, stage_of_warps<has_stage ? Geometry::warps : 0>());
  (copy.*operation)();
  wait_for_stored_rows();
}

// The same where blocks belong to no copy, and warps take parts of so many agents, one at a time. They are numbered
// through for 128 copies: the word `left` of each says how many agents there are, and the one behind it, of the first
// of these copies, how many parts have been taken.
template <Operation operation, unsigned part, int left>
METHOD void launch_searching(const Arguments& arguments, int first, int end) {
  overlap_launches();
  constexpr unsigned of_lane = 4, at_once = 32 * of_lane;  // copies
  const unsigned copies = static_cast<unsigned>(arguments.num_envs), lane = threadIdx.x % 32;
#pragma unroll 1
  for (unsigned start = 0; start < copies; start += at_once) {
    int its_end[of_lane], its_parts = 0;  // the number of the part behind the last of each copy
#pragma unroll
    for (unsigned k = 0; k < of_lane; ++k) {
      const unsigned copy = start + of_lane * lane + k;
      const unsigned agents = copy < copies ? DeviceCopy::words_of(arguments, copy)[left] : 0;
      its_parts += static_cast<int>((agents + part - 1) / part);
      its_end[k] = its_parts;
    }
    const int all_end = DeviceCopy::sum_up_to(its_parts, lane), its_start = all_end - its_parts;
    const int parts = __shfl_sync(~0u, all_end, 31);
#pragma unroll
    for (unsigned k = 0; k < of_lane; ++k) its_end[k] += its_start;
    auto* const taken = reinterpret_cast<int*>(DeviceCopy::words_of(arguments, start) + left + 1);
#pragma unroll 1
    for (;;) {
      const int number = __shfl_sync(~0u, lane == 0 ? atomicAdd(taken, 1) : 0, 0);
      if (number >= parts) break;
      const int owner = __popc(__ballot_sync(~0u, all_end <= number));
      unsigned copy_of_part = start + of_lane * owner;
      int before = __shfl_sync(~0u, its_start, owner);
#pragma unroll
      for (unsigned k = 0; k + 1 < of_lane; ++k) {
        const int its = __shfl_sync(~0u, its_end[k], owner);
        if (its > number) continue;
        ++copy_of_part;
        before = its;
      }
      DeviceCopy copy(arguments, first, end, copy_of_part, threadIdx.x, stage_of_warps<Geometry::searching_warps>());
      copy.take(number - before);
      (copy.*operation)();
    }
  }
  wait_for_stored_rows();
}

// The kernel for the phases of an operation from `first` up to `end`.
#define PHASES(operation, first, end)                                                                \
  extern "C" __global__ void CLUSTER __launch_bounds__(Geometry::threads, Geometry::resident_blocks) \
      gpu_marl_##operation##_##first(const __grid_constant__ Arguments arguments) {                  \
    launch<&DeviceCopy::operation>(arguments, first, end);                                           \
  }

// The same for a phase in which warps search.
#define SEARCHING_PHASE(operation, phase, part, left)                                                      \
  extern "C" __global__ void __launch_bounds__(32 * Geometry::searching_warps, Geometry::searching_blocks) \
      gpu_marl_##operation##_##phase(const __grid_constant__ Arguments arguments) {                        \
    launch_searching<&DeviceCopy::operation, part, left>(arguments, phase, phase + 1);                     \
  }

// What tells a reader of the assembler code how many phases an operation has, and words for results; in which of them
// warps search, and in which blocks play a copy each, is told by the team.
#define COUNT_PHASES(operation)                                                                  \
  extern "C" __global__ void gpu_marl_##operation(const __grid_constant__ Arguments arguments) { \
    DeviceCopy copy(arguments);                                                                  \
    copy.operation();                                                                            \
    asm volatile("// " #operation " has %0 phases, %1 words" ::"r"(copy.number_of_phases()),     \
                 "r"(copy.number_of_words()));                                                   \
  }
