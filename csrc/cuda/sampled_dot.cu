// sampled_dot: the entries of U Vᵀ at the positions of a CSR block.
//
// Limited by memory, like spmm: an entry takes 2 d operations and sizeof(T) d bytes of v. The row of u is read once,
// and then comes from L1. A team of lanes processes a row, or a later chunk of a long row (chunks.h). There is no sum
// over entries, so rows and chunks are one launch. Several lanes compute an entry, several entries are computed side by
// side, and kInFlight times as many 16-byte loads of v are in flight. The order of the sum of an entry depends on d
// only.
#include "cuda/sampled_dot.h"

#include "cuda/chunks.h"
#include "cuda/packs.h"

namespace mmssl::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kInFlight = 4;
constexpr int kMinTeamLog2 = 3;

template <typename T, typename Index>
struct SampledDotWork {
  SampledDotArgs<T, Index> args;
  unsigned row_blocks;  // the first blocks process rows, the others windows
  int lanes_log2;       // lanes of one entry
  int team_log2;        // lanes of one row
};

// Computes the entries [begin, begin + entries) of row r with a team of 2^team_log2 lanes. All lanes of the warp must
// call it.
template <int kVec, typename T, typename Index>
__device__ __forceinline__ void dot_entries(const SampledDotWork<T, Index>& work, int team_log2, int64_t r,
                                            int64_t begin, int entries) {
  using A = wide_t<T>;
  const SampledDotArgs<T, Index>& args = work.args;
  const int team = 1 << team_log2, lanes = 1 << work.lanes_log2, d = static_cast<int>(args.d);
  const int place = threadIdx.x & (team - 1), first_column = (threadIdx.x & (lanes - 1)) * kVec;
  const int turn = place >> work.lanes_log2, turns = 1 << (team_log2 - work.lanes_log2);
  const T* u = args.u + r * d;
  for (int longest = __reduce_max_sync(kAllLanes, entries); longest > 0; longest -= team) {
    Index mine = 0;
    if (place < entries) {
      mine = args.col[begin + place];
      MMSSL_DEVICE_CHECK(mine >= 0 && mine < args.n_cols);
    }
#pragma unroll 1
    for (int first = 0; first < longest && first < team; first += kInFlight * turns) {
      const int here = min(team, entries) - first - turn;  // this turn's are those with f * turns < here
      const T* v[kInFlight];
      A sum[kInFlight] = {};
#pragma unroll
      for (int f = 0; f < kInFlight; ++f) {
        const int64_t row = __shfl_sync(kAllLanes, mine, first + f * turns + turn, team);
        v[f] = args.v + row * d;
      }
#pragma unroll 1
      for (int column = first_column; column < d && here > 0; column += kVec * lanes) {
        Pack<kVec, T> from_u, from_v[kInFlight];
#pragma unroll
        for (int f = 0; f < kInFlight; ++f) {
          if (f * turns < here) {
            from_v[f].load(v[f] + column);
          } else {
            from_v[f].zero();
          }
        }
        from_u.load(u + column);
#pragma unroll
        for (int f = 0; f < kInFlight; ++f) {
#pragma unroll
          for (int i = 0; i < kVec; ++i) sum[f] += from_u[i] * from_v[f][i];
        }
      }
#pragma unroll
      for (int f = 0; f < kInFlight; ++f) {
        const A whole = sum_over_lanes(sum[f], 1, lanes);
        if (f * turns < here && first_column == 0) narrow(whole, args.s + begin + first + f * turns + turn);
      }
    }
    begin += team;
    entries -= team;
  }
}

template <int kVec, typename T, typename Index>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 ? 4 : 3) sampled_dot_kernel(SampledDotWork<T, Index> work) {
  const SampledDotArgs<T, Index>& args = work.args;
  if (blockIdx.x < work.row_blocks) {
    const int64_t r = (int64_t{blockIdx.x} * kThreads + threadIdx.x) >> work.team_log2;
    int64_t begin = 0, end = 0;
    if (r < args.n_rows) {
      begin = args.crow[r];
      end = args.crow[r + 1];
      MMSSL_DEVICE_CHECK(begin <= end && end <= args.nnz && (r == 0 ? begin == 0 : begin >= 0));
    }
    dot_entries<kVec>(work, work.team_log2, r, begin, static_cast<int>(end - begin < kChunk ? end - begin : kChunk));
    return;
  }
  const int64_t blocks = gridDim.x - work.row_blocks, block = blockIdx.x - work.row_blocks;
  const int64_t n_warps = blocks * (kThreads / kWarp), warp = block * (kThreads / kWarp) + threadIdx.x / kWarp;
  for_each_chunk(args.crow, args.n_rows, args.nnz, warp, n_warps, [&](const Chunk& chunk) {
    dot_entries<kVec>(work, 5, chunk.row, chunk.begin, static_cast<int>(chunk.end - chunk.begin));
  });
  const int64_t used = args.crow[args.n_rows], threads = blocks * kThreads;
  for (int64_t e = used + block * kThreads + threadIdx.x; e < args.nnz; e += threads) narrow(wide_t<T>(0), args.s + e);
}

template <int kVec, typename T, typename Index>
void launch_sampled_dot(const SampledDotArgs<T, Index>& args, cudaStream_t stream) {
  SampledDotWork<T, Index> work{args, 0, lanes_log2(args.d, kVec), kMinTeamLog2};
  if (work.lanes_log2 + 1 > work.team_log2) work.team_log2 = work.lanes_log2 < 5 ? work.lanes_log2 + 1 : 5;
  const int64_t rows_per_block = kThreads >> work.team_log2;
  work.row_blocks = static_cast<unsigned>((args.n_rows + rows_per_block - 1) / rows_per_block);
  const unsigned blocks = work.row_blocks + static_cast<unsigned>(chunk_blocks(args.nnz, kThreads / kWarp));
  launch("sampled_dot", sampled_dot_kernel<kVec, T, Index>, dim3(blocks), dim3(kThreads), 0, stream, work);
}

}  // namespace

template <typename T, typename Index>
void sampled_dot_cuda(const SampledDotArgs<T, Index>& args, cudaStream_t stream) {
  if (args.nnz == 0) return;
  if (args.d % kPackSize<T> == 0 && rows_aligned(args.u, args.d) && rows_aligned(args.v, args.d)) {
    launch_sampled_dot<kPackSize<T>>(args, stream);
  } else {
    launch_sampled_dot<1>(args, stream);
  }
}

#define MMSSL_INSTANTIATE(T, Index) \
  template void sampled_dot_cuda<T, Index>(const SampledDotArgs<T, Index>&, cudaStream_t);
MMSSL_INSTANTIATE(float, int32_t)
MMSSL_INSTANTIATE(float, int64_t)
MMSSL_INSTANTIATE(double, int32_t)
MMSSL_INSTANTIATE(double, int64_t)
MMSSL_INSTANTIATE(BFloat16, int32_t)
MMSSL_INSTANTIATE(BFloat16, int64_t)
#undef MMSSL_INSTANTIATE

}  // namespace mmssl::cuda
