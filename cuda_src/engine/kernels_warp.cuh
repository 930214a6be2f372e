// The kernels for copies of up to 32 agents: a warp plays as many copies as it has lanes for, a lane each
// (team_sequential.cuh) or a lane for each of their agents (team_packed.cuh), and loads and stores them together. Warps
// have nothing to do with each other: a block is only how they are launched.
#pragma once

#include <cuda_pipeline_primitives.h>

#include <type_traits>

#include "episode.cuh"
#include "overlapping_cuda.cuh"
#include "shared_memory_cuda.cuh"

// The part of one lane. State and observations pass through shared memory, where lanes find any entry at any index and
// from where a warp writes whole lines. A lane that plays a whole copy keeps in registers what it reads and writes
// agent by agent.
class DeviceCopy : public Episode<Rules> {
  static constexpr bool sequential = Geometry::lanes == 1;
  static constexpr int copies = Geometry::copies;
  static constexpr bool collected = Geometry::stage_floats > 0;  // observations, in shared memory until the launch ends

 public:
  // Sizes of what a lane that plays a whole copy keeps in registers.
  static constexpr int own_agents = sequential ? num_agents : 1;
  static constexpr int own_actions = sequential ? action_slab(num_groups) : 1;

  METHOD DeviceCopy(const Arguments& arguments, unsigned char* shared, bool* own_alive, bool* own_terminated,
                    float* own_reward, int* own_action) {
    arguments_ = &arguments;
    const unsigned all_copies = static_cast<unsigned>(arguments.num_envs);
    const unsigned warp = threadIdx.x / 32;
    lane_of_warp_ = threadIdx.x % 32;
    const unsigned block = arguments.backwards ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    first_copy_ = (block * (blockDim.x / 32) + warp) * copies;
    copies_ = first_copy_ < all_copies ? static_cast<int>(Math::min<unsigned>(copies, all_copies - first_copy_)) : 0;
    join(lane_of_warp_, copies_);
    copy_of_warp_ = sequential ? lane_of_warp_ : team_;
    copy_ = present_ ? first_copy_ + copy_of_warp_ : 0;
    whole_lines_ = copies_ == copies && arguments.aligned;
    unit_ = worked_out_once(shared + warp * (Geometry::unit_bytes + sizeof(float) * Geometry::stage_floats));
    stage_ = reinterpret_cast<Observation*>(unit_ + Geometry::unit_bytes);
    Declared::bind(arguments);
    visit_state(arguments, [&](auto*& array, auto* global, int offset, int per_copy, bool) {
      array = reinterpret_cast<decltype(global)>(unit_ + offset) + copy_of_warp_ * padded(per_copy);
    });
    if constexpr (sequential) {
      alive = own_alive;
      terminated = own_terminated;
      reward = own_reward;
      actions_ = action_ = own_action;
    } else {
      alive = reinterpret_cast<bool*>(unit_ + Geometry::alive_at) + team_ * num_agents;
      terminated = reinterpret_cast<bool*>(unit_ + Geometry::terminated_at) + team_ * num_agents;
      reward = reinterpret_cast<float*>(unit_ + Geometry::reward_at) + team_ * num_agents;
      actions_ = action_ = reinterpret_cast<int*>(unit_ + Geometry::actions_at);
    }
    only_if(true);
  }

