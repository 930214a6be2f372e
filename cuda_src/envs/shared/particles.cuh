// What the particle environments share: bodies in the plane that drive themselves, push each other apart where they
// touch, and are slowed down. Constants and the order of operations are those of mpe2's core.py (the multi-agent
// particle environments of Lowe et al., "Multi-agent actor-critic for mixed cooperative-competitive environments",
// 2017), whose float64 numbers become float32.
#pragma once

struct Vector {
  float x, y;
};

METHOD Vector operator+(Vector a, Vector b) { return {a.x + b.x, a.y + b.y}; }
METHOD Vector operator-(Vector a, Vector b) { return {a.x - b.x, a.y - b.y}; }
METHOD Vector operator*(float scale, Vector a) { return {scale * a.x, scale * a.y}; }

struct Body {
  float radius;
  float strength = 5.0f;             // force of a full action
  float top_speed = Math::infinity;  // per unit of time
};

struct Particles : Environment {
  static constexpr float time_step = 0.1f;
  static constexpr float friction = 0.25f;  // share of the velocity that a step takes
  static constexpr float contact_strength = 100.0f;
  static constexpr float contact_margin = 0.001f;  // over which a contact sets in
  static constexpr int moves = 5;                  // nothing, left, right, down, up

  METHOD Vector position(int i) const { return {x[i], y[i]}; }
  METHOD Vector velocity(int i) const { return {velocity_x[i], velocity_y[i]}; }
  METHOD Vector landmark(int k) const { return {landmark_x[k], landmark_y[k]}; }

  METHOD static float square_length(Vector a) { return square(a.x) + square(a.y); }
  METHOD static float length(Vector a) { return sqrt(square_length(a)); }
  METHOD static bool touch(Vector offset, float reach) { return length(offset) < reach; }

  // Agent j of k = 0, …, num_agents - 2 others of agent i.
  METHOD static int other(int i, int k) { return k < i ? k : k + 1; }

  // ---- start ----

  // Puts all agents at rest anywhere in the square from -1 to 1, and `landmarks` landmarks within ±`landmark_reach`.
  METHOD void scatter(int landmarks, float landmark_reach = 1.0f) {
    each(agents, [&](int i) {
      auto draw = random(i);
      x[i] = draw.uniform(-1.0f, 1.0f);
      y[i] = draw.uniform(-1.0f, 1.0f);
      velocity_x[i] = velocity_y[i] = 0.0f;
      for (int k = i; k < landmarks; k += num_agents) {
        auto place = random(num_agents + k);
        landmark_x[k] = place.uniform(-landmark_reach, landmark_reach);
        landmark_y[k] = place.uniform(-landmark_reach, landmark_reach);
      }
    });
  }

  // One of 0, …, count - 1, the `which`-th such choice in a start that scatters `landmarks` landmarks.
  METHOD int choose(int count, int landmarks, int which = 0) const {
    return random(num_agents + landmarks + which).integer(count);
  }

  // ---- actions ----

  // Where agent i's action drives it, at most 1 in either direction.
  METHOD Vector drive(int i) const {
    if constexpr (continuous_actions) return {share(i, 2) - share(i, 1), share(i, 4) - share(i, 3)};
    const int move = action(i) % moves;
    return {float(move == 2) - float(move == 1), float(move == 4) - float(move == 3)};
  }

  // How much of word k agent i says; its words come after `before` continuous or multiply `before` discrete actions.
  METHOD float word(int i, int k, int before = moves) const {
    if constexpr (continuous_actions) return share(i, before + k);
    return action(i) / Math::max(before, 1) == k;
  }

  METHOD float share(int i, int component) const { return clip(continuous_action(i, component), 0.0f, 1.0f); }

  // ---- physics ----

  // Moves agent i by its velocity; then a force changes that.
  METHOD void move(int i, Vector force, float top_speed = infinity, float mass = 1.0f) {
    x[i] += velocity_x[i] * time_step;
    y[i] += velocity_y[i] * time_step;
    Vector changed = (1.0f - friction) * velocity(i) + time_step * Vector{force.x / mass, force.y / mass};
    if (top_speed < infinity) {
      const float speed = length(changed);
      if (speed > top_speed) changed = {changed.x / speed * top_speed, changed.y / speed * top_speed};
    }
    velocity_x[i] = changed.x;
    velocity_y[i] = changed.y;
  }

