// Predators and prey among obstacles. Parameters, groups and state are declared in gpu_marl_envs/envs/simple_tag.py.
#include "shared/particles.cuh"

struct SimpleTag : Particles {
  static constexpr float obstacle_radius = 0.2f;

  METHOD Body body(int i) const {
    if (adversary.has(i)) return {0.075f, 3.0f, 1.0f};
    const float pace = curriculum ? 0.5f + 0.25f * float(present_stage[0]) : 1.0f;
    return {0.05f, 4.0f * pace, 1.3f * pace};
  }

  METHOD void reset() {
    scatter(num_obstacles, 0.9f);
    each(agents, [&](int i) {
      if (curriculum && i == 0) present_stage[0] = clip(curriculum_stage[0], 0, 2);
    });
  }

  METHOD void step() {
    push_and_move([&](int i) { return body(i); }, force_x, force_y, num_obstacles, obstacle_radius);
    const float catches = sum(agent, [&](int i) { return float(catchers(i)); });
    const bool all_caught = !any(agent, [&](int i) { return catchers(i) == 0; });
    each(agents, [&](int i) {
      if (adversary.has(i))
        reward[i] = 10.0f * catches;
      else
        reward[i] -= 10.0f * float(catchers(i)) + outside(x[i]) + outside(y[i]);
      terminated[i] = terminate_on_success && all_caught && time < max_cycles;
    });
  }

  // Adversaries that touch agent i.
  METHOD int catchers(int i) const {
    int touching = 0;
    for (int j = adversary.first; j < adversary.end(); ++j)
      touching += touch(position(i) - position(j), body(i).radius + body(j).radius);
    return touching;
  }

  METHOD void observe() {
    constexpr int obstacles = num_landmark_neighbors > 0 ? num_landmark_neighbors : num_obstacles;
    constexpr int others = num_agent_neighbors > 0 ? num_agent_neighbors : num_agents - 1;
    constexpr int velocities = 4 + 2 * (obstacles + others);
    each_observation(agents, [&](int i, auto row) {
      write(row, 0, velocity(i));
      write(row, 2, position(i));
      each_seen(
          row, num_obstacles, num_landmark_neighbors, [&](int k) { return landmark(k) - position(i); },
          [&](int slot, int, Vector offset) { write(row, 4 + 2 * slot, offset); });
      each_seen(
          row, num_agents - 1, num_agent_neighbors, [&](int k) { return position(other(i, k)) - position(i); },
          [&](int slot, int k, Vector offset) {
            write(row, 4 + 2 * (obstacles + slot), offset);
            if (num_agent_neighbors == 0) return;
            const bool prey = k >= 0 && agent.has(other(i, k));
            write(row, velocities + 2 * slot, prey ? velocity(other(i, k)) : Vector{0.0f, 0.0f});
          });
      if (num_agent_neighbors > 0) return;
      const int first = agent.first - adversary.has(i);  // of the prey among the others
      row.each(agent.size - agent.has(i),
               [&](int k) { write(row, velocities + 2 * k, velocity(other(i, first + k))); });
    });
  }
};
