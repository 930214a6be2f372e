// A car in a valley. Parameters and state are declared in gpu_marl_envs/envs/mountain_car.py.
#include "shared/valley.cuh"

struct MountainCar : Valley {
  static constexpr float force = 0.001f;
  static constexpr float goal = 0.5f;

  METHOD void step() {
    each(agents, [&](int i) {
      drive(i, float(action(i) - 1) * force, goal);
      reward[i] = -1.0f;
    });
  }
};
