#include "cpu/isa/spmm.h"

#include "cpu/isa/lanes.h"

namespace mmssl::MMSSL_ISA {
namespace {

// Vectors of sums held in registers (there are 16 or 32).
constexpr int kAccumulators = 8;

// The number of entries ahead for which the row of x is prefetched. The entries of the next rows follow in col, so that
// the prefetches continue across the end of a row, where the exit of the loop is mispredicted.
constexpr int64_t kAhead = 16;

template <typename T, typename A, typename Index>
inline A entry_weight(const SpmmArgs<T, A, Index>& args, int64_t e, int64_t column) {
  A weight = args.value == nullptr ? A(1) : args.value[e];
  if (args.col_scale != nullptr) weight *= args.col_scale[column];
  return weight;
}

// Writes the lanes [first, kLanes) of sum to row r, from column `start + first` on.
template <bool whole, typename T, typename A, typename Index>
inline void write_lanes(const SpmmArgs<T, A, Index>& args, int64_t r, int64_t start, Lanes<A> sum, int64_t first) {
  const int64_t target = args.rows == nullptr ? r : args.rows[r];
  T* y = args.y == nullptr ? nullptr : args.y + r * args.d + start;
  const T* base = args.total == nullptr ? nullptr : args.base + target * args.base_stride + start;
  T* total = args.total == nullptr ? nullptr : args.total + target * args.total_stride + start;
  if (whole) {
    if (y != nullptr) store_lanes(sum, y);
    if (total != nullptr) store_lanes(args.from_base ? sum : (load_lanes(base) + sum) * args.factor, total);
    return;
  }
  for (int64_t lane = first; lane < kLanes<A>; ++lane) {
    if (y != nullptr) store(sum[lane], y + lane);
    if (total != nullptr)
      store(args.from_base ? sum[lane] : (load(base[lane]) + sum[lane]) * args.factor, total + lane);
  }
}

// Computes the columns [start, start + width) of row r in `count` vectors. If width is not a multiple of a vector, the
// last vector ends at the last column and overlaps the vector before it; the overlap is not written.
template <int count, bool whole, typename T, typename A, typename Index>
void row_strip(const SpmmArgs<T, A, Index>& args, int64_t r, int64_t start, int64_t width, int64_t last_entry) {
  const int64_t last = whole ? (count - 1) * kLanes<A> : width - kLanes<A>;
  Lanes<A> sum[count] = {};
  if (args.from_base) {
    const T* base = args.base + (args.rows == nullptr ? r : args.rows[r]) * args.base_stride + start;
    for (int v = 0; v < count - 1; ++v) sum[v] = load_lanes(base + v * kLanes<A>);
    sum[count - 1] = load_lanes(base + last);
  }
  for (int64_t e = args.crow[r], stop = args.crow[r + 1]; e < stop; ++e) {
    const int64_t column = args.col[e];
    const int64_t ahead = e + kAhead < last_entry ? e + kAhead : last_entry;
    const char* next = reinterpret_cast<const char*>(args.x + args.col[ahead] * args.x_stride + start);
    for (int64_t byte = 0; byte < count * kLanes<A> * static_cast<int64_t>(sizeof(T)); byte += 64) {
      __builtin_prefetch(next + byte);
    }
    const A weight = entry_weight(args, e, column);
    const T* x = args.x + column * args.x_stride + start;
#pragma GCC unroll 8
    for (int v = 0; v < count - 1; ++v) sum[v] += weight * load_lanes(x + v * kLanes<A>);
    sum[count - 1] += weight * load_lanes(x + last);
  }
  const A scale = args.row_scale == nullptr ? A(1) : args.row_scale[r];
#pragma GCC unroll 8
  for (int v = 0; v < count - 1; ++v) write_lanes<true>(args, r, start + v * kLanes<A>, sum[v] * scale, 0);
  write_lanes<whole>(args, r, start + last, sum[count - 1] * scale, count * kLanes<A> - width);
}

template <int count, typename T, typename A, typename Index>
inline void last_strip(const SpmmArgs<T, A, Index>& args, int64_t r, int64_t start, int64_t last_entry) {
  const int64_t width = args.d - start;
  if (width == count * kLanes<A>) {
    row_strip<count, true>(args, r, start, width, last_entry);
  } else {
    row_strip<count, false>(args, r, start, width, last_entry);
  }
}

// Writes the scaled sums of row r, which has fewer columns than a vector holds. Not inlined: the compiler would fuse
// scale and base into one multiply-add for some widths, and the last bit of a column would depend on the number of
// columns.
template <typename T, typename A, typename Index>
__attribute__((noinline)) void write_narrow(const SpmmArgs<T, A, Index>& args, int64_t r, const A* sum) {
  const int64_t target = args.rows == nullptr ? r : args.rows[r];
  for (int64_t j = 0; j < args.d; ++j) {
    if (args.y != nullptr) store(sum[j], args.y + r * args.d + j);
    if (args.total != nullptr) {
      const A base = load(args.base[target * args.base_stride + j]);
      store(args.from_base ? sum[j] : (base + sum[j]) * args.factor, args.total + target * args.total_stride + j);
    }
  }
}

// Computes fewer columns than a vector has lanes.
template <typename T, typename A, typename Index>
inline void narrow_row(const SpmmArgs<T, A, Index>& args, int64_t r) {
  A sum[kLanes<A>] = {};
  if (args.from_base) {
    const T* base = args.base + (args.rows == nullptr ? r : args.rows[r]) * args.base_stride;
    for (int64_t j = 0; j < args.d; ++j) sum[j] = load(base[j]);
  }
  for (int64_t e = args.crow[r], stop = args.crow[r + 1]; e < stop; ++e) {
    const int64_t column = args.col[e];
    const A weight = entry_weight(args, e, column);
    const T* x = args.x + column * args.x_stride;
    for (int64_t j = 0; j < args.d; ++j) sum[j] += weight * load(x[j]);
  }
  const A scale = args.row_scale == nullptr ? A(1) : args.row_scale[r];
  for (int64_t j = 0; j < args.d; ++j) sum[j] *= scale;
  write_narrow(args, r, sum);
}

}  // namespace

template <typename T, typename A, typename Index>
void spmm_rows(const SpmmArgs<T, A, Index>& args, int64_t begin, int64_t end) {
  constexpr int64_t lanes = kLanes<A>, strip = kAccumulators * lanes;
  const int64_t last_entry = args.crow[end] - 1;
  for (int64_t r = begin; r < end; ++r) {
    if (args.rows != nullptr && args.crow[r] == args.crow[r + 1]) continue;
    if (args.d < lanes) {
      narrow_row(args, r);
      continue;
    }
    int64_t start = 0;
    for (; args.d - start >= strip + lanes; start += strip) {
      row_strip<kAccumulators, true>(args, r, start, strip, last_entry);
    }
    // The number of remaining columns is at least one vector, and less than a strip plus one vector.
    switch ((args.d - start + lanes - 1) / lanes) {
      case 9:
        row_strip<5, true>(args, r, start, 5 * lanes, last_entry);
        start += 5 * lanes;
        [[fallthrough]];
      case 4:
        last_strip<4>(args, r, start, last_entry);
        break;
      case 8:
        last_strip<8>(args, r, start, last_entry);
        break;
      case 7:
        last_strip<7>(args, r, start, last_entry);
        break;
      case 6:
        last_strip<6>(args, r, start, last_entry);
        break;
      case 5:
        last_strip<5>(args, r, start, last_entry);
        break;
      case 3:
        last_strip<3>(args, r, start, last_entry);
        break;
      case 2:
        last_strip<2>(args, r, start, last_entry);
        break;
      default:
        last_strip<1>(args, r, start, last_entry);
    }
  }
}

template <typename Index>
bool columns_in_range(const Index* col, int64_t begin, int64_t end, int64_t n_cols) {
  // The loop has no early exit, so that it is vectorised.
  Index low = 0, high = 0;
  for (int64_t e = begin; e < end; ++e) {
    low = col[e] < low ? col[e] : low;
    high = col[e] > high ? col[e] : high;
  }
  return begin >= end || (low >= 0 && high < n_cols);
}

#define MMSSL_INSTANTIATE(T, A, Index) \
  template void spmm_rows<T, A, Index>(const SpmmArgs<T, A, Index>&, int64_t, int64_t);
MMSSL_INSTANTIATE(float, float, int32_t)
MMSSL_INSTANTIATE(float, float, int64_t)
MMSSL_INSTANTIATE(double, double, int32_t)
MMSSL_INSTANTIATE(double, double, int64_t)
MMSSL_INSTANTIATE(BFloat16, float, int32_t)
MMSSL_INSTANTIATE(BFloat16, float, int64_t)
#undef MMSSL_INSTANTIATE
template bool columns_in_range<int32_t>(const int32_t*, int64_t, int64_t, int64_t);
template bool columns_in_range<int64_t>(const int64_t*, int64_t, int64_t, int64_t);

}  // namespace mmssl::MMSSL_ISA
