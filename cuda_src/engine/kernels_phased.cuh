// The kernels for many large copies, where every phase of an operation is a launch of its own for all of them
// (team_phased.cuh). State is worked on in place.
#pragma once

#include "overlapping_cuda.cuh"
#include "team_copy.cuh"

class DeviceCopy : public TeamCopy {
 public:
  // For a phase that so many times the team's blocks take part in.
  METHOD DeviceCopy(const Arguments& arguments, int phase, unsigned multiple) {
    arguments_ = &arguments;
    copy_ = blockIdx.x / (Geometry::blocks * multiple);
    is_helper_ = blockIdx.x % (Geometry::blocks * multiple) >= Geometry::blocks;
    lane_ = static_cast<int>(blockIdx.x % Geometry::blocks * Geometry::threads + threadIdx.x);
    __builtin_assume(lane_ >= 0 && lane_ < Geometry::lanes);
    current_ = phase;
    unit_ = arguments.workspace + copy_ * Geometry::unit_bytes;
    scratch_ = reinterpret_cast<float*>(unit_ + Geometry::scratch_at);
    words_ = reinterpret_cast<unsigned*>(unit_ + Geometry::words_at);
    search_memory_ = unit_ + Geometry::search_at;
    if constexpr (Geometry::stage_floats > 0) {  // taken by the kernels alone that use it
      __shared__ __align__(128) unsigned char stage[sizeof(float) * Geometry::stage_floats];
      stage_ = stage;
      warp_memory_ = stage_ + threadIdx.x / 32 * Geometry::warp_stage_floats * sizeof(float);
    }
    Declared::bind(arguments);
    visit_arrays([&](auto*& array, auto* global, int offset, int length, bool) {
      array = global != nullptr ? part(global, length) : reinterpret_cast<decltype(global)>(unit_ + offset);
    });
    only_if(true);
    load_counters();
  }

  // To count the phases.
  METHOD explicit DeviceCopy(const Arguments& arguments) : DeviceCopy(arguments, counting, 1) {}

  METHOD void step() {
    constexpr bool same_step = Geometry::autoreset == Autoreset::same_step;
    advance();
    only_if(true);
    const bool restarts = same_step && finished_;
    write_observations(restarts);
    only_if(!restarts);  // who leaves a copy that restarts is back before anybody sees it
    leave();
    only_if(true);
    if (is_own_phase()) store_outcome();
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

template <class Run>
METHOD void launch(const Arguments& arguments, int phase, unsigned multiple, Run run) {
  overlap_launches();
  DeviceCopy copy(arguments, phase, multiple);
  run(copy);
  wait_for_stored_rows();
}

// The kernel for a phase of an operation, in which so many times the team's blocks take part.
#define PHASE(operation, phase, multiple)                                                    \
  extern "C" __global__ void __launch_bounds__(Geometry::threads, Geometry::resident_blocks) \
      gpu_marl_##operation##_##phase(const __grid_constant__ Arguments arguments) {          \
    launch(arguments, phase, multiple, [](DeviceCopy& copy) { copy.operation(); });          \
  }

// What tells a reader of the assembler code how many phases an operation has, and words for results; in which of them
// more blocks may take part is told by the team.
#define COUNT_PHASES(operation)                                                                  \
  extern "C" __global__ void gpu_marl_##operation(const __grid_constant__ Arguments arguments) { \
    DeviceCopy copy(arguments);                                                                  \
    copy.operation();                                                                            \
    asm volatile("// " #operation " has %0 phases, %1 words" ::"r"(copy.number_of_phases()),     \
                 "r"(copy.number_of_words()));                                                   \
  }
