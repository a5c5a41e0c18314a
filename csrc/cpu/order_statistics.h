// A Gumbel row (equation 5) from its order statistics. The definition is reference.gumbel_order_statistics.
//
// With E = exp(-g) ~ Exp(1) and a = noise_scale / tau, the unnormalized weight of an unseen item is E^-a, and that of a
// seen item is exp(1 / tau) E^-a. The k-th smallest E of n unseen items is the sum of Exp(1) / (n - j) over j < k, and
// its item is uniform among the unseen items not drawn yet. The drawing stops when the expected weight of the remaining
// items is below 2^-24 of the largest weight. All weights are logarithms, because the weights themselves overflow.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "common/gumbel.h"
#include "common/philox.h"

namespace mmssl {

// A Fisher-Yates shuffle of [0, n), one step at a time, which stores only the places that were swapped.
class SparseShuffle {
 public:
  SparseShuffle() : slots_(64) {}

  void reset() {
    ++epoch_;
    stored_ = 0;
  }

  // Swaps the places `step` and `pick` >= step, and returns the value that was at `pick`. Later calls do not use place
  // `step`.
  int64_t take(int64_t step, int64_t pick) {
    const int64_t taken = at(pick);
    if (pick != step) put(pick, at(step));
    return taken;
  }

 private:
  struct Slot {
    int64_t place = 0, value = 0;
    uint64_t epoch = 0;
  };

  size_t find(const std::vector<Slot>& slots, int64_t place) const {
    size_t s = (static_cast<uint64_t>(place) * 0x9E3779B97F4A7C15u) >> 32 & (slots.size() - 1);
    while (slots[s].epoch == epoch_ && slots[s].place != place) s = (s + 1) & (slots.size() - 1);
    return s;
  }

  int64_t at(int64_t place) const {
    const Slot& slot = slots_[find(slots_, place)];
    return slot.epoch == epoch_ ? slot.value : place;
  }

  void put(int64_t place, int64_t value) {
    Slot& slot = slots_[find(slots_, place)];
    if (slot.epoch != epoch_) ++stored_;
    slot = {place, value, epoch_};
    if (2 * stored_ > slots_.size()) grow();
  }

  void grow() {
    std::vector<Slot> larger(2 * slots_.size());
    for (const Slot& slot : slots_) {
      if (slot.epoch == epoch_) larger[find(larger, slot.place)] = slot;
    }
    slots_.swap(larger);
  }

  std::vector<Slot> slots_;
  uint64_t epoch_ = 1;
  size_t stored_ = 0;
};

// The approximate number of operations per row, by which rows are divided among threads: at small tau about 50 draws,
// each with two logarithms, and a sort.
constexpr int64_t kOrderStatisticsWork = int64_t{1} << 14;

struct RowEntry {
  int64_t item;
  double value;  // the logarithm of the weight while the row is drawn, then the softmax
};

class OrderStatistics {
 public:
  OrderStatistics(GumbelNoise noise, int64_t n_items)
      : noise_(noise), key_(philox_key(noise.seed)), power_(noise.noise_scale / noise.tau), n_items_(n_items) {}

  // The row of `user`, whose seen items are seen[0 .. n_seen), ascending. The entries are sorted by item. The result is
  // valid until the next call.
  template <typename Index>
  const std::vector<RowEntry>& row(int64_t user, const Index* seen, int64_t n_seen) {
    entries_.clear();
    double top = draw_seen(static_cast<uint32_t>(user), seen, n_seen);
    top = draw_unseen(static_cast<uint32_t>(user), seen, n_seen, top);
    std::sort(entries_.begin(), entries_.end(), [](const RowEntry& a, const RowEntry& b) { return a.item < b.item; });
    double sum = 0;
    for (RowEntry& entry : entries_) sum += entry.value = std::exp(entry.value - top);
    for (RowEntry& entry : entries_) entry.value /= sum;
    return entries_;
  }

 private:
  static double exponential(uint32_t bits) { return -std::log1p(-static_cast<double>(unit_from_bits(bits))); }

  template <typename Index>
  double draw_seen(uint32_t user, const Index* seen, int64_t n_seen) {
    double top = -INFINITY;
    for (int64_t e = 0; e < n_seen; ++e) {
      const int64_t item = static_cast<int64_t>(seen[e]);
      const Philox4 words = philox4x32(key_, static_cast<uint32_t>(item / 4), user, noise_.offset, kStreamDense);
      const double log_weight = 1 / noise_.tau - power_ * std::log(exponential(words.word[item % 4]));
      entries_.push_back({item, log_weight});
      top = std::max(top, log_weight);
    }
    return top;
  }

  template <typename Index>
  double draw_unseen(uint32_t user, const Index* seen, int64_t n_seen, double top) {
    const int64_t n = n_items_ - n_seen;
    const double log_rest = std::log(static_cast<double>(n) / (power_ - 1));  // of n E^(1-a) / (a - 1) but for E
    const double negligible = -24 * std::log(2.0);
    double e = 0;
    Philox4 gaps{}, picks{};
    shuffle_.reset();
    for (int64_t k = 0; k < n; ++k) {
      if (k % 4 == 0) gaps = philox4x32(key_, static_cast<uint32_t>(k / 4), user, noise_.offset, kStreamGap);
      if (k % 2 == 0) picks = philox4x32(key_, static_cast<uint32_t>(k / 2), user, noise_.offset, kStreamItem);
      e += exponential(gaps.word[k % 4]) / static_cast<double>(n - k);
      const double log_e = std::log(e);
      const int64_t pick = k + uniform64(picks.word[k % 2 * 2], picks.word[k % 2 * 2 + 1], n - k);
      entries_.push_back({unseen_item(shuffle_.take(k, pick), seen, n_seen), -power_ * log_e});
      top = std::max(top, -power_ * log_e);
      if (log_rest + (1 - power_) * log_e - top < negligible) break;
    }
    return top;
  }

  // The unseen item that has `rank` unseen items before it.
  template <typename Index>
  static int64_t unseen_item(int64_t rank, const Index* seen, int64_t n_seen) {
    int64_t low = 0, high = n_seen;  // the number of seen items before it; seen[e] - e is non-decreasing
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (static_cast<int64_t>(seen[middle]) - middle <= rank) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return rank + low;
  }

  GumbelNoise noise_;
  PhiloxKey key_;
  double power_;
  int64_t n_items_;
  std::vector<RowEntry> entries_;
  SparseShuffle shuffle_;
};

}  // namespace mmssl