  // The force on a body that lies `offset` from another one, which it touches from a distance of `reach`. At distance 0
  // the original's force is no number; here it is none.
  METHOD Vector contact(Vector offset, float reach) const {
    const float distance = length(offset);
    const float depth = (reach - distance) / contact_margin;
    if (depth < -18.0f || !(distance > 0.0f)) return {0.0f, 0.0f};  // beyond it the logarithm below rounds to 0
    const float softened = max(depth, 0.0f) + log(1.0f + exp(-abs(depth)));  // log(1 + exp(depth))
    return contact_strength * contact_margin * softened / distance * offset;
  }

  // Whether bodies that lie so far apart may push each other; a cheap test, with a slack that covers its rounding.
  METHOD static bool near(Vector offset, float reach) {
    return square_length(offset) < square(reach + 20.0f * contact_margin);
  }

  // One step of bodies that push each other, and are pushed by the first `obstacles` landmarks, which stay where they
  // are. body(i) describes agent i; force_x and force_y [num_agents] are what one loop leaves for the next.
  template <class Describe>
  METHOD void push_and_move(Describe body, float* force_x, float* force_y, int obstacles = 0,
                            float obstacle_radius = 0.0f) {
    const auto offset = [&](int i, int k) {
      return position(i) - (k < num_agents - 1 ? position(other(i, k)) : landmark(k - (num_agents - 1)));
    };
    const auto reach = [&](int i, int k) {
      return body(i).radius + (k < num_agents - 1 ? body(other(i, k)).radius : obstacle_radius);
    };
    each(agents, [&](int i) {
      const Vector force = body(i).strength * drive(i);
      force_x[i] = force.x;
      force_y[i] = force.y;
    });
    each_chosen(
        agents, num_agents - 1 + obstacles, [&](int i, int k) { return near(offset(i, k), reach(i, k)); },
        [&](int i, int k) {
          const Vector force = contact(offset(i, k), reach(i, k));
          force_x[i] += force.x;
          force_y[i] += force.y;
        });
    each(agents, [&](int i) { move(i, {force_x[i], force_y[i]}, body(i).top_speed); });
  }

  // What a coordinate beyond the playing field costs.
  METHOD static float outside(float coordinate) {
    const float far = abs(coordinate);
    if (far < 0.9f) return 0.0f;
    return far < 1.0f ? (far - 0.9f) * 10.0f : min(exp(2.0f * far - 2.0f), 10.0f);
  }

  // ---- observations ----

  template <class Row>
  METHOD static void write(Row& row, int at, Vector value) {
    row[at] = value.x;
    row[at + 1] = value.y;
  }

  // Calls visit(slot, k, offset) for each slot of an observation of `count` bodies, body k lying at offset(k): for all
  // in order, or with a `limit` for so many of the nearest, nearest first (ties to the lowest index). In slots that are
  // left over, and for bodies that are infinitely far away, k is -1 and the offset 0.
  template <class Row, class Offset, class Visit>
  METHOD void each_seen(Row& row, int count, int limit, Offset offset, Visit visit) const {
    if (limit == 0)
      row.each(count, [&](int k) { visit(k, k, offset(k)); });
    else if (4 * limit >= count)
      each_ranked(count, limit, offset, visit);
    else
      each_nearest(count, limit, offset, visit);
  }

  // Comparing all bodies with all needs no branches, which pays unless few of many are wanted.
  template <class Offset, class Visit>
  METHOD void each_ranked(int count, int limit, Offset offset, Visit visit) const {
    for (int k = 0; k < count; ++k) {
      const float distance = square_length(offset(k));
      int rank = 0;
      for (int j = 0; j < count; ++j) {
        const float of_other = square_length(offset(j));
        rank += int(of_other < distance) | (int(of_other == distance) & int(j < k));
      }
      if (rank < limit) visit_seen(rank, distance < infinity ? k : -1, offset, visit);
    }
    for (int slot = count; slot < limit; ++slot) visit_seen(slot, -1, offset, visit);
  }

  template <class Offset, class Visit>
  METHOD void each_nearest(int count, int limit, Offset offset, Visit visit) const {
    float past = -1.0f;  // square of the distance, and index, of the body before
    int before = -1;
    for (int slot = 0; slot < limit; ++slot) {
      float least = infinity;
      int closest = -1;
      for (int k = 0; k < count; ++k) {
        const float distance = square_length(offset(k));
        const bool later = distance > past || (distance == past && k > before);
        if (!later || !(distance < least)) continue;
        least = distance;
        closest = k;
      }
      visit_seen(slot, closest, offset, visit);
      past = least;
      before = closest;
    }
  }

  template <class Offset, class Visit>
  METHOD static void visit_seen(int slot, int k, Offset& offset, Visit& visit) {
    visit(slot, k, k < 0 ? Vector{0.0f, 0.0f} : offset(k));
  }
};
