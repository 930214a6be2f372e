// Exact nearest neighbours in the plane; of equally near ones the lowest index comes first, on every device.
#pragma once

#include "math.cuh"
#include "portable.cuh"
#include "range.cuh"

// Short lists stay in registers, which takes constant indices; long ones would only make long code.
METHOD constexpr int unrolled(int K) { return K <= 32 ? K : 1; }

// Up to K agents, nearest first.
template <int K>
struct Nearest {
  float distance_squared[K];  // infinite where there is none
  int index[K];               // -1 where there is none
  int found;

  METHOD int operator[](int k) const { return index[k]; }

  METHOD void clear() {
#pragma unroll(unrolled(K))
    for (int k = 0; k < K; ++k) {
      distance_squared[k] = Math::infinity;
      index[k] = -1;
    }
    found = 0;
  }

  // Adds agent j unless K others are nearer, or as near and of lower index.
  METHOD void insert(int j, float distance, float limit) {
    if (!(distance < limit) || !precedes(j, distance, K - 1)) return;
    found += found < K ? 1 : 0;
    shift_in(j, distance, [&](int k) { return precedes(j, distance, k); });
  }

  // Adds agent j, whose index is higher than those of the list, unless K others are as near; does not count.
  METHOD void insert_next(int j, float distance) {
    if (K == 1 || distance < distance_squared[K - 1])
      shift_in(j, distance, [&](int k) { return distance < distance_squared[k]; });
  }

 private:
  METHOD bool precedes(int j, float distance, int k) const {
    return (distance < distance_squared[k]) | ((distance == distance_squared[k]) & (j < index[k]));
  }

  // Shifts all whom agent j precedes, without branches.
  template <class Precedes>
  METHOD void shift_in(int j, float distance, Precedes precedes) {
#pragma unroll(unrolled(K))
    for (int k = K - 1; k >= 0; --k) {
      const int above = k > 0 ? k - 1 : 0;
      const bool before = precedes(k), shift = k > 0 && precedes(above);
      index[k] = shift ? index[above] : before ? j : index[k];
      distance_squared[k] = shift ? distance_squared[above] : before ? distance : distance_squared[k];
    }
  }
};

// What to look for: the K agents j of a range for which eligible(j) holds, nearest to whoever asks and not himself, at
// a squared distance below `limit`.
template <int K, class Agents, class Eligible>
struct Search {
  Agents among;
  const float* x;  // [num_agents]
  const float* y;  // [num_agents]
  float limit;
  Eligible eligible;
};

// The most agents among whom a search finds some.
template <class Agents>
constexpr int most_of = MostOf<Agents>::value < Geometry::num_agents ? MostOf<Agents>::value : Geometry::num_agents;

#ifdef __CUDACC__

// What agent i finds, looking at everyone.
template <int K, class Agents, class Eligible>
METHOD Nearest<K> find_nearest(int i, const Search<K, Agents, Eligible>& search) {
  const float at_x = search.x[i], at_y = search.y[i];
  Nearest<K> best;
  best.clear();
  for (int j = search.among.first; j < search.among.end(); ++j) {
    const float dx = search.x[j] - at_x, dy = search.y[j] - at_y;
    const float distance = dx * dx + dy * dy;
    best.insert_next(j, (distance < search.limit) & (j != i) && search.eligible(j) ? distance : Math::infinity);
  }
#pragma unroll(unrolled(K))
  for (int k = 0; k < K; ++k) best.found += best.index[k] >= 0 ? 1 : 0;
  return best;
}

#else

// On a CPU the point is to compare in vector registers and to branch seldom.
template <int K>
constexpr int batch = 16 * ((K + 19) / 16);  // candidates at a time, somewhat more than are looked for

// Calls visit(t) for t from 0 to count - 1, in vector registers: g++ would unroll a short loop and leave it scalar.
template <int count, class Visit>
METHOD void in_vectors(Visit visit) {
#pragma GCC unroll 1
  for (int t = 0; t < count; ++t) visit(t);
}

