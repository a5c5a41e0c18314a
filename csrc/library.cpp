// The schemas of all ops in alphabetical order, and the module mmssl_fast._C, which describes how the library was
// built.
#include <pybind11/pybind11.h>
#include <torch/library.h>
#include <torch/version.h>

#include "build_note.h"  // written by the build: MMSSL_CUDA_NOTE, and MMSSL_CUDA_ARCHS where the kernels are in
#include "common/isa.h"
#include "cpu/infonce.h"
#include "cpu/numpy_triples.h"
#include "cpu/sparse_products.h"
#include "cpu/tile.h"

TORCH_LIBRARY(mmssl_fast, m) {
  m.def(
      "act_norm_dropout(Tensor z, Tensor weight, Tensor bias, Tensor seed_offset, float slope, float eps, float rate) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "act_norm_dropout_bwd(Tensor grad, Tensor z, Tensor mean, Tensor variance, Tensor weight, Tensor seed_offset, "
      "float slope, float eps, float rate) -> (Tensor, Tensor, Tensor)");
  m.def(
      "act_norm_dropout_bwd_bwd(Tensor gg_z, Tensor gg_weight, Tensor gg_bias, Tensor grad, Tensor z, Tensor mean, "
      "Tensor variance, Tensor weight, Tensor seed_offset, float slope, float eps, float rate) -> (Tensor, Tensor, "
      "Tensor)");
  m.def("bpr_loss(Tensor user_emb, Tensor item_emb, Tensor users, Tensor pos, Tensor neg) -> (Tensor, Tensor)");
  m.def(
      "bpr_loss_bwd(Tensor user_emb, Tensor item_emb, Tensor users, Tensor pos, Tensor neg, Tensor slope) -> (Tensor, "
      "Tensor)");
  m.def(
      "coo_to_csr(Tensor row, Tensor col, SymInt n_rows, SymInt n_cols) -> (Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor)");
  m.def(
      "coo_to_csr_values(Tensor row, Tensor col, Tensor value, SymInt n_rows, SymInt n_cols) -> (Tensor, Tensor, "
      "Tensor, Tensor, Tensor, Tensor)");
  m.def("cosine_block(Tensor u, Tensor v, Tensor? crow, Tensor? col, bool row_l2) -> (Tensor, Tensor)");
  m.def(
      "cosine_block_bwd(Tensor grad, Tensor u, Tensor v, Tensor? crow, Tensor? col, Tensor? block, Tensor? inverse, "
      "bool need_u, bool need_v) -> (Tensor, Tensor)");
  m.def("cosine_topk(Tensor u, Tensor v, SymInt k, Tensor? crow, Tensor? col) -> (Tensor, Tensor)");
  m.def("csr_transpose(Tensor crow, Tensor col, SymInt n_cols) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "gumbel_linear(Tensor weight, Tensor crow, Tensor col, Tensor users, float tau, Tensor seed_offset, "
      "float noise_scale, bool order_statistics, SymInt capacity) -> Tensor");
  m.def(
      "gumbel_linear_bwd(Tensor grad, Tensor crow, Tensor col, Tensor users, SymInt n_items, float tau, Tensor "
      "seed_offset, float noise_scale, bool order_statistics, SymInt capacity) -> Tensor");
  m.def(
      "gumbel_lse(Tensor crow, Tensor col, Tensor users, SymInt n_items, float tau, Tensor seed_offset, "
      "float noise_scale) -> Tensor");
  m.def(
      "gumbel_order_statistics(Tensor crow, Tensor col, Tensor users, SymInt n_items, float tau, Tensor seed_offset, "
      "float noise_scale, SymInt capacity) -> (Tensor, Tensor, Tensor)");
  m.def(
      "gumbel_softmax(Tensor crow, Tensor col, Tensor users, Tensor? user_unit, Tensor? item_unit, SymInt n_items, "
      "float tau, Tensor seed_offset, float noise_scale, float zeta, bool row_l2, bool order_statistics, SymInt "
      "capacity) -> (Tensor, Tensor)");
  m.def(
      "gumbel_tile(Tensor crow, Tensor col, Tensor users, Tensor lse, SymInt n_items, SymInt first, SymInt last, "
      "float tau, Tensor seed_offset, float noise_scale) -> Tensor");
  m.def(
      "infonce(Tensor h, Tensor e, Tensor ids, float tau, bool exclude_self, bool bfloat16=False) -> (Tensor, Tensor)");
  m.def(
      "infonce_bwd(Tensor term_grad, Tensor lse_grad, Tensor h, Tensor e, Tensor ids, Tensor lse, float tau, bool "
      "exclude_self, bool bfloat16=False) -> (Tensor, Tensor)");
  m.def(
      "infonce_with_grad(Tensor h, Tensor e, Tensor ids, float tau, bool exclude_self, bool bfloat16=False) -> "
      "(Tensor, "
      "Tensor, Tensor)");
  m.def(
      "lightgcn(Tensor crow, Tensor col, Tensor? value, Tensor t_crow, Tensor t_col, Tensor? t_value, Tensor? "
      "users_receive, Tensor? users_send, Tensor? items_receive, Tensor? items_send, Tensor users, Tensor items, int "
      "layers) -> (Tensor, Tensor)");
  m.def("modality_mix(Tensor q, Tensor k, Tensor e, int heads) -> Tensor");
  m.def("modality_mix_bwd(Tensor grad, Tensor q, Tensor k, Tensor e, int heads) -> (Tensor, Tensor, Tensor)");
  m.def("philox4x32(Tensor counter, SymInt seed) -> Tensor");
  m.def("philox_bits(Tensor rows, SymInt columns, Tensor seed_offset, int stream) -> Tensor");
  m.def(
      "propagate(Tensor crow, Tensor col, Tensor? value, Tensor t_crow, Tensor t_col, Tensor? t_value, Tensor? "
      "row_scale, Tensor? col_scale, Tensor x) -> Tensor");
  m.def(
      "sample_bpr(Tensor crow, Tensor col, Tensor full_users, SymInt n_items, SymInt batch, Tensor seed_offset) -> "
      "(Tensor, Tensor, Tensor)");
  m.def(
      "sample_bpr_users(Tensor crow, Tensor col, SymInt n_items, SymInt batch, Tensor seed_offset) -> "
      "(Tensor, Tensor, Tensor)");
  m.def("sampled_dot(Tensor crow, Tensor col, Tensor u, Tensor v) -> Tensor");
  m.def("sampled_dot_bwd_u(Tensor crow, Tensor col, Tensor grad, Tensor v) -> Tensor");
  m.def("sampled_dot_bwd_v(Tensor crow, Tensor col, Tensor grad, Tensor u, SymInt n_items) -> Tensor");
  m.def("spmm(Tensor crow, Tensor col, Tensor? value, Tensor? row_scale, Tensor? col_scale, Tensor x) -> Tensor");
  m.def("spmm_add_(Tensor(a!) out, Tensor rows, Tensor crow, Tensor col, Tensor? value, Tensor x) -> ()");
  m.def("unit_rows(Tensor x) -> (Tensor, Tensor)");
  m.def("unit_rows_bwd(Tensor grad, Tensor x, Tensor inverse) -> Tensor");
}

namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#elif defined(__GNUC__)
constexpr const char* kCompiler = "gcc " __VERSION__;
#else
constexpr const char* kCompiler = "unknown";
#endif

pybind11::dict build_info() {
  pybind11::dict info;
  info["torch"] = TORCH_VERSION;
  info["compiler"] = kCompiler;
  info["isa_levels"] = pybind11::str(mmssl::isa_levels()).attr("split")(",");
  info["isa"] = mmssl::isa_name(mmssl::isa_in_use());
#if defined(MMSSL_CUDA_ARCHS)
  info["cuda"] = true;
  info["cuda_archs"] = pybind11::str(MMSSL_CUDA_ARCHS).attr("split")(";");
#else
  info["cuda"] = false;
  info["cuda_archs"] = pybind11::list();
#endif
  info["cuda_note"] = MMSSL_CUDA_NOTE;
#if defined(NDEBUG)
  info["debug"] = false;
#else
  info["debug"] = true;
#endif
  return info;
}

pybind11::dict infonce_sizes() {
  pybind11::dict sizes;
  sizes["block"] = mmssl::kInfonceBlock;
  sizes["keys"] = mmssl::kInfonceKeys;
  sizes["tasks"] = mmssl::Chunks::kMost;
  sizes["anchors"] = mmssl::kInfonceAnchors;
  sizes["min_anchors"] = mmssl::kInfonceMinAnchors;
  sizes["exps"] = mmssl::kInfonceExps;
  sizes["pieces"] = mmssl::infonce_has_pieces() ? 1 : 0;
  sizes["kept"] = mmssl::infonce_has_bfloat16() && !mmssl::infonce_has_pieces() ? mmssl::kInfonceKept : 0;
  sizes["kept_anchors"] = mmssl::kInfonceKeptAnchors;
  return sizes;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  mmssl::isa_in_use();  // an invalid MMSSL_FAST_ISA fails the import, not the first op
  m.def("build_info", &build_info,
        "How this library was built: torch, compiler, isa_levels, isa (in use), cuda, cuda_archs, cuda_note, debug.");
  m.def("infonce_sizes", &infonce_sizes, "The sizes that determine the memory of infonce on the CPU.");
  mmssl::bind_numpy_triples(m);
  mmssl::bind_sparse_products(m);
}
