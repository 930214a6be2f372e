// A car in a valley, too weak to climb the hill at once.
#pragma once

struct Valley : Environment {
  static constexpr float gravity = 0.0025f;
  static constexpr float left_end = -1.2f, right_end = 0.6f;
  static constexpr float top_speed = 0.07f;

  METHOD void reset() {
    each(agents, [&](int i) {
      position[i] = random(i).uniform(-0.6f, -0.4f);
      velocity[i] = 0.0f;
    });
  }

  // Moves the car under the push of its engine; at the goal the episode ends.
  METHOD void drive(int i, float push, float goal) {
    const float acceleration = push - cos(3.0f * position[i]) * gravity;
    velocity[i] = clip(velocity[i] + acceleration, -top_speed, top_speed);
    position[i] = clip(position[i] + velocity[i], left_end, right_end);
    if (position[i] == left_end && velocity[i] < 0.0f) velocity[i] = 0.0f;
    terminated[i] = position[i] >= goal && velocity[i] >= goal_velocity;
  }

  METHOD void observe() {
    each_observation(agents, [&](int i, auto row) {
      row[0] = position[i];
      row[1] = velocity[i];
    });
  }
};
