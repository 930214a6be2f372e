// A speaker that tells a listener where to go. Parameters, groups and state are declared in
// gpu_marl_envs/envs/simple_speaker_listener.py.
#include "shared/particles.cuh"

struct SimpleSpeakerListener : Particles {
  static constexpr int landmarks = 3;
  static constexpr int words = 3;

  METHOD void reset() {
    scatter(landmarks);
    each(speaker, [&](int) {
      goal[0] = choose(landmarks, landmarks);
      for (int k = 0; k < words; ++k) communication[k] = 0.0f;
    });
  }

  METHOD void step() {
    each(agents, [&](int i) {
      if (listener.has(i)) move(i, 5.0f * drive(i));
      if (listener.has(i)) return;
      for (int k = 0; k < words; ++k) communication[k] = word(i, k, 0);
    });
    each(agents, [&](int i) { reward[i] = -square_length(position(listener.first) - landmark(goal[0])); });
  }

  METHOD void observe() {
    each_observation(speaker, [&](int, auto row) {
      for (int k = 0; k < landmarks; ++k) row[k] = k == goal[0] ? 0.65f : 0.15f;  // the goal's colour
    });
    each_observation(listener, [&](int i, auto row) {
      write(row, 0, velocity(i));
      for (int k = 0; k < landmarks; ++k) write(row, 2 + 2 * k, landmark(k) - position(i));
      for (int k = 0; k < words; ++k) row[8 + k] = communication[k];
    });
  }
};
