// Collectors that carry treasures to deposits. Parameters, groups and state are declared in
// gpu_marl_envs/envs/collect_treasure.py.
#include "shared/particles.cuh"

struct CollectTreasure : Particles {
  static constexpr float collector_radius = 0.05f, deposit_radius = 0.075f, treasure_radius = 0.025f;
  static constexpr float treasure_reach = 0.95f;  // of the coordinates of treasures
  static constexpr int types = num_deposits;
  static constexpr int nothing = -1;  // type of a treasure that is gone, and of what empty hands hold

  METHOD void reset() {
    scatter(num_treasures, treasure_reach);
    each(agents, [&](int i) {
      holding[i] = nothing;
      for (int k = i; k < num_treasures; k += num_agents) treasure[k] = choose(types, num_treasures, k);
    });
  }

  METHOD void step() {
    each(agents, [&](int i) { move(i, 1.5f * drive(i), 1.0f, collector.has(i) ? 1.0f : 2.25f); });
    each(agents, [&](int i) {
      if (i == 0) bonus[0] = pick_up() + deliver();  // who comes first gets it: one after another
    });
    const Vector middle{sum(collector, [&](int i) { return x[i]; }) / float(num_collectors),
                        sum(collector, [&](int i) { return y[i]; }) / float(num_collectors)};
    each(agents, [&](int i) {
      const float way = collector.has(i) ? way_of_collector(i) : way_of_deposit(i, middle);
      reward[i] = bonus[0] - 0.1f * way - 5.0f * (collector.has(i) ? float(overlaps(i)) : 0.0f);
    });
  }

  // Collectors take treasures, and those that were gone come back elsewhere. Returns the reward that all get for it.
  METHOD float pick_up() {
    float gain = 0.0f;
    for (int k = 0; k < num_treasures; ++k) {
      if (treasure[k] == nothing) {
        auto draw = random(num_agents + k);
        landmark_x[k] = draw.uniform(-treasure_reach, treasure_reach);
        landmark_y[k] = draw.uniform(-treasure_reach, treasure_reach);
        treasure[k] = draw.integer(types);
        continue;
      }
      for (int i = collector.first; i < collector.end() && treasure[k] != nothing; ++i) {
        const bool there = touch(position(i) - landmark(k), collector_radius + treasure_radius);
        if (holding[i] != nothing || !there) continue;
        holding[i] = treasure[k];
        treasure[k] = nothing;
        gain += 5.0f;
      }
    }
    return gain;
  }

  METHOD float deliver() {
    float gain = 0.0f;
    for (int i = collector.first; i < collector.end(); ++i) {
      if (holding[i] == nothing) continue;
      const Vector offset = position(i) - position(deposit.first + holding[i]);
      if (!touch(offset, collector_radius + deposit_radius)) continue;
      holding[i] = nothing;
      gain += 5.0f;
    }
    return gain;
  }

  // From a collector to the nearest treasure, or if it holds one to the deposit for that.
  METHOD float way_of_collector(int i) const {
    if (holding[i] != nothing) return length(position(deposit.first + holding[i]) - position(i));
    float least = infinity;
    for (int k = 0; k < num_treasures; ++k)
      if (treasure[k] != nothing) least = min(least, length(landmark(k) - position(i)));
    return least < infinity ? least : 0.0f;
  }

  // From a deposit to the nearest collector with a treasure for it, or without one to the middle of all collectors.
  METHOD float way_of_deposit(int i, Vector middle) const {
    float least = infinity;
    for (int j = collector.first; j < collector.end(); ++j)
      if (holding[j] == i - deposit.first) least = min(least, length(position(j) - position(i)));
    return least < infinity ? least : length(middle - position(i));
  }

  METHOD int overlaps(int i) const {
    int touched = 0;
    for (int j = collector.first; j < collector.end(); ++j)
      touched += j != i && touch(position(i) - position(j), collector_radius + collector_radius);
    return touched;
  }

  METHOD void observe() {
    constexpr int others = num_agents - 1, of_other = 4 + 2 * types, of_treasure = 2 + types;
    each_observation(agents, [&](int i, auto row) {
      write(row, 0, position(i));
      write(row, 2, velocity(i));
      for (int type = 0; type < types && collector.has(i); ++type) row[4 + type] = holding[i] == type;
      const int first = collector.has(i) ? 4 + types : 4;
      each_seen(
          row, others, others, [&](int k) { return position(other(i, k)) - position(i); },
          [&](int slot, int k, Vector offset) {
            const int at = first + of_other * slot, j = other(i, k);
            write(row, at, offset);
            write(row, at + 2, velocity(j));
            for (int type = 0; type < types; ++type) {
              row[at + 4 + type] = j == deposit.first + type;
              row[at + 4 + types + type] = holding[j] == type;
            }
          });
      each_seen(
          row, num_treasures, num_treasures,
          [&](int k) { return treasure[k] == nothing ? Vector{infinity, infinity} : landmark(k) - position(i); },
          [&](int slot, int k, Vector offset) {
            const int at = first + of_other * others + of_treasure * slot;
            write(row, at, offset);
            for (int type = 0; type < types; ++type) row[at + 2 + type] = k >= 0 && treasure[k] == type;
          });
    });
  }
};
