// Agents that cover landmarks. Parameters, groups and state are declared in gpu_marl_envs/envs/simple_spread.py.
#include "shared/particles.cuh"

struct SimpleSpread : Particles {
  static constexpr float radius = 0.15f;
  static constexpr float capture_radius = 0.1f;

  METHOD void reset() { scatter(N); }

  METHOD void step() {
    push_and_move([&](int) { return Body{radius}; }, force_x, force_y);
    const float far = sum(agents, [&](int k) { return distance_to_nearest(k); });
    const bool covered = !any(agents, [&](int k) { return distance_to_nearest(k) >= capture_radius; });
    each(agents, [&](int i) {
      reward[i] = -far * (1.0f - local_ratio) - collisions(i) * local_ratio;
      terminated[i] = terminate_on_success && covered && time < max_cycles;
    });
  }

  // From landmark k to the nearest agent.
  METHOD float distance_to_nearest(int k) const {
    float least = infinity;
    for (int i = 0; i < num_agents; ++i) least = min(least, length(position(i) - landmark(k)));
    return least;
  }

  // Agents that agent i touches, in stages of the curriculum in which that costs.
  METHOD float collisions(int i) const {
    if (curriculum && curriculum_stage[0] <= 0) return 0.0f;
    int touched = 0;
    for (int j = 0; j < num_agents; ++j) touched += j != i && touch(position(i) - position(j), radius + radius);
    return float(touched);
  }

  METHOD void observe() {
    constexpr int landmarks = num_landmark_neighbors > 0 ? num_landmark_neighbors : N;
    constexpr int others = num_agent_neighbors > 0 ? num_agent_neighbors : N - 1;
    each_observation(agents, [&](int i, auto row) {
      write(row, 0, velocity(i));
      write(row, 2, position(i));
      each_seen(
          row, N, num_landmark_neighbors, [&](int k) { return landmark(k) - position(i); },
          [&](int slot, int, Vector offset) { write(row, 4 + 2 * slot, offset); });
      each_seen(
          row, N - 1, num_agent_neighbors, [&](int k) { return position(other(i, k)) - position(i); },
          [&](int slot, int, Vector offset) {
            write(row, 4 + 2 * (landmarks + slot), offset);
            write(row, 4 + 2 * (landmarks + others + slot), {0.0f, 0.0f});  // it says nothing
          });
    });
  }
};
