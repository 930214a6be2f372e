// The kernels: what a launch loads, runs and stores. One launch does a whole step.
#pragma once

#include "episode.cuh"

// The part of one lane in a block. The block's lanes load and store the arrays of all its copies together, as whole
// lines; in between each lane plays its agents (team_cuda.cuh).
class DeviceCopy : public Episode<Rules> {
 public:
  METHOD DeviceCopy(const Arguments& arguments, unsigned char* shared) {
    arguments_ = &arguments;
    const unsigned all_copies = static_cast<unsigned>(arguments.num_envs);
    thread_ = threadIdx.x;
    first_copy_ = blockIdx.x * Geometry::copies;
    copies_ = static_cast<int>(Math::min<unsigned>(Geometry::copies, all_copies - first_copy_));
    if constexpr (Geometry::packed) {
      const int team_of_warp = Math::min(thread_ % 32 / Geometry::lanes, Geometry::copies_per_warp - 1);
      first_lane_ = team_of_warp * Geometry::lanes;
      lane_ = thread_ % 32 - first_lane_;
      team_lanes_ = ((2u << ((Geometry::lanes - 1) % 32)) - 1) << first_lane_;
      team_ = thread_ / 32 * Geometry::copies_per_warp + team_of_warp;
      present_ = lane_ < Geometry::lanes && team_ < copies_;
    } else {
      first_lane_ = 0;
      lane_ = thread_;
      team_lanes_ = ~0u;
      team_ = 0;
      present_ = true;
    }
    copy_ = first_copy_ + (present_ ? team_ : 0);
    whole_lines_ = copies_ == Geometry::copies && arguments.aligned;
    scratch_ = reinterpret_cast<float*>(shared);
    unit_ = Geometry::staged ? shared + Geometry::scratch_bytes : arguments.workspace + copy_ * Geometry::unit_bytes;
    unsigned char* stage = shared + Geometry::scratch_bytes + (Geometry::staged ? Geometry::unit_bytes : 0);
    stage_ = reinterpret_cast<float*>(stage);
    search_memory_ = unit_ + Geometry::search_at;
    warp_memory_ = stage + thread_ / 32 * Geometry::stage_floats * sizeof(float);
    Declared::bind(arguments);
    visit_arrays(
        [&](auto*& array, auto* global, int offset, int per_copy, bool) { array = at(global, offset, per_copy); });
    only_if(true);
  }

  METHOD void load(bool with_actions) {
    load_counters();
    if constexpr (Geometry::staged) {
      if (Geometry::packed && with_actions) load_actions();
      visit_arrays([&](auto*& array, auto* global, int offset, int per_copy, bool persists) {
        auto* in_unit = reinterpret_cast<decltype(global)>(unit_ + offset);
        if (persists) transfer(in_unit, global + static_cast<std::size_t>(first_copy_) * per_copy, per_copy);
      });
    }
    __syncthreads();
  }

  METHOD void step() {
    constexpr bool same_step = Geometry::autoreset == Autoreset::same_step;
    advance();
    only_if(true);
    write_observations(same_step && finished_);
    leave();
    if (same_step) restart_finished();
    __syncthreads();
    if constexpr (collected) store_observations();
    store_outcome();
    if (!is_leader()) return;
    arguments_->truncated[copy_] = truncated_;
    arguments_->done[copy_] = done_;
  }

  METHOD void reset() {
    restart_if(arguments_->mask == nullptr || arguments_->mask[copy_]);
    write_observations(false);
    if constexpr (collected) store_observations_of_active(arguments_->observation);
  }

  METHOD void observe() {
    only_if(true);
    write_observations(false);
    __syncthreads();
    if constexpr (collected) store_observations();
  }

  METHOD void store() {
    only_if(true);
    const bool who_is_alive_changed = __syncthreads_or(alive_changed_);
    if constexpr (Geometry::staged) {
      visit_arrays([&](auto*& array, auto* global, int offset, int per_copy, bool persists) {
        const auto* in_unit = reinterpret_cast<decltype(global)>(unit_ + offset);
        if (offset == Geometry::alive_at && !who_is_alive_changed) return;
        if (persists) transfer(global + static_cast<std::size_t>(first_copy_) * per_copy, in_unit, per_copy);
      });
    }
    store_counters();
  }

 private:
  // Whether observations are collected in shared memory until the launch ends.
  static constexpr bool collected = Geometry::packed && Geometry::row_lanes == 1;

  // Calls visit(k) for k = 0, …, count - 1, spread over the block; `most` is a constant bound of count.
  template <class Visit>
  METHOD void for_block(int most, int count, Visit visit) const {
#pragma unroll 4
    for (int trip = 0; trip < (most + Geometry::threads - 1) / Geometry::threads; ++trip) {
      const unsigned k = thread_ + trip * Geometry::threads;
      if (k < static_cast<unsigned>(count)) visit(k);
    }
  }

