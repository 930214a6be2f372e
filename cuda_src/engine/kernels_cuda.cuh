// The kernels: what a launch loads, runs and stores. One launch does a whole step.
#pragma once

#include "episode.cuh"

// The part of one lane in the block that plays a copy. The block's lanes load and store the copy's arrays together, as
// whole lines; in between each lane plays its agents (team_cuda.cuh).
class DeviceCopy : public Episode<Rules> {
 public:
  METHOD DeviceCopy(const Arguments& arguments, unsigned char* shared) {
    arguments_ = &arguments;
    thread_ = lane_ = threadIdx.x;
    copy_ = first_copy_ = blockIdx.x;
    whole_lines_ = arguments.aligned;
    scratch_ = reinterpret_cast<float*>(shared);
    unit_ = Geometry::staged ? shared + Geometry::scratch_bytes : arguments.workspace + copy_ * Geometry::unit_bytes;
    stage_ = reinterpret_cast<Observation*>(shared + Geometry::scratch_bytes +
                                            (Geometry::staged ? Geometry::unit_bytes : 0));
    Declared::bind(arguments);
    visit_arrays(
        [&](auto*& array, auto* global, int offset, int per_copy, bool) { array = at(global, offset, per_copy); });
    only_if(true);
  }

  METHOD void load(bool with_actions) {
    load_counters();
    if constexpr (Geometry::staged) {
      if (with_actions) load_actions();
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
    store_outcome();
    if (!is_leader()) return;
    arguments_->truncated[copy_] = truncated_;
    arguments_->done[copy_] = done_;
  }

  METHOD void reset() {
    restart_if(arguments_->mask == nullptr || arguments_->mask[copy_]);
    write_observations(false);
  }

  METHOD void observe() {
    only_if(true);
    write_observations(false);
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
      restart();
      write_observations(false);
    }
    only_if(true);
  }

  // Has the active copies observe; `final` sends a copy's observations to the final observations.
  METHOD void write_observations(bool final) {
    Observation* const* target = final ? arguments_->final_observation : arguments_->observation;
#pragma unroll
    for (int g = 0; g < num_groups; ++g) {
      const std::size_t size = static_cast<std::size_t>(group_range(g).size) * observation_size(g);
      observation_base_[g] = target[g] + copy_ * size;
    }
    Rules::observe();
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

  static constexpr int copies_ = 1;  // of a block
  int thread_;                       // in the block
  bool whole_lines_;                 // whether the copy's arrays are aligned to 16 bytes
  unsigned first_copy_;              // of the block
  unsigned char* unit_;              // the block's memory for state and outcome
};

template <class Run>
METHOD void launch(const Arguments& arguments, bool with_actions, Run run) {
  extern __shared__ __align__(16) unsigned char shared[];
  DeviceCopy copy(arguments, shared);
  copy.load(with_actions);
  run(copy);
  copy.store();
}

#include "entry_points.cuh"
