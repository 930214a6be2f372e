// Runs the GPU's search for nearest agents on a CPU, a thread for each lane, and compares it with everyone looking at
// each; reductions as well, with those of one thread. What lanes do together is done over barriers of threads
// (cuda_on_threads.cuh). Where each phase is a launch of its own (PHASED), the threads play the blocks of a launch in
// turn.
//
// The layout of memory comes as macros, from the package itself.
#include <algorithm>
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <type_traits>
#include <vector>

#include "cuda_on_threads.cuh"
#include "engine/range.cuh"

constexpr int ROUNDS = 2;  // over all ways to stand

struct Geometry {
  static constexpr int num_agents = NUM_AGENTS, warps = WARPS, searching_warps = WARPS, threads = 32 * WARPS,
                       row_lanes = 4;
  static constexpr int blocks = PHASED ? (NUM_AGENTS + threads - 1) / threads : 1, lanes = blocks * threads;
  static constexpr int neighbors = NEIGHBORS, longest_list = LONGEST_LIST, scratch_words = 512;
  static constexpr int candidates = CANDIDATES, most_cells = MOST_CELLS, positions_at = POSITIONS_AT,
                       lists_at = LISTS_AT, warp_stage_floats = WARP_STAGE_FLOATS;
  static constexpr int carried = CARRIED, vicinity_at = VICINITY_AT, vicinity_bytes = VICINITY_BYTES;
  static constexpr float agents_per_cell = AGENTS_PER_CELL;
  static constexpr bool staged = !VISITED && !PHASED, phased = PHASED, grouped = false;
};

#if PHASED
#include "engine/team_phased.cuh"
#else
#include "engine/team_cuda.cuh"
#endif
#include "engine/search_together.cuh"

constexpr int K = NEIGHBORS;
constexpr FixedRange<(NUM_AGENTS - AMONG) / 2, AMONG> among{};

static float x[NUM_AGENTS], y[NUM_AGENTS];
static bool eligible[NUM_AGENTS], asking[NUM_AGENTS];

struct Answer {
  int found;
  int agent[K];
};
static Answer answer[NUM_AGENTS];
static std::atomic<int> visits[NUM_AGENTS];
static std::atomic<bool> announced[NUM_AGENTS];

// What is sorted with the agents.
static unsigned state_of(int i, int k) { return 1000003u * static_cast<unsigned>(i) + k; }

static bool has_state(SortedAgent agent, int i) {
  for (int k = 0; k < CARRIED; ++k)
    if (agent.word(SortedAgent::fields_at + k) != state_of(i, k)) return false;
  return agent == i;
}

static float value[NUM_AGENTS];

// What reductions over a part of the agents are.
struct Totals {
  float sum = 0, sum_of_all = 0;
  int count = 0, argmin = 0;
  bool any = false, any_at_all = true;

  bool operator==(const Totals&) const = default;
};
static Totals totals;

// A number of agents that is no multiple of 32, none of them the first.
constexpr FixedRange<5, NUM_AGENTS - 9> some{};

#if PHASED
constexpr int SEARCHING = 5;                        // the phase in which warps search
constexpr int LEFT = 6;                             // the word that says how much there is to do
constexpr int PART = VISITED || LISTED ? 32 : 128;  // agents that a warp takes at a time
#endif

// How many blocks play the lanes' part of a phase. Where warps search, there is a warp for each part of what is left.
static int blocks_of([[maybe_unused]] int phase, [[maybe_unused]] const unsigned* words) {
#if PHASED
  const int of_block = PART * WARPS;
  if (phase == SEARCHING) return (static_cast<int>(words[LEFT]) + of_block - 1) / of_block;
#endif
  return Geometry::blocks;
}

