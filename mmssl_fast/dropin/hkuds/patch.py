"""accelerate: puts the pieces in the places where the released code looks for them."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType, ModuleType, SimpleNamespace

import torch

from ..compare import with_parameters_of
from ..report import Accelerated
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
    """Replaces, with the same signatures and the same mathematics, what a released-MMSSL trainer spends its time on.

    Call it before the Trainer is made, with the class or with the module that defines it::

        from mmssl_fast.dropin import hkuds
        print(hkuds.accelerate(Trainer))

    Names are replaced where that code looks them up: methods on the Trainer, ``Discriminator`` and the class of
    ``data_generator``, ``test_torch`` among the globals of the module that defines the Trainer. Each part is first
    compared with the code it replaces: both run on the same small random inputs, in float32, and must return as many
    results of the same shapes and values, the same gradients, and draw the same random numbers. A part that differs
    stays the client's own, with the reason in the report and in one warning. The client's generators are left as they
    were.

    Args:
        trainer: the class, or a module with a class ``Trainer``.
        parts: which of PARTS; "u_sim_calculation" alone is enough for most of the speed.
        tau: temperature of the contrastive loss; None reads ``args.tau`` of the client's module at each call.
        decay: weight of the squared embeddings in bpr_loss; None reads ``self.decay`` at each call.
        ks: list lengths of test_torch; None reads the global ``Ks`` of its module at each call.
        device: where the comparison's inputs lie; None takes ``args.device`` where there is one, else the current CUDA
            device, else the CPU. Matrices go where the client's own functions put them.
        strict: raise where a part differs or is missing, and replace nothing.
        gemm: torch.bfloat16 multiplies the discriminator's layers and its penalty in bfloat16; None in their own dtype.
        skip_unread: the generator's loss leaves no gradient in the discriminator's parameters, where the released loop
            clears it before anything reads it. For code that detaches the generated rows of its discriminator step, as
            that loop does, and gives the parameters no other use for such gradients.

    Returns:
        What was replaced, what differs and why, what is missing, and the way back.

    Raises:
        ValueError: for a name that is not in PARTS, a trainer without any of them, or (strict) parts not replaced.
    """
    done = Accelerated.of(parts, PARTS)
    cls = trainer.Trainer if isinstance(trainer, ModuleType) else trainer
    names = _globals(cls)
    overrides = SimpleNamespace(tau=tau, decay=decay, ks=ks)
    device = _device(names, device)
    for part in done.parts:
        place, name = _place(part, cls, names)
        if place is None:
            done.missing.append(part)
            continue
        own = place[name] if isinstance(place, dict) else getattr(place, name)
        installed, compared = (
            with_parameters_of(own, _replacement(part, own, cls, names, overrides, *options))
            for options in ((gemm, skip_unread), (None, False))
        )
        cases = trials(part, _client_globals(own, names), names, cls, device, overrides)
        done.compare(part, place, name, compared, cases, installed)
    done.install(cls.__name__, strict)
    return done


def _place(part: str, cls: type, names: dict):
    """(where the client looks the part up, under which name); (None, name) where it has none."""
    owner, _, name = part.rpartition(".")
    if owner == "Discriminator":
        return names.get("Discriminator"), name
    if owner == "Data":
        data = type(names["data_generator"]) if "data_generator" in names else None
        return data if hasattr(data, name) else None, name
    if name == "test_torch":
        return names if name in names else None, name
    return cls if hasattr(cls, name) else None, name


def _device(names: dict, device: torch.device | str | None) -> torch.device:
    """The device the client computes on: as given, as its args say, else the current CUDA device, else the CPU."""
    device = getattr(names.get("args"), "device", None) if device is None else device
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(f"cuda:{device}" if str(device).isdigit() else device)


def _globals(cls: type) -> dict:
    """The globals that the Trainer's own functions look names up in."""
    for value in (value for base in cls.__mro__ for value in vars(base).values()):
        if isinstance(value, FunctionType):
            return value.__globals__
    raise ValueError(f"accelerate: {cls.__name__} defines no methods")


def _client_globals(own: Callable, default: dict) -> dict:
    """Where the client's function looks names up, also under a replacement made before."""
    return getattr(inspect.unwrap(own), "__globals__", default)


def _replacement(
    part: str,
    own: Callable,
    cls: type,
    names: dict,
    overrides: SimpleNamespace,
    gemm: torch.dtype | None,
    skip_unread: bool,
) -> FunctionType:
    if part == "Discriminator.forward":
        return _forward(gemm, skip_unread)
    if part == "Data.sample":
        return _sample()
    if part == "test_torch":
        return _test_torch(_client_globals(own, names), overrides.ks)
    names = _client_globals(own, names)  # a method that is inherited reads the args of its own module
    return _trainer_method(part, matrix_device(part, own, cls), names, overrides, gemm)


def _trainer_method(
    part: str, device: torch.device, names: dict, overrides: SimpleNamespace, gemm: torch.dtype | None
) -> FunctionType:
    graphs: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def u_sim_calculation(self, users, user_final, item_final):
        cached = graphs.get(self)
        if cached is None or cached[0] is not self.ui_graph_raw:
            cached = graphs[self] = self.ui_graph_raw, interaction_graph(self.ui_graph_raw)
        return relation_rows(cached[1], users, user_final, item_final)

    def penalty(self, D, xr, xf):
        return gradient_penalty(D, xr, xf, gemm=gemm)

    def contrastive(self, z1, z2, batch_size=1024):
        tau = overrides.tau if overrides.tau is not None else _setting(names, "args", "tau", "tau").tau
        return batched_contrastive_loss(z1, z2, tau)

    def bpr(self, users, pos_items, neg_items):
        decay = self.decay if overrides.decay is None else overrides.decay
        return bpr_loss(users, pos_items, neg_items, decay, self.batch_size)

    def matrix_to_tensor(self, cur_matrix):
        return Adjacency.from_scipy(cur_matrix).to(device)

    def sparse_mx_to_torch_sparse_tensor(self, sparse_mx):
        return Adjacency.from_scipy(sparse_mx).to(device)

    methods = (u_sim_calculation, penalty, contrastive, bpr, matrix_to_tensor, sparse_mx_to_torch_sparse_tensor)
    return dict(zip(TRAINER, methods, strict=True))[part]


def _setting(names: dict, name: str, attribute: str | None, option: str):
    """The client's global `name`, or one line that says which argument of accelerate stands in for it."""
    if name not in names or (attribute and not hasattr(names[name], attribute)):
        full = f"{name}.{attribute}" if attribute else name
        raise NameError(f"{names.get('__name__', 'the module')} has no {full}; pass {option}= to accelerate")
    return names[name]


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


def _test_torch(names: dict, ks: Sequence[int] | None) -> FunctionType:
    def test_torch(ua_embeddings, ia_embeddings, users_to_test, is_val, drop_flag=False, batch_test_flag=False):
        data = names["data_generator"]
        relevant = data.val_set if is_val else data.test_set
        lengths = _setting(names, "Ks", None, "ks") if ks is None else ks
        auc = getattr(names.get("args"), "test_flag", "part") != "part"
        return evaluate(ua_embeddings, ia_embeddings, users_to_test, relevant, data.train_items, lengths, auc)

    return test_torch
