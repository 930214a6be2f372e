// Two agents that tell each other where to go. Parameters, groups and state are declared in
// gpu_marl_envs/envs/simple_reference.py.
#include "shared/particles.cuh"

struct SimpleReference : Particles {
  static constexpr int landmarks = 3;
  static constexpr int words = 10;

  METHOD void reset() {
    scatter(landmarks);
    each(agents, [&](int i) {
      goal[i] = choose(landmarks, landmarks, i);
      for (int k = 0; k < words; ++k) communication[words * i + k] = 0.0f;
    });
  }

  METHOD void step() {
    each(agents, [&](int i) {
      move(i, 5.0f * drive(i));
      for (int k = 0; k < words; ++k) communication[words * i + k] = word(i, k);
    });
    const float mean = 0.5f * sum(agents, [&](int i) { return distance_to_goal(i); });
    each(agents, [&](int i) { reward[i] = -mean * (1.0f - local_ratio) - distance_to_goal(i) * local_ratio; });
  }

  // How far the other agent is from where agent i wants it to be.
  METHOD float distance_to_goal(int i) const { return length(position(other(i, 0)) - landmark(goal[i])); }

  METHOD void observe() {
    each_observation(agents, [&](int i, auto row) {
      write(row, 0, velocity(i));
      for (int k = 0; k < landmarks; ++k) {
        write(row, 2 + 2 * k, landmark(k) - position(i));
        row[8 + k] = k == goal[i] ? 0.75f : 0.25f;  // the goal's colour
      }
      for (int k = 0; k < words; ++k) row[11 + k] = communication[words * other(i, 0) + k];
    });
  }
};
