// sample_bpr and sample_bpr_users on the CPU. The random numbers are counter-based, so a triple depends on (seed,
// offset, slot) only, where the slot is its index in the batch. reference.sample_bpr defines the result bit for bit.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/isa.h"
#include "common/philox.h"
#include "common/sample_bpr_check.h"
#include "cpu/parallel.h"
#include "cpu/seed_offset.h"

#define MMSSL_KERNELS "cpu/isa/philox.h"
#include "common/each_isa.h"

namespace mmssl {
namespace {

constexpr int64_t kSlotWork = 128;  // operations per slot, most of them binary searches

using Sample = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

// If n ascending integers are removed from 0, 1, 2, ..., the number of them that are below the remaining integer at
// index `rank`. left_before(e) is the number of remaining integers below the e-th removed one; it is non-decreasing.
template <typename LeftBefore>
int64_t taken_before(int64_t rank, int64_t n, LeftBefore left_before) {
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (left_before(middle) <= rank) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

void check_graph(const char* op, const at::Tensor& crow, const at::Tensor& col, int64_t n_items, int64_t batch) {
  check_sampled_graph(op, crow, col, n_items, batch);
  const int64_t* offset = crow.const_data_ptr<int64_t>();
  MMSSL_CHECK(offset[0] == 0 && offset[crow.numel() - 1] == col.numel(), op,
              "crow must run from 0 to nnz = ", col.numel());
}

// Checks the row of a drawn user: its offsets must be within the entries, and it must have a positive and a negative
// item. The offsets are not checked elsewhere.
void check_row(const char* op, const int64_t* edges, int64_t user, int64_t nnz, int64_t n_items) {
  const int64_t begin = edges[user], end = edges[user + 1];
  MMSSL_CHECK(0 <= begin && begin < end && end <= nnz && end - begin < n_items, op, "user ", user, " has the offsets [",
              begin, ", ", end, "), but there are ", nnz, " entries and ", n_items, " items");
}

// The 64-bit words of the slots (or users) [first, last), computed together in vectors.
class Words {
 public:
  Words(SeedOffset noise, PhiloxStream stream, int64_t first, int64_t last) : words_(last - first), first_(first) {
    MMSSL_DISPATCH(philox_words, noise.seed, noise.offset, stream, first, last - first, words_.data());
  }

  uint64_t operator[](int64_t index) const { return words_[index - first_]; }

  int64_t below(int64_t index, int64_t n) const {
    const uint64_t word = (*this)[index];
    return uniform64(static_cast<uint32_t>(word), static_cast<uint32_t>(word >> 32), n);
  }

 private:
  std::vector<uint64_t> words_;
  int64_t first_;
};

// The item with index `rank` among those that are not in seen[0 .. degree).
template <typename Index>
int64_t unseen_item(int64_t rank, const Index* seen, int64_t degree) {
  return rank + taken_before(rank, degree, [&](int64_t e) { return static_cast<int64_t>(seen[e]) - e; });
}

struct SampleBuffers {
  at::Tensor users, pos, neg;
  explicit SampleBuffers(const at::Tensor& crow, int64_t batch)
      : users(at::empty({batch}, crow.options())), pos(at::empty_like(users)), neg(at::empty_like(users)) {}
};

Sample sample_bpr_cpu(const at::Tensor& crow, const at::Tensor& col, const at::Tensor& full_users, int64_t n_items,
                      int64_t batch, const at::Tensor& seed_offset) {
  const char* op = "sample_bpr";
  check_graph(op, crow, col, n_items, batch);
  const SeedOffset noise = read_seed_offset(op, seed_offset);
  MMSSL_CHECK(full_users.scalar_type() == at::kLong && full_users.dim() == 1 && full_users.is_contiguous(), op,
              "full_users must be contiguous int64, got ", full_users.scalar_type(), " ", full_users.sizes());
  const int64_t n_users = crow.numel() - 1, n_full = full_users.numel(), nnz = col.numel();
  const int64_t eligible = col.numel() - n_full * n_items;
  MMSSL_CHECK(batch == 0 || eligible > 0, op, "no user has both a positive and a negative item (", n_users, " users, ",
              n_items, " items, ", col.numel(), " interactions)");
  const int64_t* edges = crow.const_data_ptr<int64_t>();
  const int64_t* full = full_users.const_data_ptr<int64_t>();
  for (int64_t f = 0; f < n_full; ++f) {
    const int64_t user = full[f];
    MMSSL_CHECK(0 <= user && user < n_users && (f == 0 || full[f - 1] < user), op,
                "full_users must be ascending and in [0, ", n_users, "), got ", user, " at position ", f);
    MMSSL_CHECK(edges[user + 1] - edges[user] == n_items, op, "full_users[", f, "] = ", user, " has ",
                edges[user + 1] - edges[user], " of ", n_items, " items");
  }
  SampleBuffers out(crow, batch);
  int64_t *users = write_ptr<int64_t>(out.users), *pos = write_ptr<int64_t>(out.pos),
          *neg = write_ptr<int64_t>(out.neg);
  with_index_type(op, col.scalar_type(), [&](auto index) {
    using Index = decltype(index);
    const Index* item = read_ptr<Index>(col);
    for_rows(0, batch, batch * kSlotWork, [&](int64_t begin, int64_t end) {
      const Words positive(noise, kStreamPositive, begin, end), negative(noise, kStreamNegative, begin, end);
      for (int64_t b = begin; b < end; ++b) {
        int64_t edge = positive.below(b, eligible);
        edge += n_items * taken_before(edge, n_full, [&](int64_t f) { return edges[full[f]] - f * n_items; });
        const int64_t user = std::upper_bound(edges, edges + n_users + 1, edge) - edges - 1;
        MMSSL_CHECK(edge >= 0 && edge < nnz && user >= 0 && user < n_users, op,
                    "crow must be non-decreasing from 0 to nnz = ", nnz);
        check_row(op, edges, user, nnz, n_items);
        users[b] = user;
        pos[b] = item[edge];
        const int64_t degree = edges[user + 1] - edges[user];
        neg[b] = unseen_item(negative.below(b, n_items - degree), item + edges[user], degree);
      }
    });
  });
  return {out.users, out.pos, out.neg};
}

Sample sample_bpr_users_cpu(const at::Tensor& crow, const at::Tensor& col, int64_t n_items, int64_t batch,
                            const at::Tensor& seed_offset) {
  const char* op = "sample_bpr";
  check_graph(op, crow, col, n_items, batch);
  const SeedOffset noise = read_seed_offset(op, seed_offset);
  struct Ticket {
    uint64_t word;
    int64_t user;
    bool operator<(const Ticket& other) const { return word != other.word ? word < other.word : user < other.user; }
  };
  const int64_t n_users = crow.numel() - 1;
  const int64_t* edges = crow.const_data_ptr<int64_t>();
  const Words draws(noise, kStreamUser, 0, n_users);
  std::vector<Ticket> tickets;
  tickets.reserve(n_users);
  for (int64_t user = 0; user < n_users; ++user) {
    const int64_t degree = edges[user + 1] - edges[user];
    if (degree > 0 && degree < n_items) tickets.push_back({draws[user], user});
  }
  const int64_t eligible = static_cast<int64_t>(tickets.size());
  MMSSL_CHECK(batch <= eligible, op, "over=\"users\" draws without replacement, but batch is ", batch, " and only ",
              eligible, " of ", n_users, " users have both a positive and a negative item");
  std::nth_element(tickets.begin(), tickets.begin() + batch, tickets.end());
  std::sort(tickets.begin(), tickets.begin() + batch);
  const Words positive(noise, kStreamPositive, 0, batch), negative(noise, kStreamNegative, 0, batch);
  SampleBuffers out(crow, batch);
  int64_t *users = write_ptr<int64_t>(out.users), *pos = write_ptr<int64_t>(out.pos),
          *neg = write_ptr<int64_t>(out.neg);
  with_index_type(op, col.scalar_type(), [&](auto index) {
    using Index = decltype(index);
    const Index* item = read_ptr<Index>(col);
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t user = tickets[b].user, degree = edges[user + 1] - edges[user];
      check_row(op, edges, user, col.numel(), n_items);
      users[b] = user;
      pos[b] = item[edges[user] + positive.below(b, degree)];
      neg[b] = unseen_item(negative.below(b, n_items - degree), item + edges[user], degree);
    }
  });
  return {out.users, out.pos, out.neg};
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) {
  m.impl("sample_bpr", &mmssl::sample_bpr_cpu);
  m.impl("sample_bpr_users", &mmssl::sample_bpr_users_cpu);
}
