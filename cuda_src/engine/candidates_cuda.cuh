// The nearest of some candidates in shared memory, found by the 32 lanes of a warp for an agent each.
//
// Two passes over all candidates compare a cheap stand-in for the distance from q to a candidate p, of which tensor
// cores compute 16 x 8 at once: with any center c, |p - c|^2 - 2 (q - c) (p - c) differs from the squared distance by a
// number that all candidates share. Positions are scaled to lie within 64 of the center and written as sums of two
// numbers in half precision, so that eight products make a stand-in:
//
//   x of p: high  low  high      times -2 x of q: high high  low
//   y of p: low   high     high  times -2 y of q: high high      low
//   |p|^2:  high  low            times         1
//
// The first pass takes the least of each of several interleaved columns of candidates; of these, the K + 1-st smallest
// is a bound that K others keep at least, and that few more do. This pass rounds to half precision, and may guess
// wrong. The second marks who keeps the bound, and those who may because of rounding. Only those are then measured
// exactly, and sorted in a network whose course does not depend on the data, or inserted one by one where few are meant
// to be marked. If the K-th of them keeps the bound, whoever is nearer has been marked.
#pragma once

#include "math.cuh"
#include "nearest.cuh"
#include "portable.cuh"
#include "sorting_cuda.cuh"
#include "tensor_cores_cuda.cuh"

// Agents who have been brought together in shared memory.
template <int most>
class Candidates {
 public:
  static constexpr int capacity = most;
  static constexpr int batch = 16;  // candidates that are compared at once; `capacity` is a multiple of it
  static constexpr int words = capacity <= 112 ? 4 : 6;  // of marks
  static constexpr int stride = words == 4 ? 32 : 33;    // places of a word, the first of them empty
  static constexpr int places = stride * words + 1;      // the last of them empty
  using Index = std::conditional_t<(Geometry::num_agents < 0xffff), std::uint16_t, std::uint32_t>;
  static constexpr int bytes = (16 * capacity + 8 * places + int(sizeof(Index)) * places + 15) & ~15;

  Pair* operand;     // [capacity, 4] for the tensor cores
  float2* position;  // [places]; empty ones are infinitely far away
  Index* agent;      // [places]
  int size = 0;
  float center_x, center_y;
  float scale = 0.0f;  // a power of two; zero where squares could overflow or vanish, or the center lies too far out
  int lane;            // of the warp

  METHOD Candidates(unsigned char* memory, int lane)
      : operand(reinterpret_cast<Pair*>(memory)),
        position(reinterpret_cast<float2*>(operand + 4 * capacity)),
        agent(reinterpret_cast<Index*>(position + places)),
        lane(lane) {}

  METHOD float squared_distance_to_center(float at_x, float at_y) const {
    return Math::square(at_x - center_x) + Math::square(at_y - center_y);
  }

  // No candidate is farther from the center, which is set, than `farthest`: the scale takes that to 32 or more, but
  // less than 64.
  METHOD void set_reach(float farthest) {
    const bool is_fit = farthest > 1e-15f && farthest < 1e15f && fabsf(center_x) + fabsf(center_y) < 1e30f * farthest;
    scale = is_fit
                ? portable::bit_cast<float>((259u << 23) - (portable::bit_cast<std::uint32_t>(farthest) & 0x7f800000u))
                : 0.0f;
  }

  // The place of the k-th candidate. Lane t of a quad marks two of each 8: of the first ones in word t, of others in a
  // half of word 4 or 5, from bit 0, 17, 1, or 18 on, so that these start at places equally far apart as well.
  METHOD static int place_of(int k) {
    const int lane = k >> 1 & 3, bit = (k >> 2 & ~1) | (~k & 1);
    int place = stride * lane + bit;
    if (words > 4 && k >= in_own_word) place = (stride + 1) / 2 * lane + bit + 4 * stride - in_own_word / 4;
    return place + 1;
  }

  METHOD void put(int k, int who, float at_x, float at_y) const {
    position[place_of(k)] = {at_x, at_y};
    agent[place_of(k)] = static_cast<Index>(who);
    const float x = scaled_x(at_x), y = scaled_y(at_y), norm = portable::multiply_add(x, x, y * y);
    const Pair high = pair_of(x, y), low = pair_of(x - first_of(high), y - second_of(high));
    const float high_norm = first_of(pair_of(norm, norm));
    put_operand(k, firsts_of(high, low), high, seconds_of(low, high), pair_of(high_norm, norm - high_norm));
  }

