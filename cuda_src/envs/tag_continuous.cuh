// Tag in the plane. Parameters, groups and state are declared in gpu_marl_envs/envs/tag_continuous.py.

struct TagContinuous : Environment {
  METHOD void reset() {
    each(agents, [&](int i) {
      auto draw = start == Start::fixed ? common_random(i) : random(i);
      x[i] = draw.uniform(0.0f, grid_length);
      y[i] = draw.uniform(0.0f, grid_length);
      direction[i] = draw.integer(4) * (pi / 2.0f);
      speed[i] = 0.0f;
      acceleration[i] = 0.0f;
    });
  }

  METHOD void step() {
    each(agents, [&](int i) {
      if (alive[i])
        move(i);
      else
        speed[i] = direction[i] = 0.0f;
      tags[i] = 0;
    });
    const auto hunters = nearest<1>(tagger, x, y, [](int) { return true; }, tagging_distance * grid_length);
    each(runner, hunters, [&](int i, auto hunter) {
      if (hunter.found > 0) get_tagged(i, hunter[0]);
    });
    const bool any_runner_left = any(runner, [&](int i) { return !terminated[i]; });
    each(agents, [&](int i) {
      if (tagger.has(i))
        reward[i] += float(tags[i]) * tag_reward_for_tagger + step_penalty_for_tagger;
      else
        reward[i] += step_reward_for_runner + (survives(i) ? end_of_game_reward_for_runner : 0.0f);
      if (!any_runner_left) terminated[i] = true;
    });
  }

  METHOD void move(int i) {
    Motion now = motion(i);
    now.acceleration += change(i, 0, num_acceleration_levels, min_acceleration, max_acceleration);
    now.direction = wrap(now.direction + change(i, 1, num_turn_levels, min_turn, max_turn), 2.0f * pi);
    const float top_speed = max_speed * (tagger.has(i) ? skill_level_tagger : skill_level_runner);
    now.speed = clip(now.speed + now.acceleration, 0.0f, top_speed);
    if (now.speed <= 0.0f || now.speed >= top_speed) now.acceleration = 0.0f;

    const float to_x = now.x + now.speed * cos(now.direction);
    const float to_y = now.y + now.speed * sin(now.direction);
    now.x = clip(to_x, 0.0f, grid_length);
    now.y = clip(to_y, 0.0f, grid_length);
    if (now.x != to_x || now.y != to_y) reward[i] += edge_hit_penalty;
    x[i] = now.x;
    y[i] = now.y;
    speed[i] = now.speed;
    acceleration[i] = now.acceleration;
    direction[i] = now.direction;
  }

  // The change of acceleration (component 0) or direction (component 1) that agent i chose.
  METHOD float change(int i, int component, int levels, float low, float high) {
    if constexpr (continuous_actions) return clip(continuous_action(i, component), low, high);
    const int level = action(i, component) - 1;  // -1 changes nothing
    if (level < 0) return 0.0f;
    return levels == 1 ? low : low + float(level) * ((high - low) / float(levels - 1));
  }

  METHOD void get_tagged(int i, int hunter) {
    add(tags[hunter], 1);
    reward[i] += tag_penalty_for_runner;
    if (runner_exits_game_after_tagged) terminated[i] = true;
  }

  METHOD bool survives(int i) { return time == episode_length && !terminated[i]; }

  METHOD void observe() {
    if constexpr (use_full_observation)
      observe_everyone();
    else
      observe_nearest();
  }

  METHOD void observe_everyone() {
    constexpr int others = num_agents - 1;
    const Scale full = scale();
    each_observation(agents, [&](int i, auto row) {
      const Scale own = alive[i] ? full : Scale{0.0f, 0.0f, 0.0f, 0.0f};
      const Motion mine = motion(i);
      row.each(others, [&](int k) {
        const int j = k < i ? k : k + 1;
        write_other(row, k, others, mine, motion(j), own, tagger.has(j), alive[j]);
      });
      row[7 * others] = float(time) * own.per_episode;
    });
  }

  METHOD void observe_nearest() {
    constexpr int observed = num_other_agents_observed;
    const Scale full = scale();
    const auto others = nearest<observed>(agents, x, y, [&](int j) { return alive[j]; });
    each_observation(agents, others, [&](auto i, auto row, auto neighbor) {
      if (!alive[i]) return row.each(7 * observed + 1, [&](int k) { row[k] = 0.0f; });
      const Motion mine = motion(i);
      row.each(observed, [&](int k) {
        const bool there = k < neighbor.found;
        const auto found = neighbor[k];
        const auto j = there ? found : i;  // zeros where there is none
        write_other(row, k, observed, mine, motion(j), full, there & tagger.has(j), there);
      });
      row[7 * observed] = float(time) * full.per_episode;
    });
  }

  struct Scale {
    float per_diagonal, per_speed, per_circle, per_episode;
  };

  METHOD Scale scale() const {
    return {1.0f / (grid_length * 1.41421356237309505f), 1.0f / max_speed, 1.0f / (2.0f * pi),
            1.0f / float(episode_length)};
  }

  struct Motion {
    float x, y, speed, acceleration, direction;
  };

  template <class Agent>
  METHOD Motion motion(Agent i) const {
    return {x[i], y[i], speed[i], acceleration[i], direction[i]};
  }

  // How another moves, seen from one's own place, as the k-th of `count` others in the observation.
  template <class Row>
  METHOD static void write_other(Row& row, int k, int count, Motion own, Motion its, Scale of, bool hunts, bool plays) {
    row.put(k, count, (its.x - own.x) * of.per_diagonal, (its.y - own.y) * of.per_diagonal,
            (its.speed - own.speed) * of.per_speed, (its.acceleration - own.acceleration) * of.per_speed,
            (its.direction - own.direction) * of.per_circle, hunts, plays);
  }
};
