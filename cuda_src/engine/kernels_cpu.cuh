// The functions that a CPU build exports: the same copies, one after another, over a pool of threads.
#pragma once

#include <stdlib.h>

#include "episode.cuh"
#include "parallel.hpp"

class HostCopy : public Episode<Rules> {
 public:
  HostCopy(const Arguments& arguments, std::size_t copy, unsigned char* unit) {
    arguments_ = &arguments;
    copy_ = copy;
    Declared::bind(arguments);
    visit_state(arguments, [&](auto*& array, auto* global, int offset, int per_copy, bool persists) {
      using Pointer = decltype(global);
      array = persists ? global + copy * per_copy : reinterpret_cast<Pointer>(unit + offset);
    });
    alive = arguments.alive + copy * num_agents;
    reward = reinterpret_cast<float*>(unit + Geometry::reward_at);
    terminated = reinterpret_cast<bool*>(unit + Geometry::terminated_at);
    use_memory(unit + Geometry::search_at);
    load_counters();
  }

  void step() {
    advance();
    only_if(true);
    write_observations(finished_ && Geometry::autoreset == Autoreset::same_step);
    leave();
    store_outcome();
    if (Geometry::autoreset == Autoreset::same_step && finished_) {
      restart();
      write_observations(false);
    }
    write_masks();
    store_counters();
  }

  void reset() {
    restart_if(arguments_->mask == nullptr || arguments_->mask[copy_]);
    if (!any_active()) return;
    write_observations(false);
    write_masks();
    store_counters();
  }

  void observe() {
    write_observations(false);
    write_masks();
  }

 private:
  void write_observations(bool final) {
    Observation* const* target = final ? arguments_->final_observation : arguments_->observation;
    for (int g = 0; g < num_groups; ++g)
      observation_base_[g] = target[g] + copy_ * group_range(g).size * observation_size(g);
    Rules::observe();
  }

  void store_outcome() {
    for (int g = 0; g < num_groups; ++g) {
      const Range group = group_range(g);
      memcpy(arguments_->reward[g] + copy_ * group.size, reward + group.first, group.size * sizeof(float));
      memcpy(arguments_->terminated[g] + copy_ * group.size, terminated + group.first, group.size * sizeof(bool));
    }
    arguments_->truncated[copy_] = truncated_;
    arguments_->done[copy_] = done_;
  }
};

template <class Run>
static void for_all_copies(const Arguments& arguments, int threads, Run run) {
  const std::size_t copies = static_cast<std::size_t>(arguments.num_envs);
  parallel_for(copies, Geometry::num_agents, threads, [&](std::size_t first, std::size_t last) {
    auto* unit = static_cast<unsigned char*>(aligned_alloc(64, Geometry::unit_bytes));
    if (unit == nullptr) abort();
    for (std::size_t copy = first; copy < last; ++copy) {
      HostCopy host_copy(arguments, copy, unit);
      run(host_copy);
    }
    free(unit);
  });
}

// Element `at` of group g's actions is outside the action space.
static bool is_invalid(const Arguments& arguments, int g, std::size_t at) {
  if (Declared::action_count(g, 0) == 0) {
    const float value = static_cast<const float*>(arguments.action[g])[at];
    return !(value - value == 0.0f);  // not finite
  }
  const int count = Declared::action_count(g, static_cast<int>(at % Declared::action_width(g)));
  switch (arguments.action_bytes[g]) {
    case 1:
      return static_cast<const std::uint8_t*>(arguments.action[g])[at] >= count;
    case 4:
      return static_cast<std::uint32_t>(static_cast<const std::int32_t*>(arguments.action[g])[at]) >=
             static_cast<std::uint32_t>(count);
    default:
      return static_cast<std::uint64_t>(static_cast<const std::int64_t*>(arguments.action[g])[at]) >=
             static_cast<std::uint64_t>(count);
  }
}

extern "C" {

__attribute__((visibility("default"))) void gpu_marl_step(const Arguments* arguments, int threads) {
  for_all_copies(*arguments, threads, [](HostCopy& copy) { copy.step(); });
}

__attribute__((visibility("default"))) void gpu_marl_reset(const Arguments* arguments, int threads) {
  for_all_copies(*arguments, threads, [](HostCopy& copy) { copy.reset(); });
}

__attribute__((visibility("default"))) void gpu_marl_observe(const Arguments* arguments, int threads) {
  for_all_copies(*arguments, threads, [](HostCopy& copy) { copy.observe(); });
}

// Index of the first element of a group's actions outside the action space, or -1.
__attribute__((visibility("default"))) long long gpu_marl_find_invalid_action(const Arguments* arguments, int g) {
  const std::size_t size =
      static_cast<std::size_t>(arguments->num_envs) * Declared::group_range(g).size * Declared::action_width(g);
  for (std::size_t at = 0; at < size; ++at)
    if (is_invalid(*arguments, g, at)) return static_cast<long long>(at);
  return -1;
}

__attribute__((visibility("default"))) int gpu_marl_arguments_bytes() { return sizeof(Arguments); }
}
