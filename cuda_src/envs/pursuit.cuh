// Pursuit on a grid with an obstacle. Parameters and state are declared in gpu_marl_envs/envs/pursuit.py.

struct Pursuit : Environment {
  static constexpr int num_cells = x_size * y_size;
  static constexpr int draws_before_search = 64;  // places that are tried before all places are looked at

  // The columns from `left` to before `right` and rows from `bottom` to before `top` in which agents start.
  struct Window {
    int left, right, bottom, top;
  };

  // What a starting place must be; a group that has grown too dense for the first is content with the next.
  enum class Demand { apart, inside, open };

  METHOD void reset() {
    each(pursuer, [&](int i) {
      const Window window = draw_window();
      if (i == 0) scatter(x, y, n_pursuers, 0, window);
      if (i == n_pursuers - 1) scatter(evader_x, evader_y, n_evaders, n_pursuers, window);
    });
    each_evader([&](int e) { caught[e] = 0; });
  }

  METHOD void step() {
    clear(evaders_on);
    clear(pursuers_on);
    count_evaders();
    each(pursuer, [&](int i) {
      // In the original, pursuers move in turn and all are rewarded for touching after each of these moves.
      const int touched_before = touched_from(x[i], y[i]);
      move(x[i], y[i], action(i));
      const int touched = i * touched_before + (n_pursuers - i) * touched_from(x[i], y[i]);
      reward[i] = urgency_reward + tag_reward * float(touched) / float(n_pursuers);
      helped[i] = 0;
      add(pursuers_on[cell(x[i], y[i])], 1);
    });
    each_evader([&](int e) {
      if (caught[e]) return;
      if (is_caught(e))
        leave_to_pursuers(e);
      else if (!freeze_evaders)
        move(evader_x[e], evader_y[e], random(n_pursuers + e).integer(5));
    });
    each(pursuer, [&](int i) {
      if (helped[i] > 0) reward[i] += catch_reward;
    });
    if constexpr (shared_reward) {
      const float mean = sum(pursuer, [&](int i) { return reward[i]; }) / float(n_pursuers);
      each(pursuer, [&](int i) { reward[i] = mean; });
    }
    const bool some_left = any(pursuer, [&](int i) { return has_evader_left(i); });
    each(pursuer, [&](int i) {
      terminated[i] = !some_left && time < episode_length;  // the original only truncates in the last step
    });
  }

  METHOD void observe() {
    clear(evaders_on);
    clear(pursuers_on);
    count_evaders();
    each(pursuer, [&](int i) { add(pursuers_on[cell(x[i], y[i])], 1); });

    constexpr int reach = (obs_range - 1) / 2;
    each_observation(pursuer, [&](int i, auto row) {
      row.each(obs_range * obs_range, [&](int k) {
        const int right = k % obs_range, up = k / obs_range;  // from the window's first column and row
        const int column = x[i] + right - reach, line = y[i] + up - reach;
        // A window of even size has a last column and a last row in which nothing is seen.
        const bool seen = on_map(column, line) && max(right, up) <= 2 * reach;
        row[3 * k] = !seen || is_obstacle(column, line);
        row[3 * k + 1] = seen ? float(pursuers_on[cell(column, line)]) : 0.0f;
        row[3 * k + 2] = seen ? float(evaders_on[cell(column, line)]) : 0.0f;
      });
    });
  }

  // ---- the map ----

  // The number of a cell, or of the nearest one on the map: a position written from outside never leads out of memory.
  METHOD static int cell(int column, int line) {
    return clip(line, 0, y_size - 1) * x_size + clip(column, 0, x_size - 1);
  }
  METHOD static bool on_map(int column, int line) {
    return 0 <= column && column < x_size && 0 <= line && line < y_size;
  }

  // The obstacle covers what lies strictly between 0.3 and 0.7 of the width and 0.2 and 0.8 of the height.
  METHOD static bool is_obstacle(int column, int line) {
    const bool in_columns = 10 * column > 3 * x_size && 10 * column < 7 * x_size;
    return in_columns && 5 * line > y_size && 5 * line < 4 * y_size;
  }

  METHOD static bool is_open(int column, int line) { return on_map(column, line) && !is_obstacle(column, line); }

  // The four cells beside one: direction 0 is left, 1 right, 2 up, 3 down.
  METHOD static int column_beside(int column, int direction) { return column - (direction == 0) + (direction == 1); }
  METHOD static int line_beside(int line, int direction) { return line + (direction == 2) - (direction == 3); }

  // ---- the agents ----

