// A pendulum to swing up. Parameters and state are declared in gpu_marl_envs/envs/pendulum.py.

struct Pendulum : Environment {
  static constexpr float mass = 1.0f;        // kg
  static constexpr float length = 1.0f;      // m
  static constexpr float time_step = 0.05f;  // s
  static constexpr float top_speed = 8.0f;   // rad / s
  static constexpr float top_torque = 2.0f;  // N m

  METHOD void reset() {
    each(agents, [&](int i) {
      auto draw = random(i);
      angle[i] = draw.uniform(-pi, pi);
      angular_velocity[i] = draw.uniform(-1.0f, 1.0f);
    });
  }

  METHOD void step() {
    each(agents, [&](int i) {
      const float torque = clip(continuous_action(i), -top_torque, top_torque);
      // Turns are taken off here, so that digits are not lost when the pendulum goes round and round.
      const float from_upright = wrap(angle[i] + pi, 2.0f * pi) - pi;
      reward[i] = -(square(from_upright) + 0.1f * square(angular_velocity[i]) + 0.001f * square(torque));

      const float acceleration =
          3.0f * g / (2.0f * length) * sin(from_upright) + 3.0f / (mass * square(length)) * torque;
      angular_velocity[i] = clip(angular_velocity[i] + acceleration * time_step, -top_speed, top_speed);
      angle[i] = from_upright + angular_velocity[i] * time_step;
    });
  }

  METHOD void observe() {
    each_observation(agents, [&](int i, auto row) {
      row[0] = cos(angle[i]);
      row[1] = sin(angle[i]);
      row[2] = angular_velocity[i];
    });
  }
};