struct Lane : Searcher {
  // The lane's part of a phase, as one of a block of the team. Where warps search, each of the nth block takes a part.
  int search([[maybe_unused]] int nth, int block, [[maybe_unused]] int phase, float limit, unsigned char* team_memory,
             unsigned char* warp_memory, float* scratch, [[maybe_unused]] unsigned* words) {
    lane_ = Geometry::threads * block + thread;
    active_ = true;
    scratch_ = scratch;
    search_memory_ = team_memory;
    warp_memory_ = warp_memory;
#if PHASED
    first_ = phase;
    end_ = phase + 1;
    words_ = words;
    part_ = phase == SEARCHING ? WARPS * nth + thread / 32 : -1;
#endif
    const auto is_eligible = [](int j) { return eligible[j]; };
    const Search<K, decltype(among), decltype(is_eligible)> what{among, x, y, limit, is_eligible};
    const auto asks = [](int i) { return asking[i]; };
    const auto note = [](int i, const auto& found) {
      ++visits[i];
      answer[i].found = found.found;
      for (int k = 0; k < found.found; ++k) answer[i].agent[k] = found[k];
    };
    if constexpr (VISITED) {
      search_in_cells(
          what, asks, NUM_AGENTS,
          [](int j, int nth, std::uint32_t* word) {
            for (int k = 0; k < CARRIED; ++k)
              if (nth == (SortedAgent::fields_at + k) / 4) word[(SortedAgent::fields_at + k) % 4] = state_of(j, k);
          },
          [](int i) {
            if (i >= 0) announced[i] = true;
          },
          [&](int i, int place, const Nearest<K>& found, const auto& cells) {
            if (i < 0 || !announced[i]) return;
            note(i, cells.agents(found));
            bool is_right = has_state({cells.records(), place}, i);
            for (int k = 0; k < found.found; ++k)
              is_right &= has_state({cells.records(), found.index[k]}, answer[i].agent[k]);
            if (!is_right) ++visits[i];
          },
          [&](int first, const auto& cells) {
            const int i = first + lane_ % 32;
            Nearest<K> nobody;
            nobody.found = 0;
            if (i < NUM_AGENTS && !(asks(i) && (cells.lost == 0 || is_somewhere(what, i)))) note(i, nobody);
          });
    } else {
      constexpr Range all{0, NUM_AGENTS};
      const auto visit_all = [&](const auto& prepared) {
        if constexpr (is_task_of_warps<std::decay_t<decltype(prepared)>>)
          each_in_cells(all, prepared, asks, note);
        else
          each(all, [&](int i) {
            decltype(prepared.of(i)) found;
            found.found = 0;
            if (asking[i]) found = prepared.of(i);
            note(i, found);
          });
      };
      visit_all(prepare<LISTED>(what, all, asks));
    }
    Totals found;
    side_by_side<5>([&](int call) {
      if (call == 0) found.sum = sum(some, [](int i) { return value[i]; });
      if (call == 1) found.count = count(some, [](int i) { return eligible[i]; });
      if (call == 2) found.sum_of_all = sum(Range{0, NUM_AGENTS}, [](int i) { return value[i]; });
      if (call == 3) found.argmin = argmin(some, [](int i) { return std::round(value[i]); });
      if (call == 4) found.any = any(some, [](int i) { return asking[i]; });
    });
    found.any_at_all = any(some, [](int i) { return value[i] > 1000; });
    if (is_leader()) totals = found;
#if PHASED
    if (is_leader()) clear_words();
    return phase_ + 1;
#else
    return 1;
#endif
  }
};

// In the order that the engine promises.
static float tree_sum(std::vector<float> values) {
  while (values.size() > 1) {
    std::vector<float> sums;
    for (std::size_t first = 0; first < values.size(); first += 32) {
      std::vector<float> part(values.begin() + first, values.begin() + std::min(first + 32, values.size()));
      for (std::size_t half = 16; half > 0; half /= 2)
        for (std::size_t k = 0; k + half < part.size(); ++k) part[k] += part[k + half];
      sums.push_back(part[0]);
    }
    values = sums;
  }
  return values[0];
}

static bool are_totals_wrong() {
  Totals expected{.sum = tree_sum({value + some.first, value + some.end()}),
                  .sum_of_all = tree_sum({value, value + NUM_AGENTS}),
                  .argmin = some.first,
                  .any_at_all = false};
  for (int i = some.first; i < some.end(); ++i) {
    expected.count += eligible[i] ? 1 : 0;
    expected.any |= asking[i];
    if (std::round(value[i]) < std::round(value[expected.argmin])) expected.argmin = i;
  }
  return !(totals == expected);
}

static bool is_wrong(int i, float limit) {
  if (visits[i] != 1) return true;
  if (!asking[i]) return answer[i].found != 0;
  const auto is_eligible = [](int j) { return eligible[j]; };
  const auto expected = find_nearest(i, Search<K, Range, decltype(is_eligible)>{among, x, y, limit, is_eligible});
  return expected.found != answer[i].found ||
         !std::equal(answer[i].agent, answer[i].agent + expected.found, expected.index);
}

constexpr int LAYOUTS = 16;

