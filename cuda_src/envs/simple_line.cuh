// Agents that line up between two landmarks. Parameters, groups and state are declared in
// gpu_marl_envs/envs/simple_line.py.
#include "shared/assignment.cuh"

struct SimpleLine : AssignedParticles {
  static constexpr float line_length = 1.25f;

  METHOD void reset() {
    scatter(1, 0.25f);
    each(agents, [&](int i) {
      if (i == 0) place_second_landmark();
    });
  }

  // Turns it about the first in steps of 5 degrees until it lies within the square from -1 to 1.
  METHOD void place_second_landmark() {
    float turn = random(num_agents + 1).uniform(0.0f, 2.0f * pi);
    for (int tries = 0; tries < 72; ++tries) {
      landmark_x[1] = landmark_x[0] + line_length * cos(turn);
      landmark_y[1] = landmark_y[0] + line_length * sin(turn);
      if (abs(landmark_x[1]) < 1.0f && abs(landmark_y[1]) < 1.0f) return;
      turn += pi / 36.0f;
    }
  }

  METHOD void step() {
    push_and_move([&](int) { return Body{0.03f}; }, force_x, force_y);
    each(agents, [&](int k) {
      const Vector target = landmark(0) + float(k) / float(max(num_agents - 1, 1)) * (landmark(1) - landmark(0));
      target_x[k] = target.x;
      target_y[k] = target.y;
    });
    reward_for_targets();
  }

  METHOD void observe() {
    each_observation(agents, [&](int i, auto row) {
      write(row, 0, velocity(i));
      write(row, 2, position(i));
      for (int k = 0; k < 2; ++k) write(row, 4 + 2 * k, landmark(k) - position(i));
    });
  }
};
