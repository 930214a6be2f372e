// What all kernels for copies of more than 32 agents have in common: where a copy's arrays are, what it observes, and
// what a step leaves.
#pragma once

#include "episode.cuh"

class TeamCopy : public Episode<Rules> {
 protected:
  // This copy's part of a device array.
  template <class T>
  METHOD T* part(T* global, int length) const {
    return global + copy_ * length;
  }

  // Calls visit(k) for k = 0, …, count - 1, a constant, spread over the team.
  template <class Visit>
  METHOD void for_team(int count, Visit visit) const {
#pragma unroll 4
    for (int first = 0; first < count; first += Geometry::lanes)
      if (first + Geometry::lanes <= count || first + lane_ < count) visit(first + lane_);
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
    constexpr int line = entries_of_line<Observation>;
    auto* stage = reinterpret_cast<Observation*>(stage_);
    Observation* target[num_groups];
#pragma unroll
    for (int g = 0; g < num_groups; ++g) {
      const int entries = group_range(g).size * observation_size(g);
      target[g] = part(final ? arguments_->final_observation[g] : arguments_->observation[g], entries);
      observation_base_[g] = Geometry::rows_collected ? stage + entries_off_line(target[g]) : target[g];
      stage += (entries + 2 * line - 1) / line * line;
    }
    Rules::observe();
    if constexpr (Geometry::rows_collected) {
#pragma unroll
      for (int g = 0; g < num_groups; ++g)
        if (active_ && lane_ / 32 == g % warps_)
          store_rows(target[g], observation_base_[g], group_range(g).size * observation_size(g), lane_ % 32);
    }
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

  unsigned char* unit_;   // the copy's memory for state and outcome
  unsigned char* stage_;  // and for observations
};
