// Agents that are to stand at as many targets, no matter who stands where: each is assigned to one so that the sum of
// the distances is least.
#pragma once

#include "particles.cuh"

struct AssignedParticles : Particles {
  static constexpr float farthest = 2.0f;  // distances count up to here
  static constexpr float reached = 0.05f;  // nearer to its target an agent has arrived

  METHOD float distance_to_target(int i, int k) const { return length(position(i) - Vector{target_x[k], target_y[k]}); }

  // Rewards the agents for being near the targets, which must be set.
  METHOD void reward_for_targets() {
    each(agents, [&](int i) {
      if (i == 0) assign();  // one after another; the rest of the step is shared out
    });
    const float total = sum(agents, [&](int k) { return min(distance_to_target(assigned[k], k), farthest); });
    const bool arrived = !any(agents, [&](int k) { return distance_to_target(assigned[k], k) >= reached; });
    each(agents, [&](int i) {
      reward[i] = -total / float(num_agents);
      terminated[i] = terminate_on_success && arrived && time < max_cycles;
    });
  }

  // Agents one by one get a target, along the cheapest path of reassignments ("Hungarian method" with potentials, after
  // Jonker and Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment problems",
  // 1987).
  METHOD void assign() {
    for (int k = 0; k < num_agents; ++k) {
      agent_price[k] = target_price[k] = 0.0f;
      assigned[k] = -1;
    }
    for (int newcomer = 0; newcomer < num_agents; ++newcomer) {
      for (int k = 0; k < num_agents; ++k) {
        slack[k] = infinity;
        before[k] = -1;
        visited[k] = 0;
      }
      int i = newcomer, last = -1;
      do {
        int next = -1;
        for (int k = 0; k < num_agents; ++k) {
          if (visited[k]) continue;
          const float cost = distance_to_target(i, k) - agent_price[i] - target_price[k];
          if (cost < slack[k]) {
            slack[k] = cost;
            before[k] = last;
          }
          if (next < 0 || slack[k] < slack[next]) next = k;
        }
        const float rise = slack[next];
        agent_price[newcomer] += rise;
        for (int k = 0; k < num_agents; ++k) {
          if (visited[k]) {
            agent_price[assigned[k]] += rise;
            target_price[k] -= rise;
          } else {
            slack[k] -= rise;
          }
        }
        visited[next] = 1;
        last = next;
        i = assigned[next];
      } while (i >= 0);
      while (last >= 0) {
        const int previous = before[last];
        assigned[last] = previous >= 0 ? assigned[previous] : newcomer;
        last = previous;
      }
    }
  }
};
