// An adversary that pushes an agent away from its goal. Parameters, groups and state are declared in
// gpu_marl_envs/envs/simple_push.py.
#include "shared/particles.cuh"

struct SimplePush : Particles {
  static constexpr int landmarks = 2;

  METHOD void reset() {
    scatter(landmarks);
    each(adversary, [&](int) { goal[0] = choose(landmarks, landmarks); });
  }

  METHOD float distance_to_goal(int i) const { return length(position(i) - landmark(goal[0])); }

  METHOD void step() {
    push_and_move([&](int) { return Body{0.05f}; }, force_x, force_y);
    each(agents, [&](int i) {
      const float missed = distance_to_goal(agent.first);
      reward[i] = adversary.has(i) ? missed - distance_to_goal(i) : -missed;
    });
  }

  METHOD void observe() {
    each_observation(agents, [&](int i, auto row) {
      write(row, 0, velocity(i));
      int at = 2;
      if (agent.has(i)) {
        write(row, 2, landmark(goal[0]) - position(i));
        for (int part = 0; part < 3; ++part) {
          row[4 + part] = part == goal[0] + 1 ? 0.75f : 0.25f;  // own colour shows the goal
          for (int k = 0; k < landmarks; ++k) row[11 + 3 * k + part] = part == k + 1 ? 0.9f : 0.1f;
        }
        at = 7;
      }
      for (int k = 0; k < landmarks; ++k) write(row, at + 2 * k, landmark(k) - position(i));
      write(row, agent.has(i) ? 17 : 6, position(other(i, 0)) - position(i));
    });
  }
};