  // Fills the last batch; lane 0, 1, … of those that share the candidates.
  METHOD void close(int lane) const {
    if (lane <= words) {
      position[stride * lane] = {Math::infinity, Math::infinity};
      agent[stride * lane] = static_cast<Index>(-1);
    }
    if (lane < batch && size + lane < capacity)
      put_operand(size + lane, Pair{0}, Pair{0}, Pair{0}, pair_of(Math::infinity, 0.0f));
  }

  // An agent of each lane that looks for its nearest.
  struct Query {
    float at_x, at_y;
    std::uint32_t rows[4];  // of the matrix, of the agents of a quad; this lane's columns
    float norm, slack;      // as the stand-ins are scaled
    bool is_fit;            // for stand-ins to tell candidates apart
  };

  // All lanes of a warp call this and what takes a query together.
  METHOD Query query(float at_x, float at_y) const {
    const float x = scaled_x(at_x), y = scaled_y(at_y);
    const float span = reach + fabsf(x) + fabsf(y);
    Query result;
    result.at_x = at_x;
    result.at_y = at_y;
    result.norm = portable::multiply_add(x, x, y * y);
    result.slack = rounding * span * span;
    result.is_fit = scale > 0.0f && span < 4.0f * reach;  // so that squares are finite in half precision
    const Pair high = pair_of(-2.0f * x, -2.0f * y);
    const Pair low = pair_of(-2.0f * x - first_of(high), -2.0f * y - second_of(high));
    result.rows[0] = firsts_of(high, high).bits;
    result.rows[1] = low.bits;
    result.rows[2] = seconds_of(high, high).bits;
    result.rows[3] = 0x3c003c00;  // ones
    transpose_in_quads(lane, result.rows);
    return result;
  }

  // A squared distance that at least K of the candidates keep below, with the one apart that asks.
  template <int K>
  METHOD float bound(const Query& query) const {
    constexpr int runs = K <= 4 ? 2 : K <= 14 ? 4 : 6;       // of batches; more columns make a tighter bound
    if (size <= sorted_at_once<K>()) return Math::infinity;  // all are sorted
    const Pair own_start = pair_of(query.norm, query.norm);
    Pair start[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) start[r].bits = __shfl_sync(~0u, own_start.bits, r, 4);
    std::uint32_t least[runs][4];
#pragma unroll
    for (int c = 0; c < runs; ++c)
#pragma unroll
      for (int r = 0; r < 4; ++r) least[c][r] = 0x7c007c00;  // infinite
    // Those who stand side by side are often near together: they had better be in different columns.
    const int half = (size + batch - 1) / batch * (batch / 2);
    const Pair* end = operand + 4 * half;
#pragma unroll 1
    for (const Pair* at = operand; at < end;)
#pragma unroll
      for (int c = 0; c < runs && at < end; ++c, at += 32)
#pragma unroll
        for (int r = 0; r < 4; r += 2) {
          Pair first[2] = {start[r], start[r + 1]}, second[2] = {start[r], start[r + 1]};
          add_product(row(query, r), row(query, r + 1), at[lane], first);
          add_product(row(query, r), row(query, r + 1), at[lane + 4 * half], second);
          least[c][r] = ::min(::min(first[0], second[0]), Pair{least[c][r]}).bits;
          least[c][r + 1] = ::min(::min(first[1], second[1]), Pair{least[c][r + 1]}).bits;
        }
    Pair sorted[4 * runs];
#pragma unroll
    for (int c = 0; c < runs; ++c) {
      gather_in_quads(lane, least[c]);
#pragma unroll
      for (int r = 0; r < 4; ++r) sorted[4 * c + r].bits = least[c][r];
    }
    sort_in_registers(sorted);
    // Of two sorted lists, the K + 1 smallest are the smaller ones of pairs whose indices add up to K.
    constexpr int length = 4 * runs, lone = K - length;
    Pair largest = sorted[lone < 0 ? 0 : lone];
#pragma unroll
    for (int k = lone < 0 ? 0 : lone + 1; 2 * k <= K; ++k) {
      const Pair smaller = ::min(sorted[k], swapped(sorted[K - k]));
      largest = k == 0 ? smaller : ::max(largest, smaller);
    }
    const float value = fmaxf(first_of(largest), second_of(largest));
    const float squared = value + 2e-3f * fabsf(value) + (query.norm - first_of(own_start)) + query.slack;
    const float per_scale = 1.0f / scale;
    return query.is_fit ? fmaxf(squared, 0.0f) * per_scale * per_scale : Math::infinity;
  }

  // Bit b of word w stands for place `stride` w + 1 + b.
  struct Marks {
    std::uint32_t word[words];
  };

