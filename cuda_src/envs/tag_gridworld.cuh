// Tag on a grid. Parameters, groups and state are declared in gpu_marl_envs/envs/tag_gridworld.py.

struct TagGridworld : Environment {
  METHOD void reset() {
    each(agents, [&](int i) {
      auto draw = random(i);
      const int home = tagger.has(i) ? grid_length / 2 : 0;
      x[i] = start == Start::random ? draw.integer(grid_length + 1) : home;
      y[i] = start == Start::random ? draw.integer(grid_length + 1) : home;
    });
  }

  METHOD void step() {
    each(agents, [&](int i) {
      const int move = action(i);  // stay, +x, -x, +y, -y
      const int to_x = x[i] + (move == 1) - (move == 2);
      const int to_y = y[i] + (move == 3) - (move == 4);
      x[i] = clip(to_x, 0, grid_length);
      y[i] = clip(to_y, 0, grid_length);
      if (x[i] != to_x || y[i] != to_y) reward[i] -= wall_hit_penalty;
    });

    const int prey = runner.first;
    const bool caught = any(tagger, [&](int i) { return x[i] == x[prey] && y[i] == y[prey]; });
    each(agents, [&](int i) {
      if (caught)
        reward[i] += tagger.has(i) ? tag_reward_for_tagger : -tag_penalty_for_runner;
      else
        reward[i] += tagger.has(i) ? -step_cost_for_tagger : step_cost_for_tagger;
      if (caught) terminated[i] = true;
    });
  }

  METHOD void observe() {
    if constexpr (use_full_observation)
      observe_everyone();
    else
      observe_opponent();
  }

  METHOD void observe_everyone() {
    each_observation(agents, [&](int i, auto row) {
      row.each(num_agents, [&](int j) { row.put(j, num_agents, scaled(x[j]), scaled(y[j]), runner.has(j), i == j); });
      row[4 * num_agents] = float(time) / float(episode_length);
    });
  }

  METHOD void observe_opponent() {
    const int prey = runner.first;
    const int hunter = argmin(tagger, [&](int i) { return square(x[i] - x[prey]) + square(y[i] - y[prey]); });
    each_observation(agents, [&](int i, auto row) {
      const int opponent = tagger.has(i) ? prey : hunter;
      row[0] = scaled(x[i]);
      row[1] = scaled(y[i]);
      row[2] = scaled(x[opponent]);
      row[3] = scaled(y[opponent]);
      row[4] = runner.has(i);
      row[5] = float(time) / float(episode_length);
    });
  }

  METHOD float scaled(int cells) { return float(cells) * (1.0f / float(grid_length)); }  // at most 1
};
