// One agent and its landmark. Parameters, groups and state are declared in gpu_marl_envs/envs/simple.py.
#include "shared/particles.cuh"

struct Simple : Particles {
  METHOD void reset() { scatter(1); }

  METHOD void step() {
    each(agents, [&](int i) {
      move(i, 5.0f * drive(i));
      reward[i] = -square_length(position(i) - landmark(0));
    });
  }

  METHOD void observe() {
    each_observation(agents, [&](int i, auto row) {
      write(row, 0, velocity(i));
      write(row, 2, landmark(0) - position(i));
    });
  }
};
