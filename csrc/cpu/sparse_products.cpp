#include "cpu/sparse_products.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/ThreadLocalPythonObjects.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/python_variable.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "cpu/sparse_matrices.h"

namespace mmssl {
namespace {

namespace py = pybind11;
using at::Tensor;
using sparse::Pause;
using sparse::Prepared;
using sparse::Products;
using sparse::Tally;
using sparse::Verdict;

enum class Here : int8_t { inactive, active, always };
thread_local Here here = Here::inactive;

// torch gives objects under this key to the threads of autograd.
const std::string& tls_key() {
  static const std::string key = "mmssl_fast.dropin.sparse";
  return key;
}

struct Call {
  std::shared_ptr<Products> products;
  py::object func, plain, slow;
  bool multiplies_two, is_left;  // func(a, b) is a product of a and b; also if a is the sparse factor
};

const char* const kCapsule = "mmssl_fast.sparse_product";

// func(*args), or a product computed here, or what Python says.
PyObject* call(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  HANDLE_TH_ERRORS
  const auto* c = static_cast<const Call*>(PyCapsule_GetPointer(self, kCapsule));
  const auto pass = [&](const py::object& to) { return PyObject_Vectorcall(to.ptr(), args, nargs, names); };
  if (here == Here::inactive) {
    return pass(at::impl::ThreadLocalPythonObjects::contains(tls_key()) ? c->slow : c->plain);
  }
  if (at::impl::torch_function_mode_enabled()) return pass(c->slow);
  const Py_ssize_t total = nargs + (names == nullptr ? 0 : PyTuple_GET_SIZE(names));
  Py_ssize_t factor = -1;
  for (Py_ssize_t i = 0; i < total; ++i) {
    if (!THPVariable_CheckExact(args[i])) {
      if (args[i] == Py_None || PyFloat_CheckExact(args[i]) || PyLong_CheckExact(args[i])) continue;
      return pass(c->slow);
    }
    if (THPVariable_Unpack(args[i]).layout() == at::kStrided) continue;
    if (factor >= 0) return pass(c->slow);
    factor = i;
  }
  if (factor < 0) return pass(c->func);  // no __torch_function__ has to be asked
  if (!c->multiplies_two || nargs != 2 || total != 2) return pass(c->slow);
  // In a backward pass, autograd may go on in another thread, which Python tells that this one is active.
  if (torch::autograd::get_current_graph_task_id() >= 0 && !at::impl::ThreadLocalPythonObjects::contains(tls_key())) {
    return pass(c->slow);
  }
  const bool always = here == Here::always;
  if (!THPVariable_CheckExact(args[1 - factor])) return pass(c->slow);
  const Tensor &matrix = THPVariable_Unpack(args[factor]), &x = THPVariable_Unpack(args[1 - factor]);
  Verdict verdict = Verdict::unknown;
  if (factor == 0 && c->is_left && x.dim() == 2) {
    Tensor result;
    verdict = c->products->multiply(matrix, x, always, result);
    if (verdict == Verdict::taken) return THPVariable_Wrap(std::move(result));
  } else if (!always) {
    verdict = c->products->leaves(matrix, x, factor == 1, false);
  }
  return pass(verdict == Verdict::left ? c->func : c->slow);
  END_HANDLE_TH_ERRORS
}

PyMethodDef call_method = {"sparse_product", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call)),
                           METH_FASTCALL | METH_KEYWORDS, nullptr};

py::object make_call(std::shared_ptr<Products> products, py::object func, py::object plain, py::object slow,
                     bool multiplies_two, bool is_left) {
  auto made = std::make_unique<Call>(
      Call{std::move(products), std::move(func), std::move(plain), std::move(slow), multiplies_two, is_left});
  const py::capsule capsule(made.get(), kCapsule,
                            [](PyObject* self) { delete static_cast<Call*>(PyCapsule_GetPointer(self, kCapsule)); });
  made.release();
  return py::reinterpret_steal<py::object>(PyCFunction_NewEx(&call_method, capsule.ptr(), nullptr));
}

py::object said(Verdict verdict) {
  if (verdict == Verdict::unknown) return py::none();
  return py::bool_(verdict == Verdict::left);
}

}  // namespace

void bind_sparse_products(py::module_& m) {
  py::class_<Tally, std::shared_ptr<Tally>>(m, "Tally")
      .def(py::init<>())
      .def_readwrite("until", &Tally::until)
      .def("take", &Tally::take);
  py::class_<Prepared, std::shared_ptr<Prepared>>(m, "Prepared").def("take", [](Prepared& self) {
    return std::exchange(self.uses, 0);
  });
  py::class_<Pause, std::shared_ptr<Pause>>(m, "Pause").def("take", &Pause::take);
  py::class_<Products, std::shared_ptr<Products>>(m, "Products")
      .def(py::init<>())
      .def("__len__", &Products::size)
      .def_readonly("too_small", &Products::too_small)
      .def_readonly("too_brief", &Products::too_brief)
      .def("know", &Products::know)
      .def("forget", &Products::forget)
      .def("pause", &Products::pause)
      .def("resume", &Products::resume)
      .def("leaves", [](Products& self, const Tensor& matrix, const Tensor& x, bool from_right,
                        bool is_short) { return said(self.leaves(matrix, x, from_right, is_short)); })
      .def("multiply",
           [](Products& self, const Tensor& matrix, const Tensor& x, bool always) -> py::object {
             Tensor result;
             const Verdict verdict = self.multiply(matrix, x, always, result);
             return verdict == Verdict::taken ? py::cast(result) : said(verdict);
           })
      .def("set_limits", &Products::set_limits)
      .def("add", &Products::add)
      .def("remove", &Products::remove)
      .def("clear", &Products::clear);
  m.def("sparse_product", &make_call);
  m.def("set_sparse_products", [](const std::optional<bool>& always) {
    here = !always.has_value() ? Here::inactive : *always ? Here::always : Here::active;
  });
  m.def("set_transformed_product", [](const py::object& function) {
    Py_XDECREF(sparse::transformed_product);
    sparse::transformed_product = function.inc_ref().ptr();
  });
}

}  // namespace mmssl
