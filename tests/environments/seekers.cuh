// Nobody moves; everybody observes the numbers of the nearest, -1 where there is none.

struct Seekers : Environment {
  METHOD void reset() {
    each(agents, [&](int i) {
      auto draw = random(i);
      x[i] = draw.uniform();
      y[i] = draw.uniform();
      visible[i] = 1;
    });
  }

  METHOD void step() {}

  METHOD void observe() {
    const auto nearby = nearest<neighbors_observed>(hider, x, y, [&](int j) { return visible[j] != 0; }, within);
    each_observation(agents, nearby, [&](int i, auto row, auto near) {
      (void)i;
      row.each(neighbors_observed, [&](int k) {
        const int found = near[k];  // any number, if that is nobody
        row[k] = k < near.found ? float(found) : -1.0f;
      });
    });
  }
};
