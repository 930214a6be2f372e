// A car in a valley. Parameters and state are declared in gpu_marl_envs/envs/mountain_car.py.

struct MountainCar : Environment {
  static constexpr float force = 0.001f;
  static constexpr float gravity = 0.0025f;
  static constexpr float left_end = -1.2f, right_end = 0.6f;
  static constexpr float top_speed = 0.07f;
  static constexpr float goal = 0.5f;

  METHOD void reset() {
    each(agents, [&](int i) {
      position[i] = random(i).uniform(-0.6f, -0.4f);
      velocity[i] = 0.0f;
    });
  }

  METHOD void step() {
    each(agents, [&](int i) {
      const float acceleration = float(action(i) - 1) * force - cos(3.0f * position[i]) * gravity;
      velocity[i] = clip(velocity[i] + acceleration, -top_speed, top_speed);
      position[i] = clip(position[i] + velocity[i], left_end, right_end);
      if (position[i] == left_end && velocity[i] < 0.0f) velocity[i] = 0.0f;
      terminated[i] = position[i] >= goal && velocity[i] >= goal_velocity;
      reward[i] = -1.0f;
    });
  }

  METHOD void observe() {
    each_observation(agents, [&](int i, auto row) {
      row[0] = position[i];
      row[1] = velocity[i];
    });
  }
};