  // Marks at least those candidates that are closer than the square root of `limit`.
  METHOD Marks mark(const Query& query, float limit) const {
    const float closer = fminf(limit * scale * scale, 1e30f), own_start = query.norm - (closer + query.slack);
    float start[4][2];
#pragma unroll
    for (int r = 0; r < 4; ++r)  // twice, in registers that lie side by side, or each product would copy them
#pragma unroll
      for (int k = 0; k < 2; ++k) start[r][k] = __uint_as_float(__shfl_sync(~0u, __float_as_uint(own_start), r, 4));
    const int end = (size + batch - 1) / batch * batch;
    std::uint32_t part[4];
    mark_part(query, start, 0, Math::min(end, in_own_word), part);
    Marks marks;
#pragma unroll
    for (int r = 0; r < 4; ++r) marks.word[r] = part[r];
    if constexpr (words > 4) {
      mark_part(query, start, in_own_word, end, part);
      marks.word[4] = part[0] | part[1] << 17;
      marks.word[5] = part[2] << 1 | part[3] << 18;
    }
    return marks;
  }

  // Each lane by itself: finds the K nearest to the agent that asks, the candidate at place `self` apart, that are
  // closer than the square root of `limit`, among those that are marked as closer than that and than the square root of
  // `bound`. Returns false where too many are as near, too few keep the bound, or all are too far off to tell: then
  // insert() finds them.
  template <int K>
  METHOD bool sort_nearest(const Query& query, Marks marks, int self, float limit, float bound,
                           Nearest<K>& found) const {
    if (!query.is_fit) return false;
    const unsigned word = static_cast<unsigned>(self - 1) / stride, others = ~(1u << ((self - 1) % stride & 31));
#pragma unroll
    for (unsigned w = 0; w < words; ++w) marks.word[w] &= word == w ? others : ~0u;
    return choose(query.at_x, query.at_y, limit, bound, marks.word, found);
  }

  // The same by insertion, where few are marked.
  template <int K>
  METHOD bool insert_marked(const Query& query, const Marks& marks, int self, float limit, Nearest<K>& found) const {
    if (!query.is_fit) return false;
    found.clear();
#pragma unroll
    for (int w = 0; w < words; ++w) {
#pragma unroll 1
      for (unsigned left = marks.word[w]; left != 0; left &= left - 1) {
        const int place = stride * w + __ffs(left);
        if (place != self) found.insert(agent[place], distance_squared(place, query.at_x, query.at_y), limit);
      }
    }
    return true;
  }

  // The exact way, by insertion: adds all candidates to a list.
  template <int K>
  METHOD void insert(float at_x, float at_y, int self, float limit, Nearest<K>& found) const {
#pragma unroll 1
    for (int k = 0; k < size; ++k) {
      const int place = place_of(k);
      if (place != self) found.insert(static_cast<int>(agent[place]), distance_squared(place, at_x, at_y), limit);
    }
  }

 private:
  static constexpr int in_own_word = words == 4 ? 112 : 128;  // candidates whose marks are in words 0 to 3
  static constexpr int place_bits = words == 4 ? 7 : 8;       // of a candidate's place
  static constexpr unsigned none = 0x7f800000u;               // from here on keys, and distances, stand for nobody
  static_assert(capacity <= 176 && capacity % batch == 0, "a place has eight bits");

  static constexpr float reach = 64.0f;  // of scaled candidates
  // What is lost of a stand-in, in relation to the square of the longest way from the agent over the center to a
  // candidate: up to 2^-23 each where p, q and |p|^2 are split and where the product of two lower parts is left out,
  // and up to 2^-20 in a sum of nine terms of which tensor cores keep 24 bits of the largest. The rest covers cards
  // that take subnormal numbers in half precision for zero, up to 2^-14 of a coordinate.
  static constexpr float rounding = 0x1p-18f;

  // How many are sorted at first.
  template <int K>
  METHOD static constexpr int sorted_at_once() {
    return K < 4 ? 4 : K < 7 ? 8 : K < 15 ? 16 : 32;
  }

  // Relative to the center, in one step.
  METHOD float scaled_x(float at_x) const { return portable::multiply_add(at_x, scale, -center_x * scale); }
  METHOD float scaled_y(float at_y) const { return portable::multiply_add(at_y, scale, -center_y * scale); }

  METHOD static Pair row(const Query& query, int r) { return Pair{query.rows[r]}; }

  METHOD void put_operand(int k, Pair first, Pair second, Pair third, Pair fourth) const {
    reinterpret_cast<uint4*>(operand)[k] = {first.bits, second.bits, third.bits, fourth.bits};
  }

