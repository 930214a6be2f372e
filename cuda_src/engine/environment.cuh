// What an environment's dynamics see of one copy, and the course of an episode around them.
//
// An environment derives from Environment and defines three functions:
//   void reset()     sets the state at the start of an episode;
//   void step()      advances the state by one step; adds to reward[i], sets terminated[i];
//   void observe()   calls each_observation to write what the agents see;
// and, where a group masks actions,
//   bool allowed(int i, int component, int choice)   says what agent i may choose next.
// Their calls of each, each_chosen, any, count, sum, argmin and each_observation are barriers for many copies at once:
// every copy must come to the same calls in the same order, so conditions go inside a loop, not around it. Declared
// (generated from the Python declaration) brings the parameters, the groups as ranges of agents, and the state fields
// as arrays over the agents of this copy.
#pragma once

#include <type_traits>

#include "chosen.cuh"
#include "math.cuh"
#include "nearest.cuh"
#include "observation.cuh"
#include "portable.cuh"
#include "random.cuh"
#include "range.cuh"

class Environment : public Declared, public Math, public Searcher {
 public:
  // ---- for the dynamics ----

  int time;          // steps taken in this episode, this one included
  bool* alive;       // [num_agents] in the game at the start of this step
  float* reward;     // [num_agents] zero at the start of a step; stays zero for agents out of the game
  bool* terminated;  // [num_agents] set it, and the agent leaves the game after observing this step's outcome

  // Component `component` of agent i's discrete action, always within its action space.
  METHOD int action(int i, int component = 0) const {
    const int g = group_of(i), at = action_index(g, i, component);
    if (Geometry::actions_staged)
      return within_space(g, component, actions_[action_slab(g) + team_ * action_size(g) + at]);
    const std::size_t global = copy_ * action_size(g) + at;
    const void* all = arguments_->action[g];
    if (arguments_->action_bytes[g] == 1)
      return within_space(g, component, static_cast<const std::uint8_t*>(all)[global]);
    if (arguments_->action_bytes[g] == 4)
      return within_space(g, component, static_cast<const std::int32_t*>(all)[global]);
    return within_space(g, component, static_cast<const std::int64_t*>(all)[global]);
  }

  // Component `component` of agent i's continuous action, as given: clip it before use.
  METHOD float continuous_action(int i, int component = 0) const {
    const int g = group_of(i), at = action_index(g, i, component);
    if (Geometry::actions_staged)
      return portable::bit_cast<float>(actions_[action_slab(g) + team_ * action_size(g) + at]);
    return static_cast<const float*>(arguments_->action[g])[copy_ * action_size(g) + at];
  }

  // Random numbers of agent i in this step of this copy's episode.
  METHOD Random random(int i) const {
    return Random(reseeding_ ? copy_key(seed(), copy_) : static_cast<std::uint64_t>(key()), episode(), time, i);
  }

  // Random numbers of agent i that are the same in every copy and episode under one seed.
  METHOD Random common_random(int i) const { return Random(seed(), -1, 0, i); }

  // The K agents of a range nearest to agent i, itself apart, for which eligible(j) holds. For few agents; a search
  // that all agents make together (below) is faster for many.
  template <int K, class Agents, class Eligible>
  METHOD Nearest<K> nearest(int i, Agents among, const float* x, const float* y, Eligible eligible) const {
    return find_nearest(i, Search<K, Agents, Eligible>{among, x, y, infinity, eligible});
  }

  // What each or each_observation is to find for every agent that it visits: the K agents of a range nearest to it,
  // itself apart, for which eligible(j) holds and that are closer than `within`.
  template <int K, class Agents, class Eligible>
  METHOD Search<K, Agents, Eligible> nearest(Agents among, const float* x, const float* y, Eligible eligible,
                                             float within = infinity) const {
    return {among, x, y, within * within, eligible};
  }

  using Team::each;

  // Calls visit(i, k) for every agent i of the range and each k = 0, …, count - 1 that chosen(i, k) holds for, in order
  // of k. A visit may do for agent i what one of `each` may; small copies are fastest if it uses fields of the state
  // only. Where few are chosen, this is faster than a condition in a loop, which all lanes go through if it holds for
  // one.
  template <class Chosen, class Visit>
  METHOD void each_chosen(Range range, int count, Chosen chosen, Visit visit) {
    if constexpr (Geometry::lanes > 1) {
      each(range,
           [&](int i) { visit_chosen(count, [&](int k) { return chosen(i, k); }, [&](int k) { visit(i, k); }); });
    } else if (active_) {  // a lane goes from one to the next of a whole copy
      visit_chosen(
          range.size * count, [&](int pair) { return chosen(range.first + pair / count, pair % count); },
          [&](int pair) { visit(range.first + pair / count, pair % count); });
    }
  }

