// A car in a valley with an engine that can be throttled. Parameters and state are declared in
// gpu_marl_envs/envs/mountain_car_continuous.py.
#include "shared/valley.cuh"

struct MountainCarContinuous : Valley {
  static constexpr float power = 0.0015f;
  static constexpr float goal = 0.45f;

  METHOD void step() {
    each(agents, [&](int i) {
      const float throttle = continuous_action(i);
      drive(i, clip(throttle, -1.0f, 1.0f) * power, goal);
      reward[i] = (terminated[i] ? 100.0f : 0.0f) - 0.1f * square(throttle);
    });
  }
};