static void place(int i, int layout, float a, float b, float c) {
  const auto set = [&](float to_x, float to_y) {
    x[i] = to_x;
    y[i] = to_y;
  };
  switch (layout) {
    case 0:
      return set(64 * a, 64 * b);  // anywhere
    case 1:
      return set(4 * std::floor(12 * a), 4 * std::floor(12 * b));  // on a lattice
    case 2:
      return set(64 * std::round(a), 64 * std::round(b));  // in corners
    case 3:
      return set(19.2f, 19.2f);  // at one point
    case 4:
      return set(a < .02f ? 3200 * a : 1 + 1e-3f * a, b < .02f ? 3200 * b : 1 + 1e-3f * b);  // a crowd, and strays
    case 5:
      return set(64 * a, 64 * a);  // on a diagonal
    case 6:
      return set(0, 64 * b);  // on a line
    case 7:
      return set(1e6f + 64 * a, -3e6f + 64 * b);  // far from the origin
    case 8:
      return set(i % 7 == 0 ? NAN : 64 * a, i % 11 == 3 ? INFINITY : 64 * b);  // some nowhere
    case 9:
      return set(std::exp(60 * (a - .5f)) * (b - .5f), std::exp(60 * (a - .5f)) * (c - .5f));  // of all scales
    case 10:
      return set(1e-40f * a, 1e-40f * b);  // hardly apart
    case 11:
      return set(i % 2 * 1e20f + 1e19f * a, 1e19f * b);  // squares overflow
    case 12:
      return set(std::round(30 * a) * 0.25f + 1000, std::round(30 * b) * 0.25f - 1000);  // a fine lattice
    case 13:
      return set(1e36f, 1e-3f * b);  // on a line that lies far out
    case 14:
      return set(3e38f, 64 * b);
    default:
      return set(1e10f * (a - .5f), 1e10f * (b - .5f));  // a wide field
  }
}

int main() {
  static float limit;
  static bool over = false, backwards = false;
  constexpr int blocks = Geometry::blocks;
  std::vector<float> scratch(1024);
  std::vector<unsigned> words(256);
  std::unique_ptr<unsigned char, decltype(&std::free)> team_memory(
      static_cast<unsigned char*>(std::aligned_alloc(16, SEARCH_BYTES)), &std::free);
  const std::size_t warp_bytes = 4 * Geometry::warp_stage_floats;
  std::unique_ptr<unsigned char, decltype(&std::free)> warp_memory(
      static_cast<unsigned char*>(std::aligned_alloc(16, WARPS * warp_bytes)), &std::free);
  std::barrier<> turn(32 * WARPS + 1);
  std::vector<std::thread> lanes;
  for (int t = 0; t < 32 * WARPS; ++t)
    lanes.emplace_back([&, t] {
      thread = t;
      for (;;) {
        turn.arrive_and_wait();
        if (over) return;
        int phases = 1;
        for (int phase = 0; phase < phases; ++phase) {
          for (int nth = 0; nth < blocks_of(phase, words.data()); ++nth) {
            Lane lane;
            phases =
                lane.search(nth, backwards ? blocks - 1 - nth % blocks : nth % blocks, phase, limit, team_memory.get(),
                            warp_memory.get() + t / 32 * warp_bytes, scratch.data(), words.data());
            __syncthreads();
          }
        }
        turn.arrive_and_wait();
      }
    });

  std::mt19937 bits(1);
  const auto draw = [&] { return static_cast<float>(bits() >> 8) * 0x1p-24f; };
  int wrong_cases = 0, cases = 0;
  for (; cases < ROUNDS * LAYOUTS; ++cases) {
    const int layout = cases % LAYOUTS;
    const int who = (cases + cases / LAYOUTS) % 4, reach = (cases / 2 + cases / LAYOUTS) % 3;
    for (int i = 0; i < NUM_AGENTS; ++i) {
      place(i, layout, draw(), draw(), draw());
      visits[i] = 0;
      announced[i] = false;
      const float chance = who == 0 ? 1.0f : who == 1 ? 0.7f : who == 2 ? 0.02f : 0.6f;
      eligible[i] = draw() < chance;
      value[i] = 40 * draw() - 8;
      asking[i] = who == 2 || (who == 3 ? draw() < 0.5f : eligible[i]);
    }
    const float within = reach == 0 ? INFINITY : reach == 1 ? 2.0f : 0.3f;
    limit = within * within;
    backwards = cases % 2 == 0;
    turn.arrive_and_wait();
    turn.arrive_and_wait();
    int wrong = are_totals_wrong() ? 1 : 0;
    for (int i = 0; i < NUM_AGENTS; ++i) wrong += is_wrong(i, limit) ? 1 : 0;
    if (wrong == 0) continue;
    ++wrong_cases;
    std::printf("layout %d, eligible %d, reach %d: %d agents found others\n", layout, who, reach, wrong);
  }
  over = true;
  turn.arrive_and_wait();
  for (std::thread& lane : lanes) lane.join();
  std::printf("%d of %d cases are wrong\n", wrong_cases, cases);
  return wrong_cases == 0 ? 0 : 1;
}
