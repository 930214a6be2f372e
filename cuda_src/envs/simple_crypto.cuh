// Messages with a key, and an eavesdropper. Parameters, groups and state are declared in
// gpu_marl_envs/envs/simple_crypto.py.

struct SimpleCrypto : Environment {
  static constexpr int words = 4;
  static constexpr int messages = 2;

  METHOD void reset() {
    each(agents, [&](int i) {
      for (int k = 0; k < words; ++k) communication[words * i + k] = 0.0f;
      auto draw = random(i);
      if (alice.has(i)) goal[0] = draw.integer(messages);
      if (alice.has(i)) private_key[0] = draw.integer(messages);
    });
  }

  METHOD void step() {
    each(agents, [&](int i) {
      for (int k = 0; k < words; ++k) communication[words * i + k] = said(i, k);
    });
    each(agents, [&](int i) {
      const float overheard = error(eve.first);
      reward[i] = eve.has(i) ? -overheard : overheard - error(bob.first);
    });
  }

  METHOD float said(int i, int k) const {
    if constexpr (continuous_actions) return clip(continuous_action(i, k), 0.0f, 1.0f);
    return action(i) == k;
  }

  // How far agent i's word is from the message; nothing if it says nothing.
  METHOD float error(int i) const {
    float total = 0.0f;
    bool silent = true;
    for (int k = 0; k < words; ++k) {
      total += square(communication[words * i + k] - float(k == goal[0]));
      silent = silent && communication[words * i + k] == 0.0f;
    }
    return silent ? 0.0f : total;
  }

  METHOD void observe() {
    each_observation(agents, [&](int i, auto row) {
      for (int k = 0; k < words; ++k) {
        const float heard = communication[words * alice.first + k];
        if (alice.has(i)) row[k] = k == goal[0];
        if (bob.has(i)) row[words + k] = heard;
        if (eve.has(i))
          row[k] = heard;
        else
          row[alice.has(i) * words + k] = k == private_key[0];
      }
    });
  }
};
