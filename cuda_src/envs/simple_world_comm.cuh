// Predators with a leader, and prey with food and hiding places. Parameters, groups and state are declared in
// gpu_marl_envs/envs/simple_world_comm.py.
#include "shared/particles.cuh"

struct SimpleWorldComm : Particles {
  static constexpr float obstacle_radius = 0.2f, food_radius = 0.03f, forest_radius = 0.3f;
  static constexpr int landmarks = num_obstacles + num_food + num_forests;  // in this order
  static constexpr int words = 4;

  METHOD static bool hunts(int i) { return i < num_adversaries; }
  METHOD static bool leads(int i) { return i == 0; }

  METHOD Body body(int i) const { return hunts(i) ? Body{0.075f, 3.0f, 1.0f} : Body{0.045f, 4.0f, 1.3f}; }
  METHOD Vector food(int k) const { return landmark(num_obstacles + k); }
  METHOD Vector forest(int k) const { return landmark(num_obstacles + num_food + k); }

  METHOD bool meet(int i, int j) const { return touch(position(i) - position(j), body(i).radius + body(j).radius); }
  METHOD bool is_in(int i, int k) const { return touch(position(i) - forest(k), body(i).radius + forest_radius); }

  METHOD void reset() {
    scatter(landmarks, 0.9f);
    each(leadadversary, [&](int) {
      for (int k = 0; k < words; ++k) communication[k] = 0.0f;
    });
  }

  METHOD void step() {
    push_and_move([&](int i) { return body(i); }, force_x, force_y, num_obstacles, obstacle_radius);
    const float catches = sum(agent, [&](int i) { return float(catchers(i)); });
    each(agents, [&](int i) {
      reward[i] = hunts(i) ? 5.0f * catches - 0.1f * distance_to_prey(i) : fare(i);
      if (!leads(i)) return;
      for (int k = 0; k < words; ++k) communication[k] = word(i, k);
    });
  }

  // Adversaries that touch agent i.
  METHOD int catchers(int i) const {
    int touching = 0;
    for (int j = 0; j < num_adversaries; ++j) touching += meet(i, j);
    return touching;
  }

  METHOD float distance_to_prey(int i) const {
    float least = infinity;
    for (int j = agent.first; j < agent.end(); ++j) least = min(least, length(position(j) - position(i)));
    return least;
  }

  // The reward of an agent that is hunted.
  METHOD float fare(int i) const {
    float total = -5.0f * float(catchers(i)) - 2.0f * (outside(x[i]) + outside(y[i]));
    float least = infinity;
    for (int k = 0; k < num_food; ++k) {
      const Vector offset = food(k) - position(i);
      if (touch(offset, body(i).radius + food_radius)) total += 2.0f;
      least = min(least, length(offset));
    }
    return total - 0.05f * least;
  }

  // Whether agent i sees agent j: in the same forest or both outside of all; the leader sees everyone.
  METHOD bool sees(int i, int j) const {
    bool together = false, hidden = false;
    for (int k = 0; k < num_forests; ++k) {
      together = together || (is_in(i, k) && is_in(j, k));
      hidden = hidden || is_in(i, k) || is_in(j, k);
    }
    return together || !hidden || leads(i);
  }

  METHOD void observe() {
    constexpr int others = 4 + 2 * landmarks, after_others = others + 2 * (num_agents - 1);
    each_observation(agents, [&](int i, auto row) {
      // Prey know first where they are, then how the others move; adversaries have it the other way round.
      const int prey_seen = num_good - !hunts(i);
      const int forests = after_others + (hunts(i) ? 2 * prey_seen : 0);
      const int velocities = after_others + (hunts(i) ? 0 : num_forests);
      write(row, 0, velocity(i));
      write(row, 2, position(i));
      for (int k = 0; k < landmarks; ++k) write(row, 4 + 2 * k, landmark(k) - position(i));
      for (int k = 0; k < num_agents - 1; ++k) {
        const int j = other(i, k);
        const bool seen = sees(i, j);
        write(row, others + 2 * k, seen ? position(j) - position(i) : Vector{0.0f, 0.0f});
        const int prey = k - (num_agents - 1 - prey_seen);  // they come last
        if (prey >= 0) write(row, velocities + 2 * prey, seen ? velocity(j) : Vector{0.0f, 0.0f});
      }
      for (int k = 0; k < num_forests; ++k) row[forests + k] = is_in(i, k) ? 1.0f : -1.0f;
      if (!hunts(i)) return;
      for (int k = 0; k < words; ++k) row[forests + num_forests + k] = communication[k];
    });
  }
};
