// Philox4x32-10: the known answers published with it (Random123, kat_vectors), and the vectorised kernel word by word.
#include "cpu/isa/philox.h"

#include <vector>

#include "check.h"
#include "common/philox.h"

namespace {

void known_answer(const uint32_t (&counter)[4], const uint32_t (&key)[2], const uint32_t (&words)[4]) {
  const mmssl::Philox4 found = mmssl::philox4x32({key[0], key[1]}, counter[0], counter[1], counter[2], counter[3]);
  for (int i = 0; i < 4; ++i) CHECK(found.word[i] == words[i], "word %d: %08x, not %08x", i, found.word[i], words[i]);
}

void kernel_equals_definition(uint64_t seed, uint32_t offset, uint32_t stream, int64_t columns) {
  const std::vector<int64_t> rows = {0, 5, 2, 4294967295};
  const int64_t n_rows = static_cast<int64_t>(rows.size());
  std::vector<int64_t> bits(n_rows * columns, -1);
  in_two_threads(n_rows, [&](int64_t begin, int64_t end) {
    mmssl::MMSSL_ISA::philox_bits(seed, offset, stream, rows.data(), columns, bits.data(), begin, end);
  });
  for (int64_t r = 0; r < n_rows; ++r) {
    for (int64_t j = 0; j < columns; ++j) {
      const mmssl::Philox4 truth = mmssl::philox4x32(mmssl::philox_key(seed), static_cast<uint32_t>(j / 4),
                                                     static_cast<uint32_t>(rows[r]), offset, stream);
      CHECK(bits[r * columns + j] == truth.word[j % 4], "row %lld, column %lld of %lld", (long long)r, (long long)j,
            (long long)columns);
    }
  }
}

}  // namespace

int main() {
  skip_unless_level_is_here();
  known_answer({0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  known_answer({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff},
               {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  known_answer({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0},
               {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
  for (int64_t columns : {0, 1, 3, 4, 63, 64, 65, 401}) {
    kernel_equals_definition(0, 0, 0, columns);
    kernel_equals_definition(0xfedcba9876543210u, 0xffffffffu, 6, columns);
  }
  std::puts("ok");
}