  // Calls visit(i, found) for every agent of the range; agents out of the game find nobody.
  template <int K, class Agents, class Eligible, class Visit>
  METHOD void each(Range range, const Search<K, Agents, Eligible>& search, Visit visit) {
    const auto prepared = prepare<false>(search, range, [&](int i) { return range.has(i) && alive[i]; });
    if constexpr (is_task_of_warps<std::remove_const_t<decltype(prepared)>>)
      each_in_cells(range, prepared, [&](int i) { return alive[i]; }, visit);
    else
      each(range, [&](int i) { visit(i, found_by(i, prepared)); });
  }

  // Calls write(i, row) for every agent of the range; row[k] = value sets entry k of its observation (observation.cuh).
  template <class Write>
  METHOD void each_observation(Range range, Write write) {
#ifdef __CUDACC__
    if constexpr (!Geometry::in_warps) {
      each_staged_observation(range, write);
      return;
    }
    if constexpr (Geometry::row_lanes > 1) {
      if (active_)
        for (int i = range.first + lane_ / Geometry::row_lanes; i < range.end();
             i += Geometry::lanes / Geometry::row_lanes)
          write(i, ObservationRow<Geometry::row_lanes>(observation_row(i), lane_ % Geometry::row_lanes));
      synchronize();
      return;
    }
#endif
    each(range, [&](int i) { write(i, ObservationRow<1>(observation_row(i), 0)); });
  }

  // Calls write(i, row, found) for every agent of the range; agents out of the game find nobody. An `auto i`, and what
  // is found as `auto`, may bring their state with them (field.cuh).
  template <int K, class Agents, class Eligible, class Write>
  METHOD void each_observation(Range range, const Search<K, Agents, Eligible>& search, Write write) {
    const auto asks = [&](int i) { return range.has(i) && alive[i]; };
#ifdef __CUDACC__
    if constexpr (observes_in_cells_<K, Agents>) {
      observe_in_cells(range, search, asks, write);
      return;
    }
#endif
    const auto prepared = prepare<true>(search, range, asks);
    each_observation(range, [&](int i, auto row) { write(i, row, found_by(i, prepared)); });
  }

 protected:
  // ---- for the engine: the course of an episode ----

  const Arguments* arguments_;
  std::size_t copy_;
  int new_episodes_ = 0;                       // 1 after a reset in this launch
  bool alive_changed_ = false;                 // whether an agent of this lane left or came back in this launch
  bool reseeding_ = false;                     // whether this launch gives the copy a new random key
  Observation* observation_base_[num_groups];  // of each group's first agent in this copy
  bool record_loaded_ = false;                 // whether what random numbers need of the record is in registers
  std::int64_t key_ = 0;                       // of the random numbers, if so

  METHOD std::int64_t key() const { return record_loaded_ ? key_ : arguments_->record[copy_].key; }
  METHOD int episode() const {
    if (reseeding_) return new_episodes_ - 1;
    return (record_loaded_ ? episode_ : arguments_->record[copy_].episode) + new_episodes_;
  }
  METHOD std::uint64_t seed() const { return static_cast<std::uint64_t>(arguments_->seed[copy_]); }
  METHOD bool is_over() {
    const bool some_are_there = any(agents, [&](int i) { return alive[i]; });
    return time >= arguments_->max_steps || !some_are_there;
  }

  METHOD Observation* observation_row(int i) const {
    Observation* row = nullptr;
#pragma unroll
    for (int g = 0; g < num_groups; ++g)  // a run-time index would move the array to local memory
      if (group_range(g).has(i))
        row = observation_base_[g] + static_cast<std::size_t>(i - group_range(g).first) * observation_size(g);
    return row;
  }

  // Agents that terminated leave, once the outcome has been observed.
  METHOD void leave() {
    each_own(agents, [&](int i) {
      if (!alive[i] || !terminated[i]) return;
      alive[i] = false;
      alive_changed_ = true;
    });
    if constexpr (any_masks) synchronize();
  }

  // Counters of this copy; every lane of its team holds them.
  METHOD void load_counters() {
    time = arguments_->time[copy_];
    group_return_ = reinterpret_cast<const ByGroup<float>*>(arguments_->group_return)[copy_];
    if (agents_leave) group_steps_ = reinterpret_cast<const ByGroup<std::int32_t>*>(arguments_->group_steps)[copy_];
    if constexpr (Geometry::loads_record) load_record();
  }

