// spmm: rows of a CSR block times a dense matrix.
//
// Limited by memory: an entry takes 2 d operations and sizeof(T) d bytes of x, which is half an operation per byte in
// float32, and an H100 has 20. The traffic is nnz (sizeof(T) d + sizeof(Index) + factors) + rows (8 + sizeof(T) d)
// bytes, where x comes from L2 if it fits. Therefore every lane keeps several 16-byte loads of x in flight. The column
// indices are read once, coalesced, and exchanged between the lanes by shuffles. A row is processed by a team of lanes:
// as many as are needed for d values at 16 bytes each, and several times as many if they fit a warp, so that no lanes
// are idle. Rows of more than kChunk entries are divided (see chunks.h): a first kernel adds up the later chunks, and
// the second kernel adds these sums to that of the first chunk. There are no atomics, and the order of every sum
// depends on the row only.
#include "cuda/spmm.h"

#include "cuda/chunks.h"
#include "cuda/packs.h"

namespace mmssl::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMinTeamLog2 = 3;

// The number of blocks per multiprocessor that the registers allow, for the given number of bytes of sums per lane.
constexpr int blocks_for(int bytes) { return bytes <= 16 ? 4 : bytes <= 32 ? 3 : 2; }

template <typename T, typename A, typename Index>
struct SpmmWork {
  SpmmArgs<T, A, Index> args;
  SpmmSizes sizes;
  A* partial;      // [chunk_windows(nnz), d]
  int d;           // args.d
  int lanes_log2;  // lanes for a row of x
  int team_log2;   // lanes for a row of the block, which process several entries at a time
};

// The columns of a row in one lane: kStrips times kVec consecutive columns from `first` on, at a distance of `apart`.
template <int kVec, int kStrips>
struct Columns {
  int first, apart;

  template <typename Work>
  __device__ explicit Columns(const Work& work)
      : first((static_cast<int>(blockIdx.y) * kStrips << work.lanes_log2) * kVec +
              (static_cast<int>(threadIdx.x) & ((1 << work.lanes_log2) - 1)) * kVec),
        apart(kVec << work.lanes_log2) {}

  __device__ int operator[](int strip) const { return first + strip * apart; }
};

// Adds value[e] col_scale[col[e]] x[col[e]] for the `entries` entries from `begin` on. A team of 2^team_log2 lanes
// processes several entries at once, and the caller must add the results of the lanes for different entries. All lanes
// of the warp must call it.
template <int kVec, int kStrips, typename T, typename A, typename Index>
__device__ __forceinline__ void add_entries(const SpmmWork<T, A, Index>& work, Columns<kVec, kStrips> columns,
                                            int team_log2, int64_t begin, int entries, A (&sum)[kStrips][kVec]) {
  constexpr int kInFlight = kStrips == 1 ? 4 : 2;
  const SpmmArgs<T, A, Index>& args = work.args;
  const int team = 1 << team_log2, lane = threadIdx.x % kWarp, place = lane & (team - 1);
  const int turn = place >> work.lanes_log2, turns = 1 << (team_log2 - work.lanes_log2);
  const T* x_row0 = args.x + columns.first;
  for (int longest = __reduce_max_sync(kAllLanes, entries); longest > 0; longest -= team) {
    Index mine = 0;
    A my_weight = 0;
    if (place < entries) {
      mine = args.col[begin + place];
      MMSSL_DEVICE_CHECK(mine >= 0 && mine < work.sizes.n_cols);
      my_weight = args.value == nullptr ? A(1) : args.value[begin + place];
      if (args.col_scale != nullptr) my_weight *= args.col_scale[mine];
    }
#pragma unroll 1
    for (int first = 0; first < longest && first < team; first += kInFlight * turns) {
      Pack<kVec, T> x[kInFlight][kStrips];
#pragma unroll
      for (int f = 0; f < kInFlight; ++f) {
        const int k = first + f * turns + turn;
        const int64_t row = __shfl_sync(kAllLanes, mine, k, team);
#pragma unroll
        for (int s = 0; s < kStrips; ++s) {
          if (k < team && k < entries && columns[s] < work.d) {
            x[f][s].load(x_row0 + row * args.x_stride + s * columns.apart);
          } else {
            x[f][s].zero();
          }
        }
      }
#pragma unroll
      for (int f = 0; f < kInFlight; ++f) {
        const int k = first + f * turns + turn;
        A weight = __shfl_sync(kAllLanes, my_weight, k, team);
        if (k >= team || k >= entries) weight = 0;
#pragma unroll
        for (int s = 0; s < kStrips; ++s) {
#pragma unroll
          for (int i = 0; i < kVec; ++i) sum[s][i] += weight * x[f][s][i];
        }
      }
    }
    begin += team;
    entries -= team;
  }
}

