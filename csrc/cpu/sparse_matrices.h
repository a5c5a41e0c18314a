// What is known of the sparse matrices that are multiplied inside mmssl_fast.dropin.sparse.accelerated(): which are
// prepared, and which products torch computes faster. Everything is called with the GIL.
#pragma once

#include <ATen/SparseCsrTensorImpl.h>
#include <ATen/SparseTensorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/dispatch.h"
#include "common/isa.h"

#define MMSSL_KERNELS "cpu/isa/same_entries.h"
#include "common/each_isa.h"

namespace mmssl::sparse {

namespace py = pybind11;
using at::Tensor;

// A matrix as CSR and transposed CSR: crow, col, value, t_crow, t_col, t_value.
struct Sides {
  std::vector<Tensor> parts;

  Sides transposed() const { return {{parts[3], parts[4], parts[5], parts[0], parts[1], parts[2]}}; }
};

// the product and its gradient

// mmssl_fast.ops.propagate_csr, for what torch.func transforms. Kept until the process ends.
inline PyObject* transformed_product = nullptr;

inline bool in_functorch() {
  return c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
}

// Whether forward-mode differentiation follows x.
inline bool has_tangent(const Tensor& x) {
  const auto* meta = torch::autograd::impl::get_autograd_meta(x);
  return meta != nullptr && meta->fw_grad_ != nullptr && !meta->fw_grad_->empty();
}

inline Tensor call_op(const Sides& m, const Tensor& x) {
  using Op =
      Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, const Tensor&, const Tensor&,
             const std::optional<Tensor>&, const std::optional<Tensor>&, const std::optional<Tensor>&, const Tensor&);
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("mmssl_fast::propagate", "").typed<Op>();
  const at::AutoDispatchBelowAutograd below;
  const auto& p = m.parts;
  return op.call(p[0], p[1], p[2], p[3], p[4], p[5], std::nullopt, std::nullopt, x);
}

inline Tensor multiply(const Sides& m, const Tensor& x);

// The op propagate has a gradient of its own, but torch.library takes 27 microseconds more forward and 16 backward.
struct SparseProduct : torch::autograd::Function<SparseProduct> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x, const Sides& m) {
    ctx->saved_data["sides"] = m.parts;
    return call_op(m, x);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const Sides m{ctx->saved_data["sides"].toTensorVector()};
    return {multiply(m.transposed(), grads[0]), Tensor()};
  }
};

inline Tensor multiply(const Sides& m, const Tensor& x) {
  if (in_functorch() || has_tangent(x)) {
    const py::gil_scoped_acquire gil;
    const auto& p = m.parts;
    return py::handle(transformed_product)(p[0], p[1], p[2], p[3], p[4], p[5], py::none(), py::none(), x)
        .cast<Tensor>();
  }
  return at::GradMode::is_enabled() && x.requires_grad() ? SparseProduct::apply(x, m) : call_op(m, x);
}

// what is known of matrices

// The products of the matrices of one kind. The report of mmssl_fast.dropin.sparse adds them up. After `until` products
// the next one is left to Python, which measures torch's own beside it.
struct Tally {
  int64_t products = 0, until = 0;
  double seconds = 0;

  std::pair<int64_t, double> take() {
    until -= products;
    return {std::exchange(products, 0), std::exchange(seconds, 0)};
  }
};

// The contents of a matrix when it was prepared, and the result. The weak pointer keeps the address from being reused.
struct Prepared {
  c10::weak_intrusive_ptr<c10::TensorImpl> matrix;
  at::Layout layout;
  int64_t rows, cols;
  std::vector<Tensor> indices;  // as Pattern.indices
  Tensor value;
  Sides sides;
  std::shared_ptr<Tally> tally;
  int64_t uses = 0;
};

template <typename Found, typename Kept>
bool same_rows(const Tensor& found, const Tensor& kept) {
  const int64_t n = kept.size(-1), rows = kept.numel() / std::max<int64_t>(n, 1);
  const int64_t row = found.dim() == 2 ? found.stride(0) : 0;
  for (int64_t r = 0; r < rows; ++r) {
    if (!MMSSL_DISPATCH(same_integers, read_ptr<Found>(found) + r * row, found.stride(-1), read_ptr<Kept>(kept) + r * n,
                        n)) {
      return false;
    }
  }
  return true;
}

// found: [n] or [2, n] with any strides. kept: a contiguous copy, also of int64 as int32.
inline bool same_ids(const Tensor& found, const Tensor& kept) {
  if (found.sizes() != kept.sizes()) return false;
  const bool wide = found.scalar_type() == at::kLong;
  if (kept.scalar_type() == at::kLong) return wide && same_rows<int64_t, int64_t>(found, kept);
  return wide ? same_rows<int64_t, int32_t>(found, kept) : same_rows<int32_t, int32_t>(found, kept);
}

// Bit for bit, since NaN is not equal to itself, and 0.0 and -0.0 are.
inline bool same_values(const Tensor& found, const Tensor& kept) {
  return found.scalar_type() == kept.scalar_type() && found.numel() == kept.numel() && found.is_contiguous() &&
         std::memcmp(found.const_data_ptr(), kept.const_data_ptr(), kept.nbytes()) == 0;
}

