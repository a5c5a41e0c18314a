// Sizes that decide how much memory infonce takes; _C.infonce_sizes() gives them to whoever plans memory.
#pragma once

#include <cstdint>

namespace mmssl {

constexpr int64_t kInfonceBlock = 1024;             // anchors whose shares are held at once
constexpr int64_t kInfonceAnchors = 256;            // anchors of a tile
constexpr int64_t kInfonceKeys = 256;               // keys of a tile
constexpr int64_t kInfonceMinAnchors = 32;          // that infonce_with_grad holds at once, however many the users
constexpr int64_t kInfonceExps = int64_t{1} << 22;  // values of exp(product) that infonce_with_grad holds at once

}  // namespace mmssl