  METHOD void load_record() {
    key_ = arguments_->record[copy_].key;
    episode_ = arguments_->record[copy_].episode;
    record_loaded_ = true;
  }

  METHOD void store_counters() const {
    if (!is_leader()) return;
    arguments_->time[copy_] = time;
    reinterpret_cast<ByGroup<float>*>(arguments_->group_return)[copy_] = group_return_;
    if (agents_leave) reinterpret_cast<ByGroup<std::int32_t>*>(arguments_->group_steps)[copy_] = group_steps_;
    if (new_episodes_ > 0) arguments_->record[copy_].episode = episode();
    if (reseeding_) arguments_->record[copy_].key = static_cast<std::int64_t>(copy_key(seed(), copy_));
  }

  // Adds this step to the sums of the episode, and reports them when it is over.
  METHOD void account(bool finished) {
    constexpr int calls = agents_leave ? 2 : 1;  // of each group
    float rewards[num_groups];
    int present[num_groups] = {};
    side_by_side<calls * num_groups>([&](int call) {
      const int g = call / calls;
      if (call % calls == 0)
        rewards[g] = sum(group_range(g), [&](int i) { return reward[i]; });
      else
        present[g] = count(group_range(g), [&](int i) { return alive[i]; });
    });
#pragma unroll
    for (int g = 0; g < num_groups; ++g) {
      if (!active_) continue;
      group_return_.value[g] += rewards[g];
      group_steps_.value[g] += present[g];
      if (!finished || !is_leader()) continue;
      const float size = static_cast<float>(group_range(g).size);
      arguments_->record[copy_].episode_return[g] = group_return_.value[g] / size;
      arguments_->record[copy_].episode_length[g] =
          static_cast<float>(agents_leave ? group_steps_.value[g] : time) / (agents_leave ? size : 1.0f);
    }
  }

  METHOD void forget_sums() {
#pragma unroll
    for (int g = 0; g < num_groups; ++g) {
      if (!active_) continue;
      group_return_.value[g] = 0.0f;
      group_steps_.value[g] = 0;
    }
  }

  // A discrete action limited to its space; the bits of a continuous one as they are.
  template <class Value>
  METHOD static int within_space(int g, int component, Value value) {
    const int count = action_count(g, component);
    if (action_count(g, 0) == 0) return static_cast<int>(value);
    if (sizeof(value) <= sizeof(int)) return clip(static_cast<int>(value), 0, count - 1);
    return value > 0 ? (value < count ? static_cast<int>(value) : count - 1) : 0;
  }

  // Entries of group g's actions in one copy.
  METHOD static constexpr int action_size(int g) { return group_range(g).size * action_width(g); }

  // Where group g's actions start when those of all copies of a block, or of a lane's copy, are laid out group by
  // group.
  METHOD static constexpr int action_slab(int g) {
    constexpr int copies = Geometry::lanes > 1 ? Geometry::copies : 1;
    int offset = 0;
    for (int before = 0; before < g; ++before) offset += (copies * action_size(before) + 3) & ~3;
    return offset;
  }

  const int* actions_;  // group by group, where they are staged

 private:
  METHOD static int action_index(int g, int i, int component) {
    return (i - group_range(g).first) * action_width(g) + component;
  }

  // A value for each group of a copy, loaded and stored in as few pieces as may be.
  static constexpr int groups_at_once = num_groups % 4 == 0 ? 4 : num_groups % 2 == 0 ? 2 : 1;
  template <class T>
  struct alignas(groups_at_once * sizeof(T)) ByGroup {
    T value[num_groups];
  };

  ByGroup<float> group_return_;
  ByGroup<std::int32_t> group_steps_{};
  int episode_ = 0;  // number of this episode, if the record is loaded

  template <class Prepared>
  METHOD auto found_by(int i, const Prepared& prepared) const {
    decltype(prepared.of(i)) result;
    result.found = 0;
    if (alive[i]) result = prepared.of(i);
    return result;
  }

#ifdef __CUDACC__
  static constexpr int warp_stage_entries = Geometry::warp_stage_floats * sizeof(float) / sizeof(Observation);

  // Rows are written in shared memory and stored as whole lines.
  template <class Write>
  METHOD void each_staged_observation(Range range, Write& write) {
    in_phase([&] {
      if constexpr (Geometry::row_lanes == 1 && Geometry::rows_collected)
        write_rows_of_own(range, write);
      else if constexpr (!Geometry::rows_staged || !has_stage)
        write_rows_in_place(range, write);
      else if constexpr (Geometry::row_lanes == 32)
        write_rows_one_by_one(range, write);
      else
        write_rows_at_once(range, write);
    });
  }

