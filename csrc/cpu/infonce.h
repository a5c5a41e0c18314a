// The sizes that determine the memory of infonce. _C.infonce_sizes() returns them, so that memory can be planned.
#pragma once

#include <cstdint>

namespace mmssl {

constexpr int64_t kInfonceBlock = 1024;             // anchors whose partial sums are in memory at once
constexpr int64_t kInfonceAnchors = 256;            // anchors of a tile
constexpr int64_t kInfonceKeys = 256;               // keys of a tile
constexpr int64_t kInfonceMinAnchors = 32;          // minimum number that infonce_with_grad processes at once
constexpr int64_t kInfonceExps = int64_t{1} << 22;  // maximum number of values exp(product) in infonce_with_grad

// With exp(product) kept in bfloat16: maximum number of values, unless the minimum number of anchors has more.
constexpr int64_t kInfonceKept = int64_t{1} << 23, kInfonceKeptAnchors = 256;

constexpr double kInfonceSpan = 80;  // maximum range of logits whose exp is a normal float32

// The maximum number of anchors whose exp(product) are kept in bfloat16: a multiple of 128.
int64_t infonce_kept_anchors(int64_t users);

// Whether the processor computes calls with rounded operands by infonce_pieces.cpp, if they suit it: AVX512-BF16.
bool infonce_has_bfloat16();

// Whether the processor computes float32 calls by infonce_pieces.cpp, if they suit it: AMX.
bool infonce_has_pieces();

}  // namespace mmssl
