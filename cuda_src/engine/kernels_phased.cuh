// The kernels for many large copies, where phases of an operation are launches of their own for all of them
// (team_phased.cuh). State is worked on in place.
//
// In most phases, blocks play a copy each. In those in which warps search, there are as many as run at once, and every
// warp goes from copy to copy and takes parts of what is left to do: one that restarts has ten times the work of one
// whose agents have left. Warps of a multiprocessor start with the same copy, and find it in its cache.
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
    words_ = reinterpret_cast<unsigned*>(unit_ + Geometry::words_at);
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

  // Whether warps have something left to do in a copy; what other warps take must not be hidden by a cache.
  METHOD static bool is_some_left(const Arguments& arguments, unsigned copy) {
    const auto* memory = arguments.workspace + copy * std::size_t{Geometry::unit_bytes} + Geometry::search_at;
    return reinterpret_cast<const volatile int*>(memory)[left_at] > 0;
  }

  METHOD void step() {
    constexpr bool same_step = Geometry::autoreset == Autoreset::same_step;
    const bool played = advance(), restarts = same_step && finished_;
    side_by_side<2, false>([&](int k) {
      only_if(true);
      scratch_ += k * 2 * Geometry::scratch_words;  // sums apart, whatever is added up to observe
      if (k > 0) return write_observations(restarts);
      if (is_own_phase()) store_outcome();
      only_if(played);
      account(finished_);
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

// The number of this multiprocessor, out of so many.
METHOD uint2 number_of_multiprocessor() {
  uint2 result;
  asm("mov.u32 %0, %%smid;\nmov.u32 %1, %%nsmid;" : "=r"(result.x), "=r"(result.y));
  return result;
}

// Parts for each warp in the copies that are searched at once: few, so that a cache holds their state, but with one
// copy all warps would count on the same word.
constexpr unsigned parts_at_once = 2, fewest_copies_at_once = 2;

// The same where blocks belong to no copy, and warps take parts of so many agents.
template <Operation operation, unsigned part>
METHOD void launch_searching(const Arguments& arguments, int first, int end) {
  overlap_launches();
  const unsigned copies = static_cast<unsigned>(arguments.num_envs), lane = threadIdx.x % 32;
  const uint2 multiprocessor = number_of_multiprocessor();
  const unsigned agents_at_once = gridDim.x * Geometry::searching_warps * parts_at_once * part;
  const unsigned at_once = ::min(copies, ::max(agents_at_once / Geometry::num_agents, fewest_copies_at_once));
  const unsigned first_copy = multiprocessor.x * at_once / multiprocessor.y * copies / at_once;
  const unsigned home = __reduce_min_sync(~0u, first_copy);  // which tells the compiler that all lanes have the same
  const auto nth_copy = [&](unsigned nth) { return home + nth < copies ? home + nth : home + nth - copies; };
#pragma unroll 1
  for (unsigned start = 0; start < copies; start += 32) {
    unsigned unvisited = ~0u;
#pragma unroll 1
    for (;;) {
      const unsigned nth = start + lane;
      const bool is_some_left = nth < copies && DeviceCopy::is_some_left(arguments, nth_copy(nth));
      const unsigned those = __ballot_sync(~0u, is_some_left) & unvisited;
      if (those == 0) break;
      const int next = __ffs(those) - 1;
      unvisited = ~1u << next;
      DeviceCopy copy(arguments, first, end, nth_copy(start + next), threadIdx.x,
                      stage_of_warps<Geometry::searching_warps>());
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
#define SEARCHING_PHASE(operation, phase, part)                                                            \
  extern "C" __global__ void __launch_bounds__(32 * Geometry::searching_warps, Geometry::searching_blocks) \
      gpu_marl_##operation##_##phase(const __grid_constant__ Arguments arguments) {                        \
    launch_searching<&DeviceCopy::operation, part>(arguments, phase, phase + 1);                           \
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