  // All loads are to be under way before the first is waited for. So actions, whose type is only known here, come where
  // their branches keep the assembler from moving what precedes them behind the wait.
  METHOD void load(bool with_actions) {
    if constexpr (!Geometry::own_arrays) fetch_arrays();
    load_counters();
    using Flags = std::conditional_t<own_agents % 4 == 0, unsigned, unsigned char>;  // bools would be waited for
    constexpr int at_once = sizeof(Flags);
    Flags flags[own_agents / at_once];
    const int first = sequential || !present_ ? 0 : lane_;
    const auto* from = reinterpret_cast<const Flags*>(arguments_->alive + copy_ * num_agents + first);
#pragma unroll
    for (int k = 0; k < own_agents / at_once; ++k) flags[k] = from[k];
    if (with_actions) load_actions();
#pragma unroll
    for (int k = 0; k < own_agents; ++k)
      if (sequential || present_) alive[first + k] = flags[k / at_once] >> (8 * (k % at_once)) & 1;
    if constexpr (Geometry::own_arrays) {
      load_own_arrays();  // last, since shared memory takes them after a wait
    } else {
      __pipeline_commit();
      __pipeline_wait_prior(0);
      __syncwarp();
    }
  }

  METHOD void step() {
    constexpr bool same_step = Geometry::autoreset == Autoreset::same_step;
    advance();
    only_if(true);
    const bool restarts = same_step && finished_;
    if (!Geometry::loads_record && restarts) load_record();  // while the outcome is being observed
#pragma unroll 1                                             // so that there is one copy of the code that observes
    for (bool again = false;; again = true) {
      write_observations(restarts && !again);
      if (again) break;
      only_if(!restarts);  // who leaves a copy that restarts at once is back before anybody sees it
      leave();
      only_if(true);
      store_outcome();
      if (!same_step || !__any_sync(~0u, restarts)) break;
      only_if(restarts);
      record_loaded_ = true;  // by those who are active
      if (collected) store_rows_of_active(arguments_->final_observation);
      if (any_active()) restart();
    }
    record_loaded_ = Geometry::loads_record || restarts;
    only_if(true);
    if (collected) store_observations();
    write_masks();
  }

  METHOD void reset() {
    restart_if(arguments_->mask == nullptr || arguments_->mask[copy_]);
    write_observations(false);
    if (collected) store_rows_of_active(arguments_->observation);
    write_masks();
  }

  METHOD void observe() {
    write_observations(false);
    if (collected) store_observations();
    write_masks();
  }

  METHOD void store() {
    only_if(true);
    if constexpr (!Geometry::own_arrays) {
      __syncwarp();
      put_arrays();
    }
    if (!active_) return;
    if constexpr (Geometry::own_arrays) store_own_arrays();
    if (alive_changed_) {
      if constexpr (sequential)
        store_own(arguments_->alive, alive, num_agents);
      else
        arguments_->alive[copy_ * num_agents + lane_] = alive[lane_];
    }
    store_counters();
  }

 private:
  // Entries from one copy's array to the next one's in shared memory. Lanes that each play a copy access the same entry
  // of all copies at once: they meet in no bank, or two by two, if the distance is no multiple of four words.
  template <class T = float>
  METHOD static constexpr int padded(int per_copy) {
    return sequential && per_copy * sizeof(T) % 16 == 0 ? per_copy + 4 / sizeof(T) : per_copy;
  }

  // The same for the observations of group g. Compilers write long ones in pieces of 16 bytes where copies start at
  // multiples of them; eight lanes then meet in no bank if the distance is an odd multiple.
  METHOD static constexpr int padded_rows(int g) {
    const int bytes = row_size(g) * sizeof(Observation);
    if (!sequential || bytes % 16 != 0 || bytes < Geometry::shortest_in_pieces) return padded<Observation>(row_size(g));
    return row_size(g) + (bytes % 32 == 0 ? 16 / sizeof(Observation) : 0);
  }

  // Entries that a copy's agents of group g observe.
  METHOD static constexpr int row_size(int g) { return group_range(g).size * observation_size(g); }

  // Where group g's observations of the warp's copies are collected.
  METHOD Observation* stage_slab(int g) const {
    constexpr int line = 16 / sizeof(Observation);
    int offset = 0;
#pragma unroll
    for (int before = 0; before < g; ++before) offset += (copies * padded_rows(before) + line - 1) / line * line;
    return stage_ + offset;
  }