  // Calls visit(e) for every evader; the lanes that play the pursuers share them.
  template <class Visit>
  METHOD void each_evader(Visit visit) {
    each(pursuer, [&](int i) {
      for (int e = i; e < n_evaders; e += n_pursuers) visit(e);
    });
  }

  METHOD bool has_evader_left(int i) {
    for (int e = i; e < n_evaders; e += n_pursuers)
      if (!caught[e]) return true;
    return false;
  }

  METHOD void clear(int* counts) {
    each(pursuer, [&](int i) {
      for (int c = i; c < num_cells; c += n_pursuers) counts[c] = 0;
    });
  }

  METHOD void count_evaders() {
    each_evader([&](int e) {
      if (!caught[e]) add(evaders_on[cell(evader_x[e], evader_y[e])], 1);
    });
  }

  // One step in a direction, or none (4, or where something is in the way).
  METHOD static void move(int& column, int& line, int direction) {
    const int to_column = column_beside(column, direction), to_line = line_beside(line, direction);
    if (!is_open(to_column, to_line)) return;
    column = to_column;
    line = to_line;
  }

  // Evaders beside a cell; a neighbour beyond the edge is the cell itself.
  METHOD int touched_from(int column, int line) {
    int total = 0;
    for (int direction = 0; direction < 4; ++direction)
      total += evaders_on[cell(column_beside(column, direction), line_beside(line, direction))];
    return total;
  }

  METHOD bool is_caught(int e) {
    if constexpr (!surround) return pursuers_on[cell(evader_x[e], evader_y[e])] >= n_catch;
    bool is_free = false;
    for (int direction = 0; direction < 4; ++direction) {
      const int column = column_beside(evader_x[e], direction), line = line_beside(evader_y[e], direction);
      is_free |= is_open(column, line) && pursuers_on[cell(column, line)] == 0;
    }
    return !is_free;
  }

  // Evader e leaves, and the pursuers that caught it are noted.
  METHOD void leave_to_pursuers(int e) {
    caught[e] = 1;
    for (int i = 0; i < n_pursuers; ++i) {
      const int distance = abs(x[i] - evader_x[e]) + abs(y[i] - evader_y[e]);
      if (distance == (surround ? 1 : 0)) add(helped[i], 1);
    }
  }

  // ---- where an episode starts ----

  METHOD Window draw_window() {
    auto draw = random(n_pursuers + n_evaders);
    const float left = draw.uniform() * (1.0f - constraint_window);
    const float bottom = draw.uniform() * (1.0f - constraint_window);
    Window window{to_int(x_size * left), to_int(x_size * (left + constraint_window)),  //
                  to_int(y_size * bottom), to_int(y_size * (bottom + constraint_window))};
    window.right = clip(window.right, window.left + 1, x_size);  // at least one cell
    window.top = clip(window.top, window.bottom + 1, y_size);
    return window;
  }

  // Places agents one after the other, each on a random cell that is none of the others' and beside none of theirs.
  // Agent k draws from the random numbers of agent `first + k`.
  METHOD void scatter(int* columns, int* lines, int number, int first, const Window& window) {
    for (int k = 0; k < number; ++k) {
      auto draw = random(first + k);
      const auto suits = [&](int column, int line, Demand demand) {
        if (!is_open(column, line)) return false;
        if (demand == Demand::open) return true;
        if (column < window.left || column >= window.right || line < window.bottom || line >= window.top) return false;
        if (demand == Demand::inside) return true;
        bool alone = true;
        for (int j = 0; j < k; ++j) alone &= abs(columns[j] - column) + abs(lines[j] - line) > 1;
        return alone;
      };
      bool placed = false;
      for (int tries = 0; tries < draws_before_search && !placed; ++tries) {
        columns[k] = window.left + draw.integer(window.right - window.left);
        lines[k] = window.bottom + draw.integer(window.top - window.bottom);
        placed = suits(columns[k], lines[k], Demand::apart);
      }
      for (int demand = 0; demand < 3 && !placed; ++demand)
        placed = pick(draw, columns[k], lines[k],
                      [&](int column, int line) { return suits(column, line, static_cast<Demand>(demand)); });
    }
  }

  // Draws one of the cells that suit; false if there is none.
  template <class Suits>
  METHOD static bool pick(Random& draw, int& column, int& line, Suits suits) {
    int suiting = 0;
    for (int c = 0; c < num_cells; ++c) suiting += suits(c % x_size, c / x_size);
    if (suiting == 0) return false;
    int skip = draw.integer(suiting);
    for (int c = 0; c < num_cells; ++c) {
      if (!suits(c % x_size, c / x_size) || skip-- > 0) continue;
      column = c % x_size;
      line = c / x_size;
      return true;
    }
    return false;
  }
};
