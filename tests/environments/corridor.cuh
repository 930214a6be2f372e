// A corridor in which not every action is possible everywhere; see corridor.py.

struct Corridor : Environment {
  METHOD void reset() {
    each(agents, [&](int i) {
      place[i] = random(i).integer(length);
      faults[i] = 0;
      if (i == 0) parcel[0] = random(num_agents).integer(length);
    });
  }

  METHOD void step() {
    each(agents, [&](int i) {
      if (guest.has(i)) return;
      const bool lifts = porter.has(i) && action(i, 1) == 1;
      const bool fair = allowed(i, 0, action(i)) && (walker.has(i) || allowed(i, 1, action(i, 1)));
      if (alive[i] && !fair) ++faults[i];
      place[i] = clip(place[i] + moved(action(i)), 0, length - 1);
      reward[i] = lifts ? 1.0f : 0.0f;
      if (walker.has(i) && random(i).uniform() < 0.1f) terminated[i] = true;
    });
    each(agents, [&](int i) {
      if (i == 0) parcel[0] = (parcel[0] + 1) % length;
    });
  }

  METHOD void observe() {
    each_observation(agents, [&](int i, auto row) {
      row[0] = float(place[i]);
      row[1] = float(parcel[0]);
      row[2] = float(time);
    });
  }

  METHOD bool allowed(int i, int component, int choice) {
    if (component == 1) return choice == 0 || place[i] == parcel[0];
    const int to = place[i] + moved(choice);
    return to >= 0 && to < length;
  }

  METHOD static int moved(int choice) { return (choice == 2) - (choice == 1); }
};