  // The part of a device array that belongs to the warp's copies.
  template <class T>
  METHOD T* of_warp(T* array, int per_copy) const {
    return array + static_cast<std::size_t>(first_copy_) * per_copy;
  }

  // Calls visit(k) for k = 0, …, count - 1, a constant, spread over the warp.
  template <class Visit>
  METHOD void for_warp(int count, Visit visit) const {
    const int rest = count % 32;
#pragma unroll
    for (int first = 0; first < count - rest; first += 32) visit(first + lane_of_warp_);
    if (rest > 0 && lane_of_warp_ < rest) visit(count - rest + lane_of_warp_);
  }

  // Calls visit(k) for the entries of the warp's copies that exist, `per_copy` of each.
  template <class Visit>
  METHOD void for_some(int per_copy, Visit visit) const {
#pragma unroll 1
    for (int k = lane_of_warp_; k < copies_ * per_copy; k += 32) visit(k);
  }

  // The state of the warp's copies comes and goes line by line, if they all exist.
  METHOD void fetch_arrays() {
    visit_state(*arguments_, [&](auto*&, auto* global, int offset, int per_copy, bool persists) {
      if (persists) fetch(reinterpret_cast<decltype(global)>(unit_ + offset), of_warp(global, per_copy), per_copy);
    });
  }

  METHOD void put_arrays() {
    visit_state(*arguments_, [&](auto*&, auto* global, int offset, int per_copy, bool persists) {
      const auto* staged = reinterpret_cast<decltype(global)>(unit_ + offset);
      if (persists) put(of_warp(global, per_copy), staged, per_copy, padded(per_copy));
    });
  }

  // Each lane loads and stores the state of its copy, where that makes whole lines as well.
  METHOD void load_own_arrays() {
    visit_state(*arguments_, [&](auto*& array, auto* global, int, int per_copy, bool persists) {
      if (persists) load_own(array, global, per_copy);
    });
  }

  METHOD void store_own_arrays() {
    visit_state(*arguments_, [&](auto*& array, auto* global, int, int per_copy, bool persists) {
      if (persists) store_own(global, array, per_copy);
    });
  }

  // Starts copying an array of the warp's copies to shared memory.
  template <class T>
  METHOD void fetch(T* to, const T* from, int per_copy) const {
    static_assert(sizeof(T) == 4, "state fields have entries of four bytes");
    const int count = copies * per_copy;
    if (per_copy == Geometry::lanes) {  // an entry for each lane
      if (present_) __pipeline_memcpy_async(to + lane_of_warp_, from + lane_of_warp_, sizeof(T));
    } else if (!whole_lines_)
      for_some(per_copy, [&](int k) { to[padded_index(k, per_copy, padded(per_copy))] = from[k]; });
    else if (padded(per_copy) == per_copy && count % 4 == 0)
      for_warp(count / 4, [&](int k) { __pipeline_memcpy_async(to + 4 * k, from + 4 * k, 16); });
    else
      for_warp(count, [&](int k) {
        __pipeline_memcpy_async(to + padded_index(k, per_copy, padded(per_copy)), from + k, sizeof(T));
      });
  }

  // Copies an array of the warp's copies from shared memory, where they lie `distance` entries apart.
  template <class T>
  METHOD void put(T* to, const T* from, int per_copy, int distance) const {
    constexpr int at_once = 16 / sizeof(T);
    const int count = copies * per_copy;
    if (per_copy == Geometry::lanes) {
      if (present_) to[lane_of_warp_] = from[lane_of_warp_];
    } else if (!whole_lines_)
      for_some(per_copy, [&](int k) { to[k] = from[padded_index(k, per_copy, distance)]; });
    else if (count % at_once == 0)
      for_warp(count / at_once, [&](int k) {
        const auto* line = reinterpret_cast<const int*>(from + padded_index(at_once * k, per_copy, distance));
        if (distance == per_copy || distance % at_once == 0)
          reinterpret_cast<int4*>(to)[k] = *reinterpret_cast<const int4*>(line);
        else  // a copy's array is a number of lines, but starts at any word
          reinterpret_cast<int4*>(to)[k] = {line[0], line[1], line[2], line[3]};
      });
    else
      for_warp(count, [&](int k) { to[k] = from[k]; });
  }

