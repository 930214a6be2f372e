// The kernels for copies of more than 32 agents: a block plays a copy, or a cluster of blocks where it is very large.
#pragma once

#include <cuda_pipeline_primitives.h>

#include "shared_memory_cuda.cuh"
#include "team_copy.cuh"

// The part of one lane. The team's lanes load and store the copy's arrays together; in between each plays its agents
// (team_cuda.cuh). State lives in shared memory during a launch, or is worked on in place where it does not fit.
class DeviceCopy : public TeamCopy {
 public:
  METHOD DeviceCopy(const Arguments& arguments, unsigned char* shared) {
    arguments_ = &arguments;
    copy_ = blockIdx.x / Geometry::blocks;
    lane_ = static_cast<int>(blockIdx.x % Geometry::blocks * Geometry::threads + threadIdx.x);
    __builtin_assume(lane_ >= 0 && lane_ < Geometry::lanes);
    shared = worked_out_once(shared);
    unit_ = Geometry::staged ? shared : arguments.workspace + copy_ * Geometry::unit_bytes;
    scratch_ = reinterpret_cast<float*>(unit_ + Geometry::scratch_at);
    search_memory_ = unit_ + Geometry::search_at;
    stage_ = shared + (Geometry::staged ? Geometry::unit_bytes : 0);
    warp_memory_ = stage_ + threadIdx.x / 32 * Geometry::warp_stage_floats * sizeof(float);
    actions_ = action_ = reinterpret_cast<int*>(unit_ + Geometry::actions_at);
    Declared::bind(arguments);
    visit_arrays([&](auto*& array, auto* global, int offset, int length, bool) {
      const bool in_place = !Geometry::staged && global != nullptr;
      array = in_place ? part(global, length) : reinterpret_cast<decltype(global)>(unit_ + offset);
    });
    only_if(true);
  }

  METHOD void load(bool with_actions) {
    if constexpr (Geometry::staged) {
      visit_arrays([&](auto*& array, auto* global, int, int length, bool persists) {
        if (persists) fetch(array, part(global, length), length);
      });
      if (Geometry::actions_staged && with_actions) load_actions();
      __pipeline_commit();
    }
    load_counters();
    if constexpr (Geometry::staged) __pipeline_wait_prior(0);
    synchronize();
  }

  METHOD void step() {
    constexpr bool same_step = Geometry::autoreset == Autoreset::same_step;
    advance();
    only_if(true);
#pragma unroll 1  // so that there is one copy of the code that observes
    for (bool restarted = false;; restarted = true) {
      write_observations(same_step && finished_ && !restarted);
      if (restarted) break;
      store_outcome();
      if (!same_step || !finished_) {
        leave();
        break;
      }
      wait_for_stored_rows();         // before the barriers of the restart: new ones take their place
      asm volatile("" : "+l"(key_));  // or a compiler would work out what random numbers take before the loop
      restart();                      // who leaves now is back before anybody sees it
    }
    write_masks();
    if (!is_leader()) return;
    arguments_->truncated[copy_] = truncated_;
    arguments_->done[copy_] = done_;
  }

  METHOD void reset() {
    restart_if(arguments_->mask == nullptr || arguments_->mask[copy_]);
    write_observations(false);
    write_masks();
  }

  METHOD void observe() {
    write_observations(false);
    write_masks();
  }

  METHOD void store() {
    only_if(true);
    if constexpr (Geometry::staged) {
      const bool who_is_alive_changed = __syncthreads_or(alive_changed_);
      visit_arrays([&](auto*& array, auto* global, int offset, int length, bool persists) {
        if (offset == Geometry::alive_at && !who_is_alive_changed) return;
        if (persists) put(part(global, length), array, length);
      });
    }
    store_counters();
    wait_for_stored_rows();
  }

 private:
  // The largest pieces in which an array of each copy can be copied: its tensor starts at a multiple of 16 bytes.
  template <class T>
  METHOD static constexpr int piece(int length) {
    const int bytes = length * static_cast<int>(sizeof(T));
    return bytes % 16 == 0 ? 16 : bytes % 8 == 0 ? 8 : bytes % 4 == 0 ? 4 : 1;
  }

  // Starts copying an array to shared memory.
  template <class T>
  METHOD void fetch(T* to, const T* from, int length) const {
    const int size = piece<T>(length), pieces = length * static_cast<int>(sizeof(T)) / size;
    if (size == 16)
      fetch_pieces<16>(to, from, pieces);
    else if (size == 8)
      fetch_pieces<8>(to, from, pieces);
    else if (size == 4)
      fetch_pieces<4>(to, from, pieces);
    else
      for_team(length, [&](int k) { to[k] = from[k]; });
  }

  template <int size>
  METHOD void fetch_pieces(void* to, const void* from, int pieces) const {
    for_team(pieces, [&](int k) {
      __pipeline_memcpy_async(static_cast<char*>(to) + size * k, static_cast<const char*>(from) + size * k, size);
    });
  }

  // Actions become four bytes each.
  METHOD void load_actions() const {
#pragma unroll
    for (int g = 0; g < num_groups; ++g) {
      const int size = action_size(g);
      int* to = action_ + action_slab(g);
      const void* all = arguments_->action[g];
      if (action_count(g, 0) == 0 || arguments_->action_bytes[g] == 4)
        fetch_pieces<4>(to, part(static_cast<const std::int32_t*>(all), size), size);
      else if (arguments_->action_bytes[g] == 1)
        convert_actions(g, to, part(static_cast<const std::uint8_t*>(all), size));
      else
        convert_actions(g, to, part(static_cast<const std::int64_t*>(all), size));
    }
  }

  template <class T>
  METHOD void convert_actions(int g, int* to, const T* from) const {
    for_team(action_size(g), [&](int k) { to[k] = within_space(g, k % action_width(g), from[k]); });
  }

  // Copies an array from shared memory.
  template <class T>
  METHOD void put(T* to, const T* from, int length) const {
    const int size = piece<T>(length), pieces = length * static_cast<int>(sizeof(T)) / size;
    if (size == 16)
      for_team(pieces, [&](int k) { reinterpret_cast<int4*>(to)[k] = reinterpret_cast<const int4*>(from)[k]; });
    else if (size == 8)
      for_team(pieces, [&](int k) { reinterpret_cast<int2*>(to)[k] = reinterpret_cast<const int2*>(from)[k]; });
    else if (size == 4)
      for_team(pieces, [&](int k) { reinterpret_cast<int*>(to)[k] = reinterpret_cast<const int*>(from)[k]; });
    else
      for_team(length, [&](int k) { to[k] = from[k]; });
  }

  int* action_;
};

template <class Run>
METHOD void launch(const Arguments& arguments, bool with_actions, Run run) {
  extern __shared__ __align__(128) unsigned char shared[];
  DeviceCopy copy(arguments, shared);
  copy.load(with_actions);
  run(copy);
  copy.store();
}

#include "entry_points.cuh"
