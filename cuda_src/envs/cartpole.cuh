// A pole on a cart. Parameters and state are declared in gpu_marl_envs/envs/cartpole.py.

struct CartPole : Environment {
  static constexpr float gravity = 9.8f;                         // m / s²
  static constexpr float pole_mass = 0.1f;                       // kg
  static constexpr float per_total_mass = 1.0f / (1.0f + 0.1f);  // of cart and pole, 1 / kg
  static constexpr float half_length = 0.5f;                     // of the pole, m
  static constexpr float pole_moment = 0.1f * 0.5f;              // pole_mass · half_length
  static constexpr float push = 10.0f;                           // N
  static constexpr float time_step = 0.02f;                      // s
  static constexpr float farthest = 2.4f;                        // m from the middle of the track
  static constexpr float steepest = 12 * 2 * pi / 360;           // 12° from upright

  METHOD void reset() {
    each(agents, [&](int i) {
      auto draw = random(i);
      position[i] = draw.uniform(-0.05f, 0.05f);
      velocity[i] = draw.uniform(-0.05f, 0.05f);
      angle[i] = draw.uniform(-0.05f, 0.05f);
      angular_velocity[i] = draw.uniform(-0.05f, 0.05f);
    });
  }

  METHOD void step() {
    each(agents, [&](int i) {
      const float force = action(i) == 1 ? push : -push;
      const float sine = sin(angle[i]), cosine = cos(angle[i]);
      const float without_pole = (force + pole_moment * square(angular_velocity[i]) * sine) * per_total_mass;
      const float lever = half_length * (4.0f / 3.0f - pole_mass * square(cosine) * per_total_mass);
      const float angular_acceleration = (gravity * sine - cosine * without_pole) / lever;
      const float acceleration = without_pole - pole_moment * angular_acceleration * cosine * per_total_mass;

      position[i] += time_step * velocity[i];
      velocity[i] += time_step * acceleration;
      angle[i] += time_step * angular_velocity[i];
      angular_velocity[i] += time_step * angular_acceleration;

      const bool failed = abs(position[i]) > farthest || abs(angle[i]) > steepest;
      terminated[i] = failed;
      if constexpr (sutton_barto_reward)
        reward[i] = failed ? -1.0f : 0.0f;
      else
        reward[i] = 1.0f;
    });
  }

  METHOD void observe() {
    each_observation(agents, [&](int i, auto row) {
      row[0] = position[i];
      row[1] = velocity[i];
      row[2] = angle[i];
      row[3] = angular_velocity[i];
    });
  }
};