// Adds the results of the lanes for different entries. Every lane gets the sum.
template <int kVec, int kStrips, typename A>
__device__ __forceinline__ void add_turns(int lanes_log2, int team_log2, A (&sum)[kStrips][kVec]) {
#pragma unroll
  for (int s = 0; s < kStrips; ++s) {
#pragma unroll
    for (int i = 0; i < kVec; ++i) sum[s][i] = sum_over_lanes(sum[s][i], 1 << lanes_log2, 1 << team_log2);
  }
}

template <int kVec, int kStrips, typename T, typename A, typename Index>
__global__ void __launch_bounds__(kThreads, blocks_for(2 * kVec * kStrips * sizeof(A)))
    spmm_chunks_kernel(SpmmWork<T, A, Index> work) {
  const SpmmArgs<T, A, Index>& args = work.args;
  const Columns<kVec, kStrips> columns(work);
  const int64_t warps = kThreads / kWarp, warp = blockIdx.x * warps + threadIdx.x / kWarp;
  for_each_chunk(args.crow, work.sizes.n_rows, work.sizes.nnz, warp, gridDim.x * warps, [&](const Chunk& chunk) {
    A sum[kStrips][kVec] = {};
    add_entries(work, columns, 5, chunk.begin, static_cast<int>(chunk.end - chunk.begin), sum);
    add_turns(work.lanes_log2, 5, sum);
    if (threadIdx.x % kWarp >> work.lanes_log2 != 0) return;
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
      const int column = columns[s];
      if (column < work.d) store_values(sum[s], work.partial + chunk.begin / kChunk * args.d + column);
    }
  });
}

// Writes y and total of one row, as defined by SpmmArgs.
template <int kVec, int kStrips, typename T, typename A, typename Index>
__device__ __forceinline__ void write_row(const SpmmWork<T, A, Index>& work, Columns<kVec, kStrips> columns, int64_t r,
                                          bool empty, const A (&sum)[kStrips][kVec]) {
  const SpmmArgs<T, A, Index>& args = work.args;
  if (empty && args.rows != nullptr) return;
  const int64_t target = args.rows == nullptr ? r : args.rows[r];
  if (args.total != nullptr) MMSSL_DEVICE_CHECK(target >= 0 && target < work.sizes.n_out);
  const A scale = args.row_scale == nullptr ? A(1) : args.row_scale[r];
#pragma unroll
  for (int s = 0; s < kStrips; ++s) {
    const int column = columns[s];
    if (column >= work.d) continue;
    T value[kVec];
    if (args.y != nullptr) {
#pragma unroll
      for (int i = 0; i < kVec; ++i) narrow(sum[s][i] * scale, &value[i]);
      store_values(value, args.y + r * args.d + column);
    }
    if (args.total != nullptr) {
      const T* base = args.base + target * args.base_stride + column;
#pragma unroll
      for (int i = 0; i < kVec; ++i) value[i] = base[i];
#pragma unroll
      for (int i = 0; i < kVec; ++i) narrow((widen(value[i]) + sum[s][i] * scale) * args.factor, &value[i]);
      store_values(value, args.total + target * args.total_stride + column);
    }
  }
}