inline const at::SparseTensorImpl* coo(const Tensor& matrix) {
  return static_cast<at::SparseTensorImpl*>(matrix.unsafeGetTensorImpl());
}

// Of CSR and CSC.
inline const at::SparseCsrTensorImpl* compressed(const Tensor& matrix) {
  return static_cast<at::SparseCsrTensorImpl*>(matrix.unsafeGetTensorImpl());
}

inline int64_t entries_of(const Tensor& matrix) {
  return matrix.layout() == at::kSparse ? coo(matrix)->nnz() : compressed(matrix)->values().size(0);
}

// Whether the matrix has the contents it had. False also where this is not seen at once.
inline bool is_still(const Prepared& p, const Tensor& matrix) {
  if (matrix.layout() != p.layout || matrix.size(0) != p.rows || matrix.size(1) != p.cols) return false;
  if (p.layout == at::kSparse) {
    const auto* impl = coo(matrix);
    return impl->dense_dim() == 0 && impl->sparse_dim() == 2 && same_values(impl->values(), p.value) &&
           same_ids(impl->indices(), p.indices[0]);
  }
  const auto* impl = compressed(matrix);
  return same_values(impl->values(), p.value) && same_ids(impl->compressed_indices(), p.indices[0]) &&
         same_ids(impl->plain_indices(), p.indices[1]);
}

inline bool is_multiplied(const Tensor& matrix) {
  const at::Layout layout = matrix.layout();
  const at::ScalarType type = matrix.scalar_type();
  return (layout == at::kSparse || layout == at::kSparseCsr || layout == at::kSparseCsc) &&
         (type == at::kFloat || type == at::kDouble) && matrix.dim() == 2 && !matrix.requires_grad();
}

// After a matrix that was used too briefly: how many products of unknown matrices of its shape are left unseen.
struct Pause {
  static constexpr int64_t kLongest = 256;  // products left unseen in a row

  int64_t count = 0;     // such matrices in a row
  int64_t rest = 0;      // products still to be left
  int64_t patience = 0;  // further products of `last`, which would not be seen from its first product on
  c10::weak_intrusive_ptr<c10::TensorImpl> last{c10::intrusive_ptr<c10::TensorImpl>()};
  int64_t left = 0;  // products left, for the report

  void begin() {
    ++count;
    // Odd and even lengths in turn: products that come in a cycle are then all examined at some time.
    rest = std::min(int64_t{1} << std::min<int64_t>(count - 1, 8), kLongest) + (count > 1 ? count % 2 : 0);
    patience = rest;
  }

  bool leaves(const Tensor& matrix) {
    if (rest > 0) {
      if (--rest == 0) last = c10::weak_intrusive_ptr<c10::TensorImpl>(matrix.getIntrusivePtr());
    } else if (patience > 0 && last._unsafe_get_target() == matrix.unsafeGetTensorImpl()) {
      --patience;
    } else {
      return false;
    }
    ++left;
    return true;
  }

  int64_t take() { return std::exchange(left, 0); }
};

enum class Verdict { unknown, left, taken };

class Products {
 public:
  int64_t too_small = 0, too_brief = 0;  // products that were left to torch

  // Whether torch computes ``matrix @ x`` (from_right: ``x @ matrix``) faster. Unknown: the limits are not known.
  Verdict leaves(const Tensor& matrix, const Tensor& x, bool from_right, bool is_short) {
    if (!is_multiplied(matrix) || x.dim() < 1 || x.dim() > 2 || in_functorch()) return Verdict::taken;
    const int64_t width = x.dim() == 1 ? 1 : x.size(from_right ? 0 : 1);
    const auto found = limits_.find(key(matrix, width, is_short));
    if (found == limits_.end()) return Verdict::unknown;
    const bool backward = x.requires_grad() && at::GradMode::is_enabled();
    if (entries_of(matrix) <= (backward ? found->second.second : found->second.first)) {
      ++too_small;
      return Verdict::left;
    }
    if (!pauses_.empty() && known_.count(matrix.unsafeGetTensorImpl()) == 0) {
      const auto pause = pauses_.find({matrix.size(0), matrix.size(1)});
      if (pause != pauses_.end() && pause->second->leaves(matrix)) {
        ++too_brief;
        return Verdict::left;
      }
    }
    return Verdict::taken;
  }