  // Each lane writes the rows of its agents, to where they are collected.
  template <class Write>
  METHOD void write_rows_of_own(Range range, Write& write) {
    each_own(range, [&](int i) { write(i, ObservationRow<1>(observation_row(i), 0)); });
    show_copy_engine();
  }

  // Where state lives in device memory, those who search write the observations too, in the order of the cells: agents
  // who stand together have most of their neighbors in common.
  template <int K, class Agents>
  static constexpr bool observes_in_cells_ =
      !Geometry::staged && Geometry::rows_staged && Geometry::row_lanes < 32 && searches_in_cells<K, Agents>;

  template <int K, class Agents, class Eligible, class Asks, class Write>
  METHOD void observe_in_cells(Range range, const Search<K, Agents, Eligible>& search, Asks asks, Write& write) {
    if (!any_active()) return;  // the whole team
    constexpr int row_lanes = Geometry::row_lanes, rows = 32 / row_lanes;
    constexpr int sector = entries_of_line<Observation> / 4, piece = sector / 2;  // of 32 bytes, and of 16
    constexpr int room = (longest_row() + sector - 1 + piece - 1) & -piece;  // of a row, wherever it starts in a sector
    auto* stage = reinterpret_cast<Observation*>(warp_memory_);
    auto* lists = reinterpret_cast<std::uint32_t*>(stage + rows * room);
    const int lane = lane_ % 32;
    const auto visit = [&](int own, const SortedAgent& sorted, const auto& prepared) {
#pragma unroll 1
      for (int first = 0; first < 32; first += rows) {
        const int of_lane = first + lane / row_lanes, i = __shfl_sync(~0u, own, of_lane);
        const SortedAgent agent{sorted.records, __shfl_sync(~0u, sorted.place, of_lane)};
        const bool wanted = i >= 0;
        if (!__any_sync(~0u, wanted)) continue;
        Observation* row = wanted ? observation_row(i) : nullptr;
        Observation* staged = stage + lane / row_lanes * room;
        staged += (entries_off_line(row) - entries_off_line(staged)) & (sector - 1);  // as far off a sector as there
        wait_for_stored_rows();
        if (wanted) {
          __builtin_assume(alive[agent]);  // or it would not ask
          write(agent, ObservationRow<row_lanes>(staged, lane % row_lanes), prepared.of(of_lane));
        }
        __syncwarp();
        store_rows<row_lanes>(row, staged, wanted ? observation_size(group_of(i)) : 0, lane % row_lanes);
      }
    };
    // Rows of those who find nobody are taken by their index: many lie side by side, and leave together.
    const auto visit_others = [&](int start, const auto& cells) {
      constexpr int chunks = others_at_once / 32;
      const Rows part = rows_of_part<others_at_once>(range, start / 32);
      bool is_in_cells[chunks];
#pragma unroll
      for (int chunk = 0; chunk < chunks; ++chunk)
        is_in_cells[chunk] = asks(part.first + Math::min(32 * chunk + lane, part.count - 1));
      if (cells.lost > 0)
#pragma unroll
        for (int chunk = 0; chunk < chunks; ++chunk)
          is_in_cells[chunk] &= is_somewhere(search, part.first + Math::min(32 * chunk + lane, part.count - 1));
      unsigned wanted_of_chunk = 0;  // in lane k, those of the k-th 32 agents
#pragma unroll
      for (int chunk = 0; chunk < chunks; ++chunk) {
        const unsigned those = __ballot_sync(~0u, 32 * chunk + lane < part.count && !is_in_cells[chunk]);
        if (lane == chunk) wanted_of_chunk = those;
      }
#pragma unroll 1
      for (int first = 0; first < part.count; first += rows) {
        const unsigned those = __shfl_sync(~0u, wanted_of_chunk, first / 32) >> first % 32 & (~0u >> (32 - rows));
        if (those == 0) continue;
        const int k = lane / row_lanes;
        const bool wanted = (those >> k & 1) != 0;
        Observation* row = part.row + first * part.size;
        Observation* staged = stage + entries_off_line(row) + k * part.size;
        const typename SearchLoaded<K>::Found nobody{0, cells.records(), {}};
        wait_for_stored_rows();
        if (wanted) write(part.first + first + k, ObservationRow<row_lanes>(staged, lane % row_lanes), nobody);
        __syncwarp();
        if (those == ~0u >> (32 - rows)) {  // faster than as below, and frequent
          store_rows(row, staged - k * part.size, rows * part.size, lane);
          continue;
        }
        // The first of some in succession stores the rows of all of them.
        const bool is_first = wanted && (those << 1 >> k & 1) == 0;
        const int length = __clz(__brev(~(those >> k)));
        store_rows<row_lanes>(row + k * part.size, staged, is_first ? length * part.size : 0, lane % row_lanes);
      }
    };
    const auto announce = [&](int i) {
      if (i >= 0) prefetch_ends(observation_row(i), observation_size(group_of(i)));
    };
    const auto carry = [&](int j, int nth, std::uint32_t* word) {
      visit_carried([&](auto& field, int k) {
        const int at = SortedAgent::fields_at + k;
        if (nth == at / 4) word[at % 4] = portable::bit_cast<std::uint32_t>(field.array[j]);
      });
    };
    list_in_cells(search, asks, 32 * parts_of<others_at_once>(range), lists, carry, announce, visit, visit_others);
  }