template <int kVec, int kStrips, typename T, typename A, typename Index>
__global__ void __launch_bounds__(kThreads, blocks_for(kVec * kStrips * sizeof(A)))
    spmm_rows_kernel(SpmmWork<T, A, Index> work) {
  const SpmmArgs<T, A, Index>& args = work.args;
  const Columns<kVec, kStrips> columns(work);
  const int64_t r = (int64_t{blockIdx.x} * kThreads + threadIdx.x) >> work.team_log2;
  const int turn = (threadIdx.x & ((1 << work.team_log2) - 1)) >> work.lanes_log2;
  int64_t begin = 0, end = 0;
  if (r < work.sizes.n_rows) {
    begin = args.crow[r];
    end = args.crow[r + 1];
    MMSSL_DEVICE_CHECK(begin >= 0 && begin <= end && end <= work.sizes.nnz);
  }
  A sum[kStrips][kVec] = {};
  add_entries(work, columns, work.team_log2, begin, static_cast<int>(end - begin < kChunk ? end - begin : kChunk), sum);
  const int64_t chunks = (end - begin + kChunk - 1) / kChunk;
#pragma unroll 2
  for (int64_t chunk = 1 + turn; chunk < chunks; chunk += 1 << (work.team_log2 - work.lanes_log2)) {
    const A* partial = work.partial + (begin / kChunk + chunk) * args.d;
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
      const int column = columns[s];
      if (column >= work.d) continue;
      Pack<kVec, A> part;
      part.load(partial + column);
#pragma unroll
      for (int i = 0; i < kVec; ++i) sum[s][i] += part[i];
    }
  }
  add_turns(work.lanes_log2, work.team_log2, sum);
  if (turn == 0 && r < work.sizes.n_rows) write_row(work, columns, r, begin == end, sum);
}

template <int kVec, int kStrips, typename T, typename A, typename Index>
void launch_spmm(const char* op, SpmmWork<T, A, Index> work, cudaStream_t stream) {
  const int64_t d = work.args.d;
  work.lanes_log2 = lanes_log2(d, kVec);
  work.team_log2 = work.lanes_log2 + 1 < kMinTeamLog2 ? kMinTeamLog2 : work.lanes_log2 + 1;
  if (work.team_log2 > 5) work.team_log2 = 5;
  const int64_t width = (int64_t{kVec} << work.lanes_log2) * kStrips;
  const unsigned tiles = static_cast<unsigned>((d + width - 1) / width);
  const int64_t rows_per_block = kThreads >> work.team_log2;
  if (work.sizes.nnz > kChunk) {
    const unsigned blocks = static_cast<unsigned>(chunk_blocks(work.sizes.nnz, kThreads / kWarp));
    launch(op, spmm_chunks_kernel<kVec, kStrips, T, A, Index>, dim3(blocks, tiles), dim3(kThreads), 0, stream, work);
  }
  const unsigned blocks = static_cast<unsigned>((work.sizes.n_rows + rows_per_block - 1) / rows_per_block);
  launch(op, spmm_rows_kernel<kVec, kStrips, T, A, Index>, dim3(blocks, tiles), dim3(kThreads), 0, stream, work);
}

template <typename T, typename A, typename Index>
bool all_rows_aligned(const SpmmArgs<T, A, Index>& args) {
  return args.d % kPackSize<T> == 0 && rows_aligned(args.x, args.x_stride) && rows_aligned(args.y, args.d) &&
         rows_aligned(args.base, args.base_stride) && rows_aligned(args.total, args.total_stride);
}

}  // namespace

int64_t spmm_partial_rows(int64_t nnz) { return nnz > kChunk ? chunk_windows(nnz) : 0; }

template <typename T, typename A, typename Index>
void spmm_cuda(const char* op, const SpmmArgs<T, A, Index>& args, const SpmmSizes& sizes, A* partial,
               cudaStream_t stream) {
  if (sizes.n_rows == 0 || args.d == 0) return;
  const SpmmWork<T, A, Index> work{args, sizes, partial, static_cast<int>(args.d), 0, 0};
  constexpr int pack = kPackSize<T>;
  if (!all_rows_aligned(args)) {
    args.d <= 32 ? launch_spmm<1, 1>(op, work, stream) : launch_spmm<1, 4>(op, work, stream);
  } else if (args.d <= 32 * pack) {
    launch_spmm<pack, 1>(op, work, stream);
  } else if (args.d <= 64 * pack) {
    launch_spmm<pack, 2>(op, work, stream);
  } else {
    launch_spmm<pack, 4>(op, work, stream);
  }
}

#define MMSSL_INSTANTIATE(T, A, Index) \
  template void spmm_cuda<T, A, Index>(const char*, const SpmmArgs<T, A, Index>&, const SpmmSizes&, A*, cudaStream_t);
MMSSL_INSTANTIATE(float, float, int32_t)
MMSSL_INSTANTIATE(float, float, int64_t)
MMSSL_INSTANTIATE(double, double, int32_t)
MMSSL_INSTANTIATE(double, double, int64_t)
MMSSL_INSTANTIATE(BFloat16, float, int32_t)
MMSSL_INSTANTIATE(BFloat16, float, int64_t)
#undef MMSSL_INSTANTIATE

}  // namespace mmssl::cuda
