// Agents that form a circle. Parameters, groups and state are declared in gpu_marl_envs/envs/simple_formation.py.
#include "shared/assignment.cuh"

struct SimpleFormation : AssignedParticles {
  static constexpr float circle_radius = 0.5f;

  METHOD void reset() { scatter(1, 0.5f); }

  METHOD void step() {
    push_and_move([&](int) { return Body{0.05f}; }, force_x, force_y);
    const int first = argmin(agents, [&](int i) { return angle(i); });
    each(agents, [&](int k) {
      const float turn = angle(first) + float(k) * (2.0f * pi / float(num_agents));
      target_x[k] = landmark_x[0] + circle_radius * cos(turn);
      target_y[k] = landmark_y[0] + circle_radius * sin(turn);
    });
    reward_for_targets();
  }

  // Where agent i is, seen from the landmark, from 0 to 2 pi.
  METHOD float angle(int i) const {
    const Vector offset = position(i) - landmark(0);
    const float turn = atan2(offset.y, offset.x);
    return turn < 0.0f ? turn + 2.0f * pi : turn;
  }

  METHOD void observe() {
    each_observation(agents, [&](int i, auto row) {
      write(row, 0, velocity(i));
      write(row, 2, position(i));
      write(row, 4, landmark(0) - position(i));
    });
  }
};
