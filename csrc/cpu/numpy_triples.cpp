#include "cpu/numpy_triples.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

namespace mmssl {
namespace {

namespace py = pybind11;

// numpy/random/bitgen.h's bitgen_t, which a bit generator's capsule points to (NumPy's documented C interface).
struct BitGenerator {
  void* state;
  uint64_t (*next_uint64)(void*);
  uint32_t (*next_uint32)(void*);
  double (*next_double)(void*);
  uint64_t (*next_raw)(void*);
};

// Equals np.random.randint(0, largest + 1): takes as many low bits of a 32-bit word as `largest` has, and another word
// as long as they exceed it. No word is drawn if largest is 0.
int64_t draw_upto(const BitGenerator& generator, int64_t largest) {
  if (largest == 0) return 0;
  uint32_t mask = static_cast<uint32_t>(largest);
  for (int shift = 1; shift < 32; shift *= 2) mask |= mask >> shift;
  for (;;) {
    const uint32_t value = generator.next_uint32(generator.state) & mask;
    if (value <= largest) return value;
  }
}

using Indices = py::array_t<int64_t, py::array::c_style>;

void require(bool rule, const std::string& message) {
  if (!rule) throw std::invalid_argument("numpy_triples: " + message);
}

std::pair<Indices, Indices> numpy_triples(const py::capsule& capsule, const Indices& users, const Indices& crow,
                                          const Indices& items, const Indices& ascending, int64_t n_items) {
  const auto* generator = static_cast<const BitGenerator*>(PyCapsule_GetPointer(capsule.ptr(), "BitGenerator"));
  if (generator == nullptr) throw py::error_already_set();
  require(users.ndim() == 1 && crow.ndim() == 1 && items.ndim() == 1 && ascending.ndim() == 1 && crow.size() > 0 &&
              items.size() == ascending.size(),
          "users must be [B], crow [U + 1], and items and ascending [nnz]");
  require(0 < n_items && n_items <= int64_t{1} << 32, "n_items = " + std::to_string(n_items) + " is not in [1, 2^32]");
  const int64_t batch = users.size(), n_users = crow.size() - 1;
  const int64_t *user = users.data(), *offset = crow.data(), *item = items.data(), *seen = ascending.data();
  for (int64_t b = 0; b < batch; ++b) {
    require(0 <= user[b] && user[b] < n_users, "users[" + std::to_string(b) + "] = " + std::to_string(user[b]) +
                                                   " is not one of the " + std::to_string(n_users));
    const int64_t begin = offset[user[b]], end = offset[user[b] + 1];
    require(0 <= begin && begin < end && end <= items.size() && end - begin < n_items,
            "user " + std::to_string(user[b]) + " needs an item and a missing one");
  }
  Indices positives(batch), negatives(batch);
  int64_t *pos = positives.mutable_data(), *neg = negatives.mutable_data();
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t begin = offset[user[b]], end = offset[user[b] + 1];
    pos[b] = item[begin + draw_upto(*generator, end - begin - 1)];
    do {
      neg[b] = draw_upto(*generator, n_items - 1);
    } while (std::binary_search(seen + begin, seen + end, neg[b]));
  }
  return {positives, negatives};
}

}  // namespace

void bind_numpy_triples(py::module_& m) {
  m.def("numpy_triples", &numpy_triples, py::arg("bit_generator").noconvert(), py::arg("users").noconvert(),
        py::arg("crow").noconvert(), py::arg("items").noconvert(), py::arg("ascending").noconvert(),
        py::arg("n_items"));
}

}  // namespace mmssl
