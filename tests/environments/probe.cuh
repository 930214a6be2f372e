// Calls everything the engine offers.

struct Probe : Environment {
  METHOD void reset() {
    each(agents, [&](int i) {
      auto draw = random(i);
      x[i] = draw.uniform(-4.0f, 4.0f);
      y[i] = draw.normal();
      for (int k = 0; k < 10; ++k) results[10 * i + k] = draw.uniform();
      for (int k = 0; k < 4; ++k) pick[4 * i + k] = draw.integer(1000);
    });
    each(agents, [&](int i) {
      if (i > 0) return;
      for (int k = 0; k < 3; ++k) sums[k] = 0.0f;
      for (int k = 0; k < 4; ++k) counts[k] = 0;
    });
  }

  METHOD void step() {
    each(agents, [&](int i) {
      auto draw = random(i);
      votes[i] = 0;
      if (few.has(i)) {
        x[i] += clip(continuous_action(i, 0), -1.0f, 1.0f);
        y[i] += clip(continuous_action(i, 1), -1.0f, 1.0f);
      } else {
        x[i] = wrap(x[i] + 0.1f * float(action(i)) + 4.0f, 8.0f) - 4.0f;
        y[i] += 0.1f * draw.normal();
      }
      apply_functions(i);
      if (draw.uniform() < leave_below) terminated[i] = true;
    });
    each_chosen(
        agents, 40, [&](int i, int k) { return pick[4 * i + 1] >> (k % 31) & 1; },
        [&](int i, int k) { results[10 * i + 9] = 0.5f * (results[10 * i + 9] + float(k)); });
    const auto closest_to = nearest<1>(agents, x, y, [&](int j) { return alive[j]; });
    each(agents, closest_to, [&](int, auto near) {
      if (near.found > 0) add(votes[near[0]], 1);
    });
    const float total_x = sum(agents, [&](int i) { return x[i]; });
    const float few_y = sum(few, [&](int i) { return y[i]; });
    const float many_y = sum(many, [&](int i) { return y[i] * results[10 * i]; });
    const int positive = count(many, [&](int i) { return x[i] > 0.0f; });
    const int lowest = argmin(agents, [&](int i) { return x[i]; });
    const int closest = argmin(many, [&](int i) { return pick[4 * i]; });
    const bool crowded = any(agents, [&](int i) { return votes[i] > 3; });
    each(agents, [&](int i) {
      pick[4 * i + 3] = votes[i];
      reward[i] += alive[i] ? results[10 * i] + 0.5f * x[i] : 100.0f;
      if (i > 0) return;
      sums[0] = total_x;
      sums[1] = few_y;
      sums[2] = many_y;
      counts[0] = positive;
      counts[1] = lowest;
      counts[2] = closest;
      counts[3] = crowded;
    });
  }

  METHOD void apply_functions(int i) {
    float* result = results + 10 * i;
    result[0] = sin(x[i]);
    result[1] = cos(5.0f * x[i]);
    result[2] = exp(y[i]);
    result[3] = log(abs(x[i]) + 0.001f);
    result[4] = tanh(y[i]);
    result[5] = atan2(y[i], x[i]);
    result[6] = sqrt(abs(x[i]) / (1.0f + square(y[i])));
    result[7] = floor(x[i]) + round(y[i]);
    result[8] = wrap(x[i], 2.0f * pi);
    result[9] = min(x[i], y[i]) - max(x[i], y[i]);
    const int level = clip(to_int(4.0f * x[i]), 0, 4);
    pick[4 * i] = 100 * to_int(100.0f * x[i]) + 10 * (level == 3) + (level == 4);
    pick[4 * i + 1] = static_cast<int>(random(i).bits() >> 1);
    pick[4 * i + 2] = common_random(i).integer(77);
  }

  METHOD void observe() {
    const auto near_many = nearest<1>(many, x, y, [&](int j) { return alive[j]; });
    each_observation(few, near_many, [&](int i, auto row, auto near) {
      for (int k = 0; k < 3; ++k) row[k] = results[10 * i + k];
      row[3] = near.found > 0 ? float(near[0]) : -1.0f;
      row[4] = float(time);
    });
    const auto all_near = nearest<neighbors_observed>(agents, x, y, [&](int j) { return alive[j]; });
    each_observation(many, all_near, [&](auto i, auto row, auto near) {
      row.each(neighbors_observed, [&](int k) {
        const auto j = k < near.found ? near[k] : i;
        row[k] = k < near.found ? square(x[j] - x[i]) + square(y[j] - y[i]) : -1.0f;
        row[neighbors_observed + k] = k < near.found ? float(j) : -1.0f;
      });
      row[2 * neighbors_observed] = sums[0];
    });
  }
};