  // Where entry k of the warp's copies, laid end to end, is in shared memory.
  METHOD static int padded_index(int k, int per_copy, int distance) {
    const int padding = distance - per_copy;
    return padding == 0 ? k : k + padding * static_cast<int>(static_cast<unsigned>(k) / per_copy);
  }

  template <class T, int number>
  struct alignas(number * sizeof(T)) Piece {
    T entry[number];
  };

  // A lane loads or stores `count` entries of its own copy, in the largest pieces that they are made of if the array of
  // all copies starts at a multiple of 16 bytes.
  template <class T>
  METHOD void load_own(T* to, const T* all, int count, bool aligned = true) const {
    in_pieces<T>(count, aligned, [&](int k, auto piece) {
      piece = *reinterpret_cast<const decltype(piece)*>(all + copy_ * count + k);
      for (const T& entry : piece.entry) to[k++] = entry;
    });
  }

  template <class T>
  METHOD void store_own(T* all, const T* from, int count, bool aligned = true) const {
    in_pieces<T>(count, aligned, [&](int k, auto piece) {
      auto* to = reinterpret_cast<decltype(piece)*>(all + copy_ * count + k);
      for (T& entry : piece.entry) entry = from[k++];
      *to = piece;
    });
  }

  METHOD static bool is_aligned(const void* all) { return reinterpret_cast<std::uintptr_t>(all) % 16 == 0; }

  // Calls visit(k, piece) for pieces of `count` entries that start at the k-th each; `piece` only tells their type.
  template <class T, class Visit>
  METHOD static void in_pieces(int count, bool aligned, Visit visit) {
    const std::size_t bytes = count * sizeof(T);
    if (aligned && bytes % 16 == 0)
      for_pieces<T, 16 / sizeof(T)>(count, visit);
    else if (aligned && bytes % 8 == 0)
      for_pieces<T, 8 / sizeof(T)>(count, visit);
    else if (aligned && bytes % 4 == 0)
      for_pieces<T, 4 / sizeof(T)>(count, visit);
    else
      for_pieces<T, 1>(count, visit);
  }

  template <class T, int number, class Visit>
  METHOD static void for_pieces(int count, Visit& visit) {
#pragma unroll
    for (int k = 0; k < count; k += number) visit(k, Piece<T, number>{});
  }

  // A lane loads what its agents do.
  METHOD void load_actions() {
    if constexpr (sequential) {
#pragma unroll
      for (int g = 0; g < num_groups; ++g) load_actions(g, 0, action_size(g));
    } else if (present_) {
      const int g = group_of(lane_), width = action_width(g);
      load_actions(g, (lane_ - group_range(g).first) * width, width);
    }
  }

  // Loads `count` entries of group g's actions in this lane's copy, from number `first` on. They become four bytes
  // each.
  METHOD void load_actions(int g, int first, int count) {
    const bool as_they_are = action_count(g, 0) == 0 || arguments_->action_bytes[g] == 4;
    const void* all = arguments_->action[g];
    const std::size_t at = copy_ * action_size(g) + first;
    int* to = action_ + action_slab(g) + team_ * action_size(g) + first;
    if (as_they_are && sequential)
      load_own(to, static_cast<const std::int32_t*>(all), count, is_aligned(all));
    else if (as_they_are)
      for (int k = 0; k < count; ++k)
        __pipeline_memcpy_async(to + k, static_cast<const std::int32_t*>(all) + at + k, sizeof(*to));
    else if (arguments_->action_bytes[g] == 1)
      convert_actions(g, first, count, static_cast<const std::uint8_t*>(all) + at, to);
    else
      convert_actions(g, first, count, static_cast<const std::int64_t*>(all) + at, to);
  }