  // Marks those of some candidates whose stand-ins, added to the start of a row, are negative.
  METHOD void mark_part(const Query& query, const float (&start)[4][2], int first, int end,
                        std::uint32_t (&marks)[4]) const {
#pragma unroll
    for (int r = 0; r < 4; ++r) marks[r] = 0;
#pragma unroll 1
    for (const Pair* at = operand + 4 * end + lane; at >= operand + 4 * first + 32;)  // bit 0 stands for the first
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        at -= 32;
#pragma unroll
        for (int r = 0; r < 4; r += 2) {
          float value[4] = {start[r][0], start[r][1], start[r + 1][0], start[r + 1][1]};
          add_product(row(query, r), row(query, r + 1), *at, value);
#pragma unroll
          for (int k = 0; k < 4; ++k)  // shifts the sign in
            marks[r + k / 2] = __funnelshift_l(__float_as_uint(value[k]), marks[r + k / 2], 1);
        }
      }
    transpose_in_quads(lane, marks);  // what a lane has found for the agents of its quad
  }

  METHOD float distance_squared(int place, float at_x, float at_y) const {
    const float2 its = position[place];
    const float dx = its.x - at_x, dy = its.y - at_y;
    return dx * dx + dy * dy;
  }

  // Sorts the marked candidates by keys of most bits of the distance, and the place. Returns false if that does not
  // suffice: more candidates are alike in these bits than are kept, or less than K keep the bound.
  template <int K>
  METHOD bool choose(float at_x, float at_y, float limit, float bound, std::uint32_t (&marks)[words],
                     Nearest<K>& found) const {
    constexpr int taken = sorted_at_once<K>(), kept = K + 2 < taken ? K + 2 : taken;
    int base = 1;
    const auto take = [&](unsigned otherwise) {  // the key of the next marked candidate
      if (marks[0] == 0) {
#pragma unroll
        for (int w = 0; w + 1 < words; ++w) marks[w] = marks[w + 1];
        marks[words - 1] = 0;
        base += stride;
      }
      const int bit = 31 - __clz(marks[0]);  // -1 stands for the empty place before
      marks[0] &= ~__funnelshift_l(0, 1, bit);
      const int place = ::min(base + bit, places - 1);
      const float distance = distance_squared(place, at_x, at_y);
      const unsigned key = (__float_as_uint(distance) & (~0u << place_bits)) | static_cast<unsigned>(place);
      return limit < Math::infinity && distance >= limit ? otherwise : key;
    };
    unsigned key[taken];
#pragma unroll
    for (int k = 0; k < taken; ++k) key[k] = take(none + (static_cast<unsigned>(k) << place_bits));
    sort_in_registers(key);
    const auto some_left = [&] {
      unsigned any = 0;
#pragma unroll
      for (int w = 0; w < words; ++w) any |= marks[w];
      return any != 0;
    };
#pragma unroll 1
    while (some_left()) {  // of few agents
      unsigned next = take(~0u);
#pragma unroll
      for (int k = 0; k < kept; ++k) {
        const unsigned smaller = ::min(key[k], next);
        next = ::max(key[k], next);
        key[k] = smaller;
      }
    }
    unsigned least_step = ~0u;
#pragma unroll
    for (int k = 0; k < K; ++k) least_step = ::min(least_step, key[k + 1] - key[k]);
    bool is_doubtful = least_step < 1u << place_bits;
    if (is_doubtful && key[K] >= none) {  // nobodies are alike
      is_doubtful = false;
#pragma unroll
      for (int k = 0; k < K; ++k) is_doubtful |= are_alike<place_bits>(key[k], key[k + 1]) & (key[k] < none);
    }
    if (is_doubtful)
      while (put_right<place_bits, kept>(
          key, none, [&](unsigned one, unsigned other) { return precedes(one, other, at_x, at_y); })) {
      }
    found.found = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int place = place_in(key[k]);  // an empty one where there is nobody
      found.index[k] = static_cast<int>(agent[place]);
      found.distance_squared[k] = distance_squared(place, at_x, at_y);
      found.found += key[k] < none ? 1 : 0;
    }
    const bool is_within = bound >= limit || key[K - 1] < __float_as_uint(0.9999f * bound);
    return is_within && (!are_alike<place_bits>(key[K - 1], key[kept - 1]) || key[K - 1] >= none);
  }

  METHOD static int place_in(unsigned key) { return key & ((1 << place_bits) - 1); }

  // Of two candidates.
  METHOD bool precedes(unsigned key, unsigned other, float at_x, float at_y) const {
    const int one = place_in(key), two = place_in(other);
    const float first = distance_squared(one, at_x, at_y), second = distance_squared(two, at_x, at_y);
    return first < second || (first == second && agent[one] < agent[two]);
  }
};
