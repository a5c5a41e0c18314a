"""accelerate: installs the replacements under the names that the released code uses."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ...graph import InteractionGraph
from ...relation import RelationRows
from ..compare import with_parameters_of
from ..report import Accelerated, described
from ..sparse.adjacency import Adjacency
from .evaluation import evaluate
from .losses import batched_contrastive_loss, bpr_loss
from .rows import discriminate, gradient_penalty, interaction_graph, item_major_, relation_rows
from .sampling import TripleSampler
from .trials import matrix_device, trials

TRAINER = (
    "u_sim_calculation",
    "gradient_penalty",
    "batched_contrastive_loss",
    "bpr_loss",
    "matrix_to_tensor",
    "sparse_mx_to_torch_sparse_tensor",
)
PARTS = (*TRAINER, "Discriminator.forward", "Data.sample", "test_torch")


def accelerate(
    trainer: ModuleType | type,
    parts: Iterable[str] = PARTS,
    *,
    tau: float | None = None,
    decay: float | None = None,
    ks: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    strict: bool = False,
    gemm: torch.dtype | None = None,
    skip_unread: bool = False,
) -> Accelerated:
    """Replaces the slow parts of a trainer of the released MMSSL code by functions with equal signatures and results.

    Call it before the Trainer is created, with the class or with the module that defines it::

        from mmssl_fast.dropin import hkuds
        print(hkuds.accelerate(Trainer))

    Names are replaced where that code looks them up: methods of the Trainer, of ``Discriminator`` and of the class of
    ``data_generator``, and ``test_torch`` in the globals of the module that defines the Trainer. Each part is first
    compared with its replacement. Both run on the same small random inputs, in float32, and must return the same number
    of results with the same shapes, values and gradients, and draw the same random numbers. A part that differs is not
    replaced; the reason is in the report and in a warning. The states of the random generators are restored.

    Args:
        trainer: the class, or a module with a class ``Trainer``.
        parts: the names to replace, from PARTS. "u_sim_calculation" alone gives most of the speed.
        tau: temperature of the contrastive loss. None: ``args.tau`` of the Trainer's module, read at each call.
        decay: weight of the squared embeddings in bpr_loss. None: ``self.decay``, read at each call.
        ks: list lengths of test_torch. None: the global ``Ks`` of its module, read at each call.
        device: device of the inputs of the comparison. None: ``args.device`` if it exists, otherwise the current CUDA
            device or the CPU. Matrices are on the device that the original functions choose.
        strict: raise an error if a part differs or is missing, and replace nothing.
        gemm: torch.bfloat16: bfloat16 products in the layers of the discriminator and in its penalty. None: no change.
        skip_unread: the loss of the generator leaves no gradient in the parameters of the discriminator. The released
            loop clears this gradient without reading it. Only for code that detaches the generated rows in its
            discriminator step, as that loop does, and that does not use this gradient.

    Returns:
        A report: what was replaced, what differs and why, and what is missing. `restore()` undoes the replacements.

    Raises:
        ValueError: a name is not in PARTS, the trainer has none of them, or (strict) a part was not replaced.
        TypeError: `trainer` is neither a class nor a module with a class Trainer.
    """
    done = Accelerated.of(parts, PARTS)
    cls = getattr(trainer, "Trainer", trainer) if isinstance(trainer, ModuleType) else trainer
    if not isinstance(cls, type):
        raise TypeError(f"accelerate: pass the class Trainer or the module that defines it, got {described(trainer)}")
    if gemm not in (None, torch.bfloat16):
        raise ValueError(f"accelerate: gemm must be None or torch.bfloat16, got {gemm}")
    names = _globals(cls)
    overrides = SimpleNamespace(tau=tau, decay=decay, ks=ks)
    device = _device(names, device)
    for part in done.parts:
        place, name = _place(part, cls, names)
        if place is None:
            done.missing.append(part)
            continue
        original = place[name] if isinstance(place, dict) else getattr(place, name)
        installed, compared = (
            with_parameters_of(original, _replacement(part, original, cls, names, overrides, *options))
            for options in ((gemm, skip_unread), (None, False))
        )
        cases = trials(part, _globals_of(original, names), names, cls, device, overrides)
        done.compare(part, place, name, compared, cases, installed)
    done.install(cls.__name__, strict)
    return done


def _place(part: str, cls: type, names: dict[str, Any]) -> tuple[Any, str]:
    """(where the original code looks the part up, under which name). (None, name) if the part is missing."""
    owner, _, name = part.rpartition(".")
    if owner == "Discriminator":
        return names.get("Discriminator"), name
    if owner == "Data":
        data = type(names["data_generator"]) if "data_generator" in names else None
        return data if hasattr(data, name) else None, name
    if name == "test_torch":
        return names if name in names else None, name
    return cls if hasattr(cls, name) else None, name


def _device(names: dict[str, Any], device: torch.device | str | None) -> torch.device:
    """The given device, otherwise ``args.device``, the current CUDA device or the CPU, in this order."""
    name, device = ("args.device", getattr(names.get("args"), "device", None)) if device is None else ("device", device)
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(f"cuda:{device}" if str(device).isdigit() else device)
    except (RuntimeError, TypeError):
        raise ValueError(
            f'accelerate: {name} is {device!r}, which is no device of torch; pass device="cpu" or "cuda:0"'
        ) from None


def _globals(cls: type) -> dict[str, Any]:
    """The globals of the module that defines the methods of the Trainer."""
    for value in (value for base in cls.__mro__ for value in vars(base).values()):
        if isinstance(value, FunctionType):
            return value.__globals__
    raise ValueError(f"accelerate: {cls.__name__} defines no methods")


def _globals_of(original: Callable[..., Any], default: dict[str, Any]) -> dict[str, Any]:
    """The globals of the original function, even if an earlier `accelerate` replaced it."""
    return getattr(inspect.unwrap(original), "__globals__", default)


def _replacement(
    part: str,
    original: Callable[..., Any],
    cls: type,
    names: dict[str, Any],
    overrides: SimpleNamespace,
    gemm: torch.dtype | None,
    skip_unread: bool,
) -> Callable[..., Any]:
    if part == "Discriminator.forward":
        return _forward(gemm, skip_unread)
    if part == "Data.sample":
        return _sample()
    if part == "test_torch":
        return _test_torch(_globals_of(original, names), overrides.ks)
    names = _globals_of(original, names)  # an inherited method reads the args of the module that defines it
    return _trainer_method(part, matrix_device(part, original, cls), names, overrides, gemm)


def _trainer_method(
    part: str, device: torch.device, names: dict[str, Any], overrides: SimpleNamespace, gemm: torch.dtype | None
) -> Callable[..., Any]:
    graphs: weakref.WeakKeyDictionary[Any, tuple[Any, InteractionGraph]] = weakref.WeakKeyDictionary()

    def u_sim_calculation(self: Any, users: list[int] | Tensor, user_final: Tensor, item_final: Tensor) -> RelationRows:
        cached = graphs.get(self)
        if cached is None or cached[0] is not self.ui_graph_raw:
            cached = graphs[self] = self.ui_graph_raw, interaction_graph(self.ui_graph_raw)
        return relation_rows(cached[1], users, user_final, item_final)

    def penalty(self: Any, D: Callable[[Any], Tensor], xr: RelationRows | Tensor, xf: RelationRows | Tensor) -> Tensor:
        return gradient_penalty(D, xr, xf, gemm=gemm)

    def contrastive(self: Any, z1: Tensor, z2: Tensor, batch_size: int = 1024) -> Tensor:
        tau = overrides.tau if overrides.tau is not None else _setting(names, "args", "tau", "tau").tau
        return batched_contrastive_loss(z1, z2, tau)

    def bpr(self: Any, users: Tensor, pos_items: Tensor, neg_items: Tensor) -> tuple[Tensor, Tensor, float]:
        decay = self.decay if overrides.decay is None else overrides.decay
        return bpr_loss(users, pos_items, neg_items, decay, self.batch_size)

    def matrix_to_tensor(self: Any, cur_matrix: sp.spmatrix | sp.sparray) -> Adjacency:
        return Adjacency.from_scipy(cur_matrix).to(device)

    def sparse_mx_to_torch_sparse_tensor(self: Any, sparse_mx: sp.spmatrix | sp.sparray) -> Adjacency:
        return Adjacency.from_scipy(sparse_mx).to(device)

    methods: dict[str, Callable[..., Any]] = {
        "u_sim_calculation": u_sim_calculation,
        "gradient_penalty": penalty,
        "batched_contrastive_loss": contrastive,
        "bpr_loss": bpr,
        "matrix_to_tensor": matrix_to_tensor,
        "sparse_mx_to_torch_sparse_tensor": sparse_mx_to_torch_sparse_tensor,
    }
    return methods[part]


def _setting(names: dict[str, Any], name: str, attribute: str | None, option: str) -> Any:
    """The global `name` of the original code. If it is missing, the error names the argument to pass instead."""
    if name not in names or (attribute and not hasattr(names[name], attribute)):
        full = f"{name}.{attribute}" if attribute else name
        raise NameError(f"{names.get('__name__', 'the module')} has no {full}; pass {option}= to accelerate")
    return names[name]


def _forward(gemm: torch.dtype | None, skip_unread: bool) -> Callable[..., Any]:
    def forward(self: Any, x: RelationRows | Tensor) -> Tensor:
        item_major_(self.net[0].weight)
        if not (skip_unread and x.requires_grad and not x.is_leaf):
            return discriminate(self.net, x, gemm)
        trained = [p for p in self.net.parameters() if p.requires_grad]
        try:
            self.net.requires_grad_(False)
            return discriminate(self.net, x, gemm)
        finally:
            for p in trained:
                p.requires_grad_(True)

    return forward


def _sample() -> Callable[..., Any]:
    samplers: weakref.WeakKeyDictionary[Any, TripleSampler] = weakref.WeakKeyDictionary()

    def sample(self: Any) -> tuple[list[int], list[int], list[int]]:
        if self not in samplers:
            samplers[self] = TripleSampler(
                self.train_items, self.exist_users, self.batch_size, self.n_users, self.n_items
            )
        return samplers[self].sample()

    return sample


def _test_torch(names: dict[str, Any], ks: Sequence[int] | None) -> Callable[..., Any]:
    def test_torch(
        ua_embeddings: Tensor,
        ia_embeddings: Tensor,
        users_to_test: Sequence[int],
        is_val: bool,
        drop_flag: bool = False,
        batch_test_flag: bool = False,
    ) -> dict[str, np.ndarray | float]:
        data = names["data_generator"]
        relevant = data.val_set if is_val else data.test_set
        lengths = _setting(names, "Ks", None, "ks") if ks is None else ks
        auc = getattr(names.get("args"), "test_flag", "part") != "part"
        return evaluate(ua_embeddings, ia_embeddings, users_to_test, relevant, data.train_items, lengths, auc)

    return test_torch
