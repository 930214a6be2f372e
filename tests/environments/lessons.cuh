// Players see a context and are paid by one of four rules; see lessons.py.

struct Lessons : Environment {
  METHOD void reset() {
    each(agents, [&](int i) {
      auto draw = random(i);
      context[i] = draw.integer(2);
      secret[i] = draw.integer(2);
      fitted[i] = 0;
    });
  }

  METHOD void step() {
    each(agents, [&](int i) {
      const float fit = fits(i);
      if (time == 1) fitted[i] = fit > 0.5f;
      if (rule == Rule::bandit) reward[i] = fit;
      if (rule == Rule::delayed) reward[i] = time == episode_length ? float(fitted[i]) : 0.0f;
      if (rule == Rule::endless) reward[i] = 1.0f;
      if (rule == Rule::secret) reward[i] = secret[i] == 1 ? 1.0f : -1.0f;
      terminated[i] = terminates && time == episode_length;
      if (rule == Rule::bandit) context[i] = random(i).integer(2);
    });
  }

  // 1 for the best action in this context.
  METHOD float fits(int i) {
    if (actions == Actions::discrete) return action(i) == context[i] ? 1.0f : 0.0f;
    if (actions == Actions::multi_discrete) {
      const float first = action(i, 0) == context[i] ? 0.5f : 0.0f;
      return first + (action(i, 1) == 2 * (1 - context[i]) ? 0.5f : 0.0f);
    }
    // Targets lie off the middle of the space, and far from its bounds, to which actions are clipped.
    return 1.0f - abs(clip(continuous_action(i, 0), 0.0f, 4.0f) - (3.0f - 2.0f * float(context[i])));
  }

  METHOD void observe() {
    each_observation(agents, [&](int i, auto row) {
      const bool delayed = rule == Rule::delayed;
      const bool shown = !delayed || time == 0;
      row[0] = shown && context[i] == 0 ? 1.0f : 0.0f;
      row[1] = shown && context[i] == 1 ? 1.0f : 0.0f;
      row[2] = delayed ? float(time) / float(episode_length) : 0.0f;  // a game without an end has no clock
    });
  }
};