// The nearest of candidates `first` to `end - 1`, each with a squared distance, infinite for those who do not count,
// and the number of an agent. A first pass takes the least distance in each of `batch` interleaved columns of
// candidates; the K-th smallest of these is a bound that at least K candidates keep, and that few others do. A second
// pass collects those and places each by its rank. With `whole_batches`, end - first is a multiple of `batch`.
template <int K, bool whole_batches, class Distance, class Agent>
METHOD Nearest<K> nearest_of(int first, int end, Distance distance_squared, Agent agent) {
  constexpr int width = batch<K>, capacity = 4 * width;

  float least[width];
  for (int t = 0; t < width; ++t) least[t] = Math::infinity;
  int from = first;
  const auto take_least = [&](int t) { least[t] = Math::min(least[t], distance_squared(from + t)); };
  for (; from + width <= end; from += width)
    if constexpr (whole_batches)
      in_vectors<width>(take_least);
    else
      for (int t = 0; t < width; ++t) take_least(t);
  for (int t = 0; from + t < end; ++t) take_least(t);
  int smaller[width] = {};
  for (int u = 0; u < width; ++u)
    for (int t = 0; t < width; ++t) smaller[t] += least[u] < least[t] ? 1 : 0;
  float bound = 0.0f;
  for (int t = 0; t < width; ++t) bound = Math::max(bound, smaller[t] < K ? least[t] : 0.0f);
  bound = Math::min(bound, 3.402823466e38f);  // infinity stands for candidates that do not count

  Nearest<K> best;
  best.clear();
  float distance[capacity + width];
  int candidate[capacity + width];
  int size = 0;
  const auto rank_candidates = [&] {
    const int padded = (size + 15) & ~15;
    for (int u = size; u < padded; ++u) {
      distance[u] = Math::infinity;
      candidate[u] = 0;
    }
    for (int u = 0; u < size; ++u) {
      int rank = 0;
      for (int v = 0; v < padded; ++v)
        rank += (distance[v] < distance[u]) | ((distance[v] == distance[u]) & (candidate[v] < candidate[u]));
      if (rank >= K) continue;
      best.distance_squared[rank] = distance[u];
      best.index[rank] = candidate[u];
    }
    best.found = Math::min(size, K);
  };
  int last = 1 << 30;  // of those at the bound, only agents below it can matter
  for (from = first; from < end; from += width) {
    float its[width];
    const int in_batch = whole_batches ? width : Math::min(width, end - from);
    if constexpr (whole_batches) {
      in_vectors<width>([&](int t) { its[t] = distance_squared(from + t); });
      if (end - first > 2 * capacity) {  // most batches have none that matters
        int any = 0;
        in_vectors<width>([&](int t) { any |= (its[t] < bound) | ((its[t] == bound) & (agent(from + t) < last)); });
        if (any == 0) continue;
      }
    } else if (in_batch == width) {
      for (int t = 0; t < width; ++t) its[t] = distance_squared(from + t);
    } else {
      for (int t = 0; t < in_batch; ++t) its[t] = distance_squared(from + t);
    }
    for (int t = 0; t < in_batch; ++t) {
      distance[size] = its[t];
      candidate[size] = agent(from + t);
      size += its[t] <= bound ? 1 : 0;
    }
    if (size <= capacity) continue;
    rank_candidates();  // many are equally near: only the first K can matter
    size = best.found;
    memcpy(distance, best.distance_squared, size * sizeof(float));
    memcpy(candidate, best.index, size * sizeof(int));
    bound = best.distance_squared[K - 1];
    last = best.index[K - 1];
  }
  rank_candidates();
  return best;
}

// What agent i finds, looking at everyone.
template <int K, class Agents, class Eligible>
METHOD Nearest<K> find_nearest(int i, const Search<K, Agents, Eligible>& search) {
  const float at_x = search.x[i], at_y = search.y[i];
  const Range among = search.among;
  return nearest_of<K, false>(
      among.first, among.end(),
      [&](int j) {
        const float dx = search.x[j] - at_x, dy = search.y[j] - at_y;
        const float distance = dx * dx + dy * dy;
        return (distance < search.limit) & (j != i) & bool(search.eligible(j)) ? distance : Math::infinity;
      },
      [](int j) { return j; });
}

#endif

// Whether warps take part, as they have time, in a loop over agents who find this.
template <class Prepared>
constexpr bool is_task_of_warps = false;

// Everyone looks at each, when asked.
template <int K, class Agents, class Eligible>
struct SearchAlone {
  Search<K, Agents, Eligible> search;

  METHOD Nearest<K> of(int i) const { return find_nearest(i, search); }
};
