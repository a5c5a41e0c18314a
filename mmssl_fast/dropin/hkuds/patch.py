"""accelerate: puts the pieces in the places where the released code looks for them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from types import FunctionType, ModuleType

import torch

from ..adjacency import Adjacency
from .evaluation import evaluate
from .losses import batched_contrastive_loss, bpr_loss
from .rows import discriminate, gradient_penalty, interaction_graph, item_major_, relation_rows
from .sampling import TripleSampler

TRAINER = (
    "u_sim_calculation",
    "gradient_penalty",
    "batched_contrastive_loss",
    "bpr_loss",
    "matrix_to_tensor",
    "sparse_mx_to_torch_sparse_tensor",
)
PARTS = (*TRAINER, "Discriminator.forward", "Data.sample", "test_torch")


class Accelerated:
    """What `accelerate` did: `patched` and `missing`, names of PARTS; `restore()` undoes it."""

    def __init__(self) -> None:
        self.patched: list[str] = []
        self.missing: list[str] = []
        self._undo: list = []

    def restore(self) -> None:
        while self._undo:
            self._undo.pop()()

    def __repr__(self) -> str:
        return f"Accelerated(patched={self.patched}, missing={self.missing})"

    def _set(self, part: str, place, name: str, value) -> None:
        namespace = vars(place) if not isinstance(place, dict) else place
        before = namespace.get(name, self)
        put = place.__setitem__ if isinstance(place, dict) else lambda key, x: setattr(place, key, x)
        put(name, value)
        self._undo.append((lambda: put(name, before)) if before is not self else lambda: delattr(place, name))
        self.patched.append(part)


def accelerate(
    trainer: ModuleType | type,
    parts: Iterable[str] = PARTS,
    *,
    gemm: torch.dtype | None = None,
    skip_unread: bool = False,
) -> Accelerated:
    """Replaces, with the same signatures and the same mathematics, what a released-MMSSL trainer spends its time on.

    Call it before the Trainer is made, with the class or with the module that defines it::

        from mmssl_fast.dropin import hkuds
        hkuds.accelerate(Trainer)

    Names are replaced where that code looks them up: methods on the Trainer, ``Discriminator`` and the class of
    ``data_generator``, ``test_torch`` among the globals of the module that defines the Trainer. Settings are read from
    that module's ``args`` when they are needed. What a fork does not have is left out and listed.

    Args:
        trainer: the class, or a module with a class ``Trainer``.
        parts: which of PARTS; "u_sim_calculation" alone is enough for most of the speed.
        gemm: torch.bfloat16 multiplies the discriminator's layers and its penalty in bfloat16; None in their own dtype.
        skip_unread: the generator's loss leaves no gradient in the discriminator's parameters, where the released loop
            clears it before anything reads it. For code that detaches the generated rows of its discriminator step, as
            that loop does, and gives the parameters no other use for such gradients.

    Returns:
        What was replaced, what is missing, and the way back.

    Raises:
        ValueError: for a name that is not in PARTS, or a trainer without any of them.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ValueError(f"accelerate: parts must be among {', '.join(PARTS)}, got {', '.join(unknown)}")
    cls = trainer.Trainer if isinstance(trainer, ModuleType) else trainer
    names = _globals(cls)
    done, parts = Accelerated(), set(parts)
    methods = _trainer_methods(names, gemm)
    for name in TRAINER:
        if name in parts and hasattr(cls, name):
            done._set(name, cls, name, methods[name])
    if "Discriminator.forward" in parts and "Discriminator" in names:
        done._set("Discriminator.forward", names["Discriminator"], "forward", _forward(gemm, skip_unread))
    if "Data.sample" in parts and "data_generator" in names:
        done._set("Data.sample", type(names["data_generator"]), "sample", _sample())
    if "test_torch" in parts and "test_torch" in names:
        done._set("test_torch", names, "test_torch", _test_torch(names["test_torch"]))
    done.missing = [name for name in PARTS if name in parts and name not in done.patched]
    if not done.patched:
        raise ValueError(f"accelerate: {cls.__name__} has none of {', '.join(done.missing)}")
    return done


def _globals(cls: type) -> dict:
    """The globals that the Trainer's own functions look names up in."""
    for value in (value for base in cls.__mro__ for value in vars(base).values()):
        if isinstance(value, FunctionType):
            return value.__globals__
    raise ValueError(f"accelerate: {cls.__name__} defines no methods")


def _trainer_methods(names: dict, gemm: torch.dtype | None) -> dict[str, FunctionType]:
    graphs: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def u_sim_calculation(self, users, user_final, item_final):
        cached = graphs.get(self)
        if cached is None or cached[0] is not self.ui_graph_raw:
            cached = graphs[self] = self.ui_graph_raw, interaction_graph(self.ui_graph_raw)
        return relation_rows(cached[1], users, user_final, item_final)

    def penalty(self, D, xr, xf):
        return gradient_penalty(D, xr, xf, gemm=gemm)

    def contrastive(self, z1, z2, batch_size=1024):
        return batched_contrastive_loss(z1, z2, names["args"].tau)

    def bpr(self, users, pos_items, neg_items):
        return bpr_loss(users, pos_items, neg_items, self.decay, self.batch_size)

    def matrix_to_tensor(self, cur_matrix):
        adjacency = Adjacency.from_scipy(cur_matrix)
        return adjacency.cuda() if torch.cuda.is_available() else adjacency

    def sparse_mx_to_torch_sparse_tensor(self, sparse_mx):
        return Adjacency.from_scipy(sparse_mx)

    methods = (u_sim_calculation, penalty, contrastive, bpr, matrix_to_tensor, sparse_mx_to_torch_sparse_tensor)
    return dict(zip(TRAINER, methods, strict=True))


def _forward(gemm: torch.dtype | None, skip_unread: bool) -> FunctionType:
    def forward(self, x):
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


def _sample() -> FunctionType:
    samplers: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def sample(self):
        if self not in samplers:
            samplers[self] = TripleSampler(
                self.train_items, self.exist_users, self.batch_size, self.n_users, self.n_items
            )
        return samplers[self].sample()

    return sample


def _test_torch(released: FunctionType) -> FunctionType:
    names = released.__globals__

    def test_torch(ua_embeddings, ia_embeddings, users_to_test, is_val, drop_flag=False, batch_test_flag=False):
        data = names["data_generator"]
        relevant = data.val_set if is_val else data.test_set
        auc = names["args"].test_flag != "part"
        return evaluate(ua_embeddings, ia_embeddings, users_to_test, relevant, data.train_items, names["Ks"], auc)

    return test_torch
