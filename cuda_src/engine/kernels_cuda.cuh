// The kernels for copies of more than 32 agents: a block plays a copy, or a cluster of blocks where it is very large.
#pragma once

#include "episode.cuh"

// The part of one lane. The team's lanes load and store the copy's arrays together; in between each plays its agents
// (team_cuda.cuh). State lives in shared memory during a launch, or is worked on in place where it does not fit.
class DeviceCopy : public Episode<Rules> {
 public:
  METHOD DeviceCopy(const Arguments& arguments, unsigned char* shared) {
    arguments_ = &arguments;
    copy_ = blockIdx.x / Geometry::blocks;
    lane_ = static_cast<int>(blockIdx.x % Geometry::blocks * Geometry::threads + threadIdx.x);
    unit_ = Geometry::staged ? shared : arguments.workspace + copy_ * Geometry::unit_bytes;
    scratch_ = reinterpret_cast<float*>(unit_ + Geometry::scratch_at);
    search_memory_ = unit_ + Geometry::search_at;
    warp_memory_ = shared + (Geometry::staged ? Geometry::unit_bytes : 0) +
                   threadIdx.x / 32 * Geometry::warp_stage_floats * sizeof(float);
    Declared::bind(arguments);
    visit_arrays([&](auto*& array, auto* global, int offset, int length, bool) {
      const bool in_place = !Geometry::staged && global != nullptr;
      array = in_place ? part(global, length) : reinterpret_cast<decltype(global)>(unit_ + offset);
    });
    only_if(true);
  }

  METHOD void load() {
    load_counters();
    if constexpr (Geometry::staged)
      visit_arrays([&](auto*& array, auto* global, int, int length, bool persists) {
        if (persists) transfer(array, part(global, length), length);
      });
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
      leave();
      store_outcome();
      if (!same_step || !finished_) break;
      restart();
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
        if (persists) transfer(part(global, length), array, length);
      });
    }
    store_counters();
    wait_for_stored_rows();
  }

 private:
  // This copy's part of a device array.
  template <class T>
  METHOD T* part(T* global, int length) const {
    return global + copy_ * length;
  }

  // Calls visit(k) for k = 0, …, count - 1, a constant, spread over the team.
  template <class Visit>
  METHOD void for_team(int count, Visit visit) const {
#pragma unroll 4
    for (int trip = 0; trip < (count + Geometry::lanes - 1) / Geometry::lanes; ++trip) {
      const int k = lane_ + trip * Geometry::lanes;
      if (k < count) visit(k);
    }
  }

  // Copies an array, 16 bytes at a time where that is possible.
  template <class T>
  METHOD void transfer(T* to, const T* from, int length) const {
    constexpr int at_once = 16 / sizeof(T);
    if (length % at_once == 0 && arguments_->aligned)
      for_team(length / at_once,
               [&](int k) { reinterpret_cast<int4*>(to)[k] = reinterpret_cast<const int4*>(from)[k]; });
    else
      for_team(length, [&](int k) { to[k] = from[k]; });
  }

  // Visits the state and the arrays that live for one launch: (pointer, device array, offset in the unit, length,
  // state?).
  template <class Visit>
  METHOD void visit_arrays(Visit visit) {
    visit_state(*arguments_, visit);
    visit(alive, arguments_->alive, Geometry::alive_at, num_agents, true);
    visit(reward, static_cast<float*>(nullptr), Geometry::reward_at, num_agents, false);
    visit(terminated, static_cast<bool*>(nullptr), Geometry::terminated_at, num_agents, false);
  }

  // Has the copy observe; `final` sends its observations to the final observations.
  METHOD void write_observations(bool final) {
#pragma unroll
    for (int g = 0; g < num_groups; ++g) {
      Observation* all = final ? arguments_->final_observation[g] : arguments_->observation[g];
      observation_base_[g] = all + copy_ * group_range(g).size * observation_size(g);
    }
    Rules::observe();
  }

  // Rewards and flags of this step.
  METHOD void store_outcome() const {
#pragma unroll
    for (int g = 0; g < num_groups; ++g) {
      const Range group = group_range(g);
      float* rewards = part(arguments_->reward[g], group.size);
      bool* flags = part(arguments_->terminated[g], group.size);
      for_team(group.size, [&](int k) {
        rewards[k] = reward[group.first + k];
        flags[k] = terminated[group.first + k];
      });
    }
  }

  unsigned char* unit_;  // the copy's memory for state and outcome
};

template <class Run>
METHOD void launch(const Arguments& arguments, bool, Run run) {
  extern __shared__ __align__(128) unsigned char shared[];
  DeviceCopy copy(arguments, shared);
  copy.load();
  run(copy);
  copy.store();
}

#include "entry_points.cuh"