  static constexpr int others_at_once = 128;  // of whom a warp finds out together who they are

  METHOD static constexpr int longest_row() {
    int longest = 0;
    for (int g = 0; g < num_groups; ++g) longest = observation_size(g) > longest ? observation_size(g) : longest;
    return longest;
  }

  // A warp writes a row after the other, to where it belongs.
  template <class Write>
  METHOD void write_rows_in_place(Range range, Write& write) {
    for (int i = range.first + lane_ / 32; i < range.end(); i += warps_)
      write(i, ObservationRow<32>(observation_row(i), lane_ % 32));
  }

  // A warp writes a row after the other, into one half of its stage while the other half is being stored.
  template <class Write>
  METHOD void write_rows_one_by_one(Range range, Write& write) {
    auto* stage = reinterpret_cast<Observation*>(warp_memory_);
    int half = 0;
    wait_for_stored_rows();
    for (int i = range.first + lane_ / 32; i < range.end(); i += warps_) {
      Observation* row = observation_row(i);
      Observation* staged = stage + half + entries_off_line(row);
      wait_for_stored_rows<1>();
      write(i, ObservationRow<32>(staged, lane_ % 32));
      __syncwarp();
      store_rows(row, staged, observation_size(group_of(i)), lane_ % 32);
      half = warp_stage_entries / 2 - half;
    }
  }

  // Each lane of a warp writes a row, or one of few lanes a part of it, and the warp stores them together.
  template <class Write>
  METHOD void write_rows_at_once(Range range, Write& write) {
    constexpr int rows = 32 / Geometry::row_lanes;
    auto* stage = reinterpret_cast<Observation*>(warp_memory_);
    const int lane = lane_ % 32;
    Rows part;
    for (int number = lane_ / 32; (part = rows_of_part<rows>(range, number)).count > 0; number += warps_) {
      Observation* staged = stage + entries_off_line(part.row);
      const int k = lane / Geometry::row_lanes;
      wait_for_stored_rows();
      if (k < part.count)
        write(part.first + k, ObservationRow<Geometry::row_lanes>(staged + k * part.size, lane % Geometry::row_lanes));
      __syncwarp();
      store_rows(part.row, staged, part.count * part.size, lane);
    }
  }

  // Some agents of a group, whose rows lie end to end.
  struct Rows {
    int first, count;
    Observation* row;  // of the first
    int size;          // of each
  };

  // The parts of at most so many agents that each group of a range is made of.
  template <int most>
  METHOD static int parts_of(Range range) {
    int parts = 0;
#pragma unroll
    for (int g = 0; g < num_groups; ++g) {
      const Range group = group_range(g);
      const int size = Math::min(group.end(), range.end()) - Math::max(group.first, range.first);
      parts += Math::max(size + most - 1, 0) / most;
    }
    return parts;
  }

  // Each group of a range in parts of at most so many agents, one after the other; empty from there on.
  template <int most>
  METHOD Rows rows_of_part(Range range, int number) const {
    Rows part{};
#pragma unroll
    for (int g = 0; g < num_groups; ++g) {
      const Range group = group_range(g);
      const int start = Math::max(group.first, range.first), end = Math::min(group.end(), range.end());
      const int parts = Math::max(end - start + most - 1, 0) / most, first = start + most * number;
      if (number >= 0 && number < parts)
        part = {first, Math::min(most, end - first),
                observation_base_[g] + static_cast<std::size_t>(first - group.first) * observation_size(g),
                observation_size(g)};
      number -= parts;
    }
    return part;
  }
#endif
};