  // ``matrix @ x``, if the matrix is prepared and unchanged. Both are tensors without a __torch_function__ of their
  // own, x is dense and matrix is not.
  Verdict multiply(const Tensor& matrix, const Tensor& x, bool always, Tensor& result) {
    if (!is_plain(x) || !matrix.is_cpu() || !is_multiplied(matrix)) return Verdict::unknown;
    if (x.dim() != 2 || x.size(0) != matrix.size(1) || x.scalar_type() != matrix.scalar_type()) return Verdict::unknown;
    if (!always) {
      const Verdict verdict = leaves(matrix, x, false, true);
      if (verdict != Verdict::taken) return verdict;
    }
    const auto found = prepared_.find(matrix.unsafeGetTensorImpl());
    if (found == prepared_.end()) return Verdict::unknown;
    const std::shared_ptr<Prepared> p = found->second;  // another thread may remove it
    if (p->tally->products >= p->tally->until || is_special()) return Verdict::unknown;
    const auto begun = std::chrono::steady_clock::now();
    {
      const py::gil_scoped_release no_gil;
      if (!is_still(*p, matrix)) return Verdict::unknown;
      result = sparse::multiply(p->sides, x);
    }
    ++p->uses;
    ++p->tally->products;
    p->tally->seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    return Verdict::taken;
  }

  // The numbers of entries up to which products are left to torch, without and with a gradient.
  void set_limits(const Tensor& matrix, int64_t width, bool is_short, int64_t forward, int64_t backward) {
    if (limits_.size() >= kLimits) limits_.clear();
    limits_[key(matrix, width, is_short)] = {forward, backward};
  }

  std::shared_ptr<Prepared> add(const Tensor& matrix, std::vector<Tensor> indices, const Tensor& value,
                                std::vector<Tensor> sides, const std::shared_ptr<Tally>& tally) {
    auto made = std::make_shared<Prepared>(Prepared{c10::weak_intrusive_ptr<c10::TensorImpl>(matrix.getIntrusivePtr()),
                                                    matrix.layout(), matrix.size(0), matrix.size(1), std::move(indices),
                                                    value, Sides{std::move(sides)}, tally});
    prepared_[matrix.unsafeGetTensorImpl()] = made;
    return made;
  }

  void remove(const std::shared_ptr<Prepared>& p) {
    const auto found = prepared_.find(p->matrix._unsafe_get_target());
    if (found != prepared_.end() && found->second == p) prepared_.erase(found);
  }

  // A matrix that is to be looked at, also in a pause. Returns what `forget` takes.
  int64_t know(const Tensor& matrix) {
    auto* impl = matrix.unsafeGetTensorImpl();
    known_.insert_or_assign(impl, c10::weak_intrusive_ptr<c10::TensorImpl>(matrix.getIntrusivePtr()));
    return reinterpret_cast<int64_t>(impl);
  }

  void forget(int64_t token) { known_.erase(reinterpret_cast<c10::TensorImpl*>(token)); }

  // A matrix of this shape that was not known was used too briefly.
  std::shared_ptr<Pause> pause(int64_t rows, int64_t cols) {
    auto& found = pauses_[{rows, cols}];
    if (found == nullptr) found = std::make_shared<Pause>();
    found->begin();
    return found;
  }

  // A matrix of this shape was prepared.
  void resume(int64_t rows, int64_t cols) { pauses_.erase({rows, cols}); }

  void clear() {
    limits_.clear();
    prepared_.clear();
    known_.clear();
    pauses_.clear();
    too_small = too_brief = 0;
  }

  size_t size() const { return prepared_.size(); }

 private:
  static constexpr size_t kLimits = 1024;
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t>;

  struct Hash {
    size_t operator()(const Key& k) const {
      const auto& [kind, rows, cols, width] = k;
      uint64_t h = kind;
      for (const int64_t part : {rows, cols, width}) h = (h ^ static_cast<uint64_t>(part)) * 0x9e3779b97f4a7c15u;
      return h ^ (h >> 32);
    }
  };

  static Key key(const Tensor& matrix, int64_t width, bool is_short) {
    const auto kind = static_cast<int64_t>(matrix.layout()) * 4 + (matrix.scalar_type() == at::kDouble) * 2 + is_short;
    return {kind, matrix.size(0), matrix.size(1), width};
  }

  // Whether x is an ordinary tensor on the CPU: no view with a sign, no wrapper of torch.func, no tangent.
  static bool is_plain(const Tensor& x) {
    static const uint64_t known =
        (at::empty({0}).key_set() | c10::DispatchKeySet(c10::DispatchKey::ADInplaceOrView) |
         c10::DispatchKeySet(c10::DispatchKey::AutogradCPU) | c10::DispatchKeySet(c10::DispatchKey::AutocastCPU))
            .raw_repr();
    return (x.key_set().raw_repr() & ~known) == 0 && !has_tangent(x);
  }

  // Whether torch traces, transforms or intercepts operations in this thread.
  static bool is_special() {
    return in_functorch() || c10::impl::TorchDispatchModeTLS::any_modes_set() || torch::jit::tracer::isTracing();
  }

  std::unordered_map<Key, std::pair<int64_t, int64_t>, Hash> limits_;
  std::unordered_map<c10::TensorImpl*, std::shared_ptr<Prepared>> prepared_;
  std::unordered_map<c10::TensorImpl*, c10::weak_intrusive_ptr<c10::TensorImpl>> known_;
  std::map<std::pair<int64_t, int64_t>, std::shared_ptr<Pause>> pauses_;
};

}  // namespace mmssl::sparse