  // Copies an array over the block's copies, 16 bytes at a time where that is possible.
  template <class T>
  METHOD void transfer(T* to, const T* from, int per_copy) const {
    constexpr int at_once = 16 / sizeof(T);
    const int most = Geometry::copies * per_copy;
    if (whole_lines_ && most % at_once == 0) {
      const int count = most / at_once;
      for_block(count, count,
                [&](unsigned k) { reinterpret_cast<int4*>(to)[k] = reinterpret_cast<const int4*>(from)[k]; });
    } else {
      for_block(most, copies_ * per_copy, [&](unsigned k) { to[k] = from[k]; });
    }
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

  // This copy's part of an array: in the unit's memory, or in place where a copy is too large for it.
  template <class T>
  METHOD T* at(T* global, int offset, int per_copy) const {
    if (!Geometry::staged && global != nullptr) return global + copy_ * per_copy;
    return reinterpret_cast<T*>(unit_ + offset) + team_ * per_copy;
  }

  // Actions go to the unit's memory as four bytes each, discrete ones clipped into their space.
  METHOD void load_actions() {
#pragma unroll
    for (int g = 0; g < num_groups; ++g) {
      const int width = action_width(g), per_copy = group_range(g).size * width;
      const std::size_t first = static_cast<std::size_t>(first_copy_) * per_copy;
      int* slab = reinterpret_cast<int*>(unit_ + Geometry::actions_at) + action_slab(g);
      const auto take = [&](const auto* from) {
        for_block(Geometry::copies * per_copy, copies_ * per_copy,
                  [&](unsigned k) { slab[k] = within_space(g, k % width, from[first + k]); });
      };
      const void* from = arguments_->action[g];
      if (action_count(g, 0) == 0 || arguments_->action_bytes[g] == 4)
        take(static_cast<const std::int32_t*>(from));
      else if (arguments_->action_bytes[g] == 1)
        take(static_cast<const std::uint8_t*>(from));
      else
        take(static_cast<const std::int64_t*>(from));
    }
    actions_ = reinterpret_cast<const int*>(unit_ + Geometry::actions_at);
  }

  METHOD void restart_finished() {
    only_if(finished_);
    if (any_active()) {
      if constexpr (collected) store_observations_of_active(arguments_->final_observation);
      restart();
      write_observations(false);
    }
    only_if(true);
  }

  // Has the active copies observe; `final` sends a copy's observations to the final observations.
  METHOD void write_observations(bool final) {
    float* const* target = final ? arguments_->final_observation : arguments_->observation;
#pragma unroll
    for (int g = 0; g < num_groups; ++g) {
      const std::size_t size = static_cast<std::size_t>(group_range(g).size) * observation_size(g);
      observation_base_[g] = collected ? stage_ + slab_offset(g) + team_ * size : target[g] + copy_ * size;
    }
    Rules::observe();
  }

  METHOD void store_observations() const {
#pragma unroll
    for (int g = 0; g < num_groups; ++g) {
      const int size = group_range(g).size * observation_size(g);
      transfer(arguments_->observation[g] + static_cast<std::size_t>(first_copy_) * size, stage_ + slab_offset(g),
               size);
    }
  }

  // Each warp writes the collected rows of its active copies, one copy after another.
  METHOD void store_observations_of_active(float* const* targets) const {
    __syncwarp();
    const int lane = thread_ % 32, first_team = thread_ / 32 * Geometry::copies_per_warp;
#pragma unroll 1
    for (int team = 0; team < Geometry::copies_per_warp; ++team) {
      if (!__shfl_sync(~0u, active_, team * Geometry::lanes)) continue;
#pragma unroll
      for (int g = 0; g < num_groups; ++g) {
        const int size = group_range(g).size * observation_size(g);
        const float* rows = stage_ + slab_offset(g) + (first_team + team) * size;
        float* target = targets[g] + static_cast<std::size_t>(first_copy_ + first_team + team) * size;
#pragma unroll 1
        for (int k = lane; k < size; k += 32) target[k] = rows[k];
      }
    }
    __syncwarp();
  }

  METHOD static int slab_offset(int g) {
    int offset = 0;
    for (int before = 0; before < g; ++before)
      offset += (Geometry::copies * group_range(before).size * observation_size(before) + 3) & ~3;
    return offset;
  }

  // Rewards and flags of this step.
  METHOD void store_outcome() const {
    const float* all_rewards = reward - team_ * num_agents;
    const bool* all_terminated = terminated - team_ * num_agents;
#pragma unroll
    for (int g = 0; g < num_groups; ++g) {
      const Range group = group_range(g);
      float* rewards = arguments_->reward[g] + static_cast<std::size_t>(first_copy_) * group.size;
      bool* flags = arguments_->terminated[g] + static_cast<std::size_t>(first_copy_) * group.size;
      for_block(Geometry::copies * group.size, copies_ * group.size, [&](unsigned k) {
        const int from = k / group.size * num_agents + group.first + k % group.size;
        rewards[k] = all_rewards[from];
        flags[k] = all_terminated[from];
      });
    }
  }

  int thread_;           // in the block
  int copies_;           // copies of this block that exist
  bool whole_lines_;     // whether arrays over the block's copies are aligned to 16 bytes
  unsigned first_copy_;  // of the block
  unsigned char* unit_;  // the block's memory for state and outcome
};

template <class Run>
METHOD void launch(const Arguments& arguments, bool with_actions, Run run) {
  extern __shared__ __align__(16) unsigned char shared[];
  DeviceCopy copy(arguments, shared);
  copy.load(with_actions);
  run(copy);
  copy.store();
  if (!Geometry::packed) wait_for_stored_rows();
}

extern "C" __global__ void __launch_bounds__(Geometry::threads, Geometry::resident_blocks)
    gpu_marl_step(const __grid_constant__ Arguments arguments) {
  launch(arguments, true, [](DeviceCopy& copy) { copy.step(); });
}

extern "C" __global__ void __launch_bounds__(Geometry::threads, Geometry::resident_blocks)
    gpu_marl_reset(const __grid_constant__ Arguments arguments) {
  launch(arguments, false, [](DeviceCopy& copy) { copy.reset(); });
}

extern "C" __global__ void __launch_bounds__(Geometry::threads, Geometry::resident_blocks)
    gpu_marl_observe(const __grid_constant__ Arguments arguments) {
  launch(arguments, false, [](DeviceCopy& copy) { copy.observe(); });
}
