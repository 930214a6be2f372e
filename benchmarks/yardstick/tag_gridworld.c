// The rules of tag_gridworld as one plain loop, the way one writes them by hand for one game and one processor.
//
// Compiled with -DTAGGERS=<number> and -DFULL=<0 or 1>. A copy whose episode is over starts again in the same step; its
// last observation then goes to `final_observation`.
#include <stdbool.h>
#include <stdint.h>

enum { AGENTS = TAGGERS + 1, RUNNER = TAGGERS, ROW = FULL ? 4 * AGENTS + 1 : 6 };

// All arrays begin with the copies.
typedef struct {
  int32_t* x;                // [copies, AGENTS]
  int32_t* y;                // [copies, AGENTS]
  int32_t* time;             // [copies]
  uint64_t* random;          // [copies] never zero
  float* returns;            // [copies, 2] sums of the taggers' and of the runner's rewards in this episode
  float* episode_return;     // [copies, 2] means over the taggers and the runner at the last episode's end
  float* episode_length;     // [copies]
  float* observation;        // [copies, AGENTS, ROW]
  float* final_observation;  // [copies, AGENTS, ROW]
  float* reward;             // [copies, AGENTS]
  bool* terminated;          // [copies, AGENTS]
  bool* truncated;           // [copies]
  bool* done;                // [copies]
  int64_t copies;
  int32_t threads;
  int32_t grid_length;
  int32_t episode_length_limit;
  float wall_hit_penalty;
  float tag_reward_for_tagger;
  float tag_penalty_for_runner;
  float step_cost_for_tagger;
} Game;

static int clamp(int value, int most) { return value < 0 ? 0 : value > most ? most : value; }

static uint32_t draw(uint64_t* state) {  // xorshift64*
  uint64_t s = *state;
  s ^= s >> 12;
  s ^= s << 25;
  s ^= s >> 27;
  *state = s;
  return (uint32_t)((s * 0x2545F4914F6CDD1DULL) >> 32);
}

static int draw_cell(uint64_t* state, int grid_length) {
  return (int)(((uint64_t)draw(state) * (uint32_t)(grid_length + 1)) >> 32);
}

static void observe(const Game* game, const int32_t* x, const int32_t* y, int time, float* row) {
  const float scale = 1.0f / (float)game->grid_length;
  const float clock = (float)time / (float)game->episode_length_limit;
#if FULL
  for (int i = 0; i < AGENTS; ++i, row += ROW) {
    for (int j = 0; j < AGENTS; ++j) {
      row[j] = (float)x[j] * scale;
      row[AGENTS + j] = (float)y[j] * scale;
      row[2 * AGENTS + j] = j == RUNNER ? 1.0f : 0.0f;
      row[3 * AGENTS + j] = j == i ? 1.0f : 0.0f;
    }
    row[4 * AGENTS] = clock;
  }
#else
  int hunter = 0, nearest = INT32_MAX;
  for (int i = 0; i < TAGGERS; ++i) {
    const int dx = x[i] - x[RUNNER], dy = y[i] - y[RUNNER], distance = dx * dx + dy * dy;
    if (distance < nearest) {
      nearest = distance;
      hunter = i;
    }
  }
  for (int i = 0; i < AGENTS; ++i, row += ROW) {
    const int opponent = i == RUNNER ? hunter : RUNNER;
    row[0] = (float)x[i] * scale;
    row[1] = (float)y[i] * scale;
    row[2] = (float)x[opponent] * scale;
    row[3] = (float)y[opponent] * scale;
    row[4] = i == RUNNER ? 1.0f : 0.0f;
    row[5] = clock;
  }
#endif
}

static void start_copy(const Game* game, int64_t copy) {
  int32_t *x = game->x + copy * AGENTS, *y = game->y + copy * AGENTS;
  for (int i = 0; i < AGENTS; ++i) {
    x[i] = draw_cell(&game->random[copy], game->grid_length);
    y[i] = draw_cell(&game->random[copy], game->grid_length);
  }
  game->time[copy] = 0;
  game->returns[2 * copy] = game->returns[2 * copy + 1] = 0.0f;
}

static void step_copy(const Game* game, int64_t copy, const int32_t* tagger_moves, int32_t runner_move) {
  static const int to_x[5] = {0, 1, -1, 0, 0}, to_y[5] = {0, 0, 0, 1, -1};
  int32_t *x = game->x + copy * AGENTS, *y = game->y + copy * AGENTS;
  float* reward = game->reward + copy * AGENTS;
  bool* terminated = game->terminated + copy * AGENTS;
  float* row = game->observation + copy * AGENTS * ROW;

  bool caught = false;
  for (int i = 0; i < AGENTS; ++i) {
    const int move = i == RUNNER ? runner_move : tagger_moves[i];
    const int new_x = x[i] + to_x[move], new_y = y[i] + to_y[move];
    x[i] = clamp(new_x, game->grid_length);
    y[i] = clamp(new_y, game->grid_length);
    reward[i] = x[i] != new_x || y[i] != new_y ? -game->wall_hit_penalty : 0.0f;
  }
  for (int i = 0; i < TAGGERS; ++i) caught |= x[i] == x[RUNNER] && y[i] == y[RUNNER];

  float taggers_reward = 0.0f;
  for (int i = 0; i < TAGGERS; ++i) {
    reward[i] += caught ? game->tag_reward_for_tagger : -game->step_cost_for_tagger;
    taggers_reward += reward[i];
  }
  reward[RUNNER] += caught ? -game->tag_penalty_for_runner : game->step_cost_for_tagger;
  for (int i = 0; i < AGENTS; ++i) terminated[i] = caught;
  game->returns[2 * copy] += taggers_reward;
  game->returns[2 * copy + 1] += reward[RUNNER];

  const int time = ++game->time[copy];
  game->truncated[copy] = time >= game->episode_length_limit;
  game->done[copy] = caught || game->truncated[copy];
  if (!game->done[copy]) {
    observe(game, x, y, time, row);
    return;
  }
  observe(game, x, y, time, game->final_observation + copy * AGENTS * ROW);
  game->episode_return[2 * copy] = game->returns[2 * copy] / TAGGERS;
  game->episode_return[2 * copy + 1] = game->returns[2 * copy + 1];
  game->episode_length[copy] = (float)time;
  start_copy(game, copy);
  observe(game, x, y, 0, row);
}

void reset(const Game* game) {
#pragma omp parallel for schedule(static) num_threads(game->threads)
  for (int64_t copy = 0; copy < game->copies; ++copy) {
    start_copy(game, copy);
    observe(game, game->x + copy * AGENTS, game->y + copy * AGENTS, 0, game->observation + copy * AGENTS * ROW);
  }
}

// Actions are [copies, TAGGERS] and [copies]: stay, +x, -x, +y, -y.
void step(const Game* game, const int32_t* tagger_moves, const int32_t* runner_moves) {
#pragma omp parallel for schedule(static) num_threads(game->threads)
  for (int64_t copy = 0; copy < game->copies; ++copy)
    step_copy(game, copy, tagger_moves + copy * TAGGERS, runner_moves[copy]);
}
