// Agents that hide their goal from an adversary. Parameters, groups and state are declared in
// gpu_marl_envs/envs/simple_adversary.py.
#include "shared/particles.cuh"

struct SimpleAdversary : Particles {
  METHOD void reset() {
    scatter(N);
    each(adversary, [&](int) { goal[0] = choose(N, N); });
  }

  METHOD float distance_to_goal(int i) const { return length(position(i) - landmark(goal[0])); }

  METHOD void step() {
    each(agents, [&](int i) { move(i, 5.0f * drive(i)); });
    const int closest = argmin(agent, [&](int i) { return distance_to_goal(i); });
    each(agents, [&](int i) {
      const float threat = distance_to_goal(adversary.first);
      reward[i] = adversary.has(i) ? -threat : threat - distance_to_goal(closest);
    });
  }

  METHOD void observe() {
    constexpr int landmarks = num_landmark_neighbors > 0 ? num_landmark_neighbors : N;
    each_observation(agents, [&](int i, auto row) {
      const int first = agent.has(i) ? 2 : 0;
      if (agent.has(i)) write(row, 0, landmark(goal[0]) - position(i));
      each_seen(
          row, N, num_landmark_neighbors, [&](int k) { return landmark(k) - position(i); },
          [&](int slot, int, Vector offset) { write(row, first + 2 * slot, offset); });
      each_seen(
          row, N, num_agent_neighbors, [&](int k) { return position(other(i, k)) - position(i); },
          [&](int slot, int, Vector offset) { write(row, first + 2 * (landmarks + slot), offset); });
    });
  }
};
