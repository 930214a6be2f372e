// Two links to swing up. Parameters and state are declared in gpu_marl_envs/envs/acrobot.py.

struct Acrobot : Environment {
  static constexpr float gravity = 9.8f;
  static constexpr float mass = 1.0f, length = 1.0f, inertia = 1.0f;  // of each link
  static constexpr float centre = 0.5f;                               // of a link's mass, from its joint
  static constexpr float time_step = 0.2f;
  static constexpr float top_speed_inner = 4.0f * pi, top_speed_outer = 9.0f * pi;

  // The state of the two joints, or its derivative with respect to time.
  struct Motion {
    float angle_inner, angle_outer, speed_inner, speed_outer;
  };

  METHOD void reset() {
    each(agents, [&](int i) {
      auto draw = random(i);
      angle[2 * i] = draw.uniform(-0.1f, 0.1f);
      angle[2 * i + 1] = draw.uniform(-0.1f, 0.1f);
      angular_velocity[2 * i] = draw.uniform(-0.1f, 0.1f);
      angular_velocity[2 * i + 1] = draw.uniform(-0.1f, 0.1f);
    });
  }

  METHOD void step() {
    each(agents, [&](int i) {
      const float torque = float(action(i) - 1);
      const Motion start{angle[2 * i], angle[2 * i + 1], angular_velocity[2 * i], angular_velocity[2 * i + 1]};
      const Motion next = runge_kutta(start, torque);
      angle[2 * i] = from_minus_pi_to_pi(next.angle_inner);
      angle[2 * i + 1] = from_minus_pi_to_pi(next.angle_outer);
      angular_velocity[2 * i] = clip(next.speed_inner, -top_speed_inner, top_speed_inner);
      angular_velocity[2 * i + 1] = clip(next.speed_outer, -top_speed_outer, top_speed_outer);

      const float height = -cos(angle[2 * i]) - cos(angle[2 * i] + angle[2 * i + 1]);
      terminated[i] = height > 1.0f;
      reward[i] = terminated[i] ? 0.0f : -1.0f;
    });
  }

  // The classical fourth-order method.
  METHOD static Motion runge_kutta(const Motion& start, float torque) {
    const Motion k1 = derivative(start, torque);
    const Motion k2 = derivative(moved(start, k1, time_step / 2.0f), torque);
    const Motion k3 = derivative(moved(start, k2, time_step / 2.0f), torque);
    const Motion k4 = derivative(moved(start, k3, time_step), torque);
    const Motion slope{k1.angle_inner + 2.0f * k2.angle_inner + 2.0f * k3.angle_inner + k4.angle_inner,
                       k1.angle_outer + 2.0f * k2.angle_outer + 2.0f * k3.angle_outer + k4.angle_outer,
                       k1.speed_inner + 2.0f * k2.speed_inner + 2.0f * k3.speed_inner + k4.speed_inner,
                       k1.speed_outer + 2.0f * k2.speed_outer + 2.0f * k3.speed_outer + k4.speed_outer};
    return moved(start, slope, time_step / 6.0f);
  }

  METHOD static Motion moved(const Motion& from, const Motion& slope, float duration) {
    return {from.angle_inner + duration * slope.angle_inner, from.angle_outer + duration * slope.angle_outer,
            from.speed_inner + duration * slope.speed_inner, from.speed_outer + duration * slope.speed_outer};
  }

  // The equations of motion in the terms of Sutton and Barto: d1, d2, phi1, phi2.
  METHOD static Motion derivative(const Motion& at, float torque) {
    const float sine = sin(at.angle_outer), cosine = cos(at.angle_outer);
    const float coupling = mass * length * centre;
    const float outer_inertia = mass * square(centre) + inertia;
    const float d1 = mass * square(centre) + mass * square(length) + 2.0f * coupling * cosine + outer_inertia + inertia;
    const float d2 = coupling * cosine + outer_inertia;
    const float phi2 = mass * centre * gravity * sin(at.angle_inner + at.angle_outer);
    const float phi1 = -coupling * sine * at.speed_outer * (at.speed_outer + 2.0f * at.speed_inner) +
                       (mass * centre + mass * length) * gravity * sin(at.angle_inner) + phi2;
    float drive = torque + d2 / d1 * phi1 - phi2;
    if constexpr (book_or_nips == BookOrNips::book) drive -= coupling * sine * square(at.speed_inner);
    const float acceleration_outer = drive / (outer_inertia - square(d2) / d1);
    return {at.speed_inner, at.speed_outer, -(d2 * acceleration_outer + phi1) / d1, acceleration_outer};
  }

  METHOD static float from_minus_pi_to_pi(float x) { return clip(x - 2.0f * pi * round(x * (0.5f / pi)), -pi, pi); }

  METHOD void observe() {
    each_observation(agents, [&](int i, auto row) {
      row[0] = cos(angle[2 * i]);
      row[1] = sin(angle[2 * i]);
      row[2] = cos(angle[2 * i + 1]);
      row[3] = sin(angle[2 * i + 1]);
      row[4] = angular_velocity[2 * i];
      row[5] = angular_velocity[2 * i + 1];
    });
  }
};