  template <class T>
  METHOD static void convert_actions(int g, int first, int count, const T* from, int* to) {
#pragma unroll
    for (int k = 0; k < count; ++k) to[k] = within_space(g, (first + k) % action_width(g), from[k]);
  }

  // Has the active copies observe; `final` sends a copy's observations to the final observations, unless they are
  // collected first.
  METHOD void write_observations(bool final) {
#pragma unroll
    for (int g = 0; g < num_groups; ++g) {
      Observation* all = final ? arguments_->final_observation[g] : arguments_->observation[g];
      observation_base_[g] = collected ? stage_slab(g) + copy_of_warp_ * padded_rows(g) : all + copy_ * row_size(g);
    }
    __syncwarp();  // the rows that were collected have been stored
    if (any_active()) Rules::observe();
    __syncwarp();
  }

  METHOD void store_observations() const {
#pragma unroll
    for (int g = 0; g < num_groups; ++g)
      put(of_warp(arguments_->observation[g], row_size(g)), stage_slab(g), row_size(g), padded_rows(g));
  }

  // The warp writes the collected rows of its active copies, one copy after another.
  METHOD void store_rows_of_active(Observation* const* targets) const {
#pragma unroll 1
    for (unsigned left = __ballot_sync(~0u, is_leader()); left != 0; left &= left - 1) {
      const int copy = (__ffs(left) - 1) / Geometry::lanes;
#pragma unroll
      for (int g = 0; g < num_groups; ++g) {
        const Observation* rows = stage_slab(g) + copy * padded_rows(g);
        Observation* target = of_warp(targets[g], row_size(g)) + copy * row_size(g);
#pragma unroll 1
        for (int k = lane_of_warp_; k < row_size(g); k += 32) target[k] = rows[k];
      }
    }
  }

  // Rewards and flags of this step.
  METHOD void store_outcome() const {
    if (!active_) return;
    if constexpr (sequential) {
#pragma unroll
      for (int g = 0; g < num_groups; ++g) {
        const Range group = group_range(g);
        float* rewards = arguments_->reward[g];
        bool* flags = arguments_->terminated[g];
        store_own(rewards, reward + group.first, group.size, is_aligned(rewards));
        store_own(flags, terminated + group.first, group.size, is_aligned(flags));
      }
    } else {
      const int g = group_of(lane_);
      const std::size_t at = copy_ * group_range(g).size + (lane_ - group_range(g).first);
      arguments_->reward[g][at] = reward[lane_];
      arguments_->terminated[g][at] = terminated[lane_];
    }
    if (!is_leader()) return;
    arguments_->truncated[copy_] = truncated_;
    arguments_->done[copy_] = done_;
  }

  int lane_of_warp_;
  int copy_of_warp_;     // that this lane plays or helps to play
  int copies_;           // of this warp that exist
  unsigned first_copy_;  // of the warp
  bool whole_lines_;     // whether they all exist and all tensors start at a multiple of 16 bytes
  unsigned char* unit_;  // the warp's shared memory for state
  Observation* stage_;   // and for observations
  int* action_;
};

template <class Run>
METHOD void launch(const Arguments& arguments, bool with_actions, Run run) {
  extern __shared__ __align__(16) unsigned char shared[];
  bool alive[DeviceCopy::own_agents], terminated[DeviceCopy::own_agents];  // as members, they would not be registers
  float reward[DeviceCopy::own_agents];
  int action[DeviceCopy::own_actions];
  DeviceCopy copy(arguments, shared, alive, terminated, reward, action);
  if constexpr (Geometry::overlaps) overlap_launches();
  copy.load(with_actions);
  run(copy);
  copy.store();
}

#include "entry_points.cuh"
