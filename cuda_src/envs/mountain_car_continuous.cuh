// A car in a valley with an engine that can be throttled. Parameters and state are declared in
// gpu_marl_envs/envs/mountain_car_continuous.py.

struct MountainCarContinuous : Environment {
  static constexpr float power = 0.0015f;
  static constexpr float gravity = 0.0025f;
  static constexpr float left_end = -1.2f, right_end = 0.6f;
  static constexpr float top_speed = 0.07f;
  static constexpr float goal = 0.45f;

  METHOD void reset() {
    each(agents, [&](int i) {
      position[i] = random(i).uniform(-0.6f, -0.4f);
      velocity[i] = 0.0f;
    });
  }

  METHOD void step() {
    each(agents, [&](int i) {
      const float throttle = continuous_action(i);
      const float acceleration = clip(throttle, -1.0f, 1.0f) * power - cos(3.0f * position[i]) * gravity;
      velocity[i] = clip(velocity[i] + acceleration, -top_speed, top_speed);
      position[i] = clip(position[i] + velocity[i], left_end, right_end);
      if (position[i] == left_end && velocity[i] < 0.0f) velocity[i] = 0.0f;
      terminated[i] = position[i] >= goal && velocity[i] >= goal_velocity;
      reward[i] = (terminated[i] ? 100.0f : 0.0f) - 0.1f * square(throttle);
    });
  }

  METHOD void observe() {
    each_observation(agents, [&](int i, auto row) {
      row[0] = position[i];
      row[1] = velocity[i];
    });
  }
};
