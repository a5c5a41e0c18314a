"""The inputs on which each part is compared with its replacement: small, random, and the same for both."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn as nn
from torch import Tensor

from ..compare import Case, Observations, observed, product, uninitialised

# Settings of the Trainer in the comparison. args.batch_size is used instead of BATCH if it exists, because the released
# gradient penalty reads it.
DECAY, BATCH = 0.37, 24
USERS, SEEN = 12, [0, 3, 11, 3, 7]  # rows of the small graph; users asked for, one of them twice
EVALUATED = 24  # users whose lists are compared


def trials(
    part: str,
    function_globals: dict[str, Any],
    names: dict[str, Any],
    cls: type,
    device: torch.device,
    overrides: SimpleNamespace,
) -> list[Case]:
    """The cases of a part. function_globals: of the original function. names: globals of the module of cls."""
    batch = int(getattr(names.get("args"), "batch_size", BATCH))
    given = {key: value for key, value in (("tau", overrides.tau), ("decay", overrides.decay)) if value is not None}

    def trainer(n_items: int = 40, weighted: bool = False) -> Any:
        graph = _interactions(USERS, n_items, weighted)
        attributes = {"decay": DECAY, "batch_size": batch, "n_users": USERS, "n_items": n_items, "device": device}
        return uninitialised(cls, ui_graph_raw=graph, **attributes | given)

    def rows_of(n_items: int, weighted: bool) -> Case:
        def case(u_sim_calculation: Callable[..., Any]) -> Observations:
            leaves = _leaves(device, (USERS, 6), (n_items, 6))
            return observed(u_sim_calculation(trainer(n_items, weighted), list(SEEN), *leaves), leaves)

        return case

    def penalty(gradient_penalty: Callable[..., Any]) -> Observations:
        judge = nn.Sequential(nn.Linear(30, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1), nn.Sigmoid()).to(device)
        leaves = _leaves(device, (2 * batch, 30), (2 * batch, 30))
        loss = gradient_penalty(trainer(), lambda x: (30 * judge(x)).view(-1), *leaves)
        return observed(loss, [*leaves, *judge.parameters()])

    def contrast(n: int, **options: Any) -> Case:
        def case(batched_contrastive_loss: Callable[..., Any]) -> Observations:
            leaves = _leaves(device, (n, 8), (n, 8))
            return observed(batched_contrastive_loss(trainer(), *leaves, **options), leaves)

        return case

    def ranking(scale: float) -> Case:
        def case(bpr_loss: Callable[..., Any]) -> Observations:
            leaves = _leaves(device, *[(21, 8)] * 3, scale=scale)
            return observed(bpr_loss(trainer(), *leaves), leaves)

        return case

    def matrix(convert: Callable[..., Any]) -> Observations:
        graph = _interactions(USERS, 40, weighted=True)
        return product(convert(trainer(), graph), _leaves("cpu", (40, 5))[0].detach())

    def discriminator(training: bool) -> Case:
        def case(forward: Callable[..., Any]) -> Observations:
            d = names["Discriminator"](64).to(device).train(training)
            x = _leaves(device, (24, 64))[0]
            found = observed(forward(d, x), [x, *d.parameters()])
            return found + [(name, value.clone()) for name, value in d.named_buffers()]

        return case

    def sampler(batch_size: int) -> Case:
        def case(sample: Callable[..., Any]) -> Observations:
            items = {user: [(7 * user + 3 * i) % 50 for i in range(1 + user % 6)] for user in range(28)}
            data = {"n_users": 30, "n_items": 50, "train_items": items, "exist_users": list(items)}
            return observed(sample(uninitialised(type(names["data_generator"]), batch_size=batch_size, **data)))

        return case

    cases: dict[str, list[Case]] = {
        "u_sim_calculation": [rows_of(40, False), rows_of(batch + batch // 2 + 7, False), rows_of(40, True)],
        "gradient_penalty": [penalty],
        # More rows than the default batch_size, so that a loss over each chunk alone differs.
        "batched_contrastive_loss": [contrast(21), contrast(1030)],
        "bpr_loss": [ranking(0.5), ranking(2.0)],
        "matrix_to_tensor": [matrix],
        "sparse_mx_to_torch_sparse_tensor": [matrix],
        "Discriminator.forward": [discriminator(True), discriminator(False)],
        "Data.sample": [sampler(8), sampler(40)],
        "test_torch": [_evaluation(function_globals, device, is_val) for is_val in (True, False)],
    }
    return cases[part]


def matrix_device(part: str, original: Callable[..., Any], cls: type) -> torch.device:
    """The device on which the original function puts a matrix. The current CUDA device is returned without an index."""
    if not part.endswith("tensor"):
        return torch.device("cpu")
    with contextlib.suppress(Exception):  # the comparison reports what it raises
        device = original(uninitialised(cls), _interactions(USERS, 40)).device
        current = device.type == "cuda" and device.index == torch.cuda.current_device()
        return torch.device("cuda") if current else device
    return torch.device("cpu")


def _evaluation(names: dict[str, Any], device: torch.device, is_val: bool) -> Case:
    """The metrics of some users of the data that the original code has loaded. Their held-out and training items get
    high scores of different sizes, so that lists have hits, misses and seen items."""

    def case(test_torch: Callable[..., Any]) -> Observations:
        data = names["data_generator"]
        held_out = data.val_set if is_val else data.test_set
        users = list(held_out)[:EVALUATED]
        u, v = (x.detach() for x in _leaves("cpu", (data.n_users, 32), (data.n_items, 32)))
        random = np.random.RandomState(5)
        for user in users:
            for items in (held_out[user], data.train_items.get(user, ())):
                items = torch.as_tensor(list(items), dtype=torch.int64)
                strength = torch.from_numpy(random.uniform(0, 1.2, (len(items), 1))).float()
                v.index_add_(0, items, strength * u[user])
        metrics = test_torch(u.to(device), v.to(device), users, is_val)
        if not isinstance(metrics, dict):
            return observed(metrics)
        values = {f"metric {name!r}": np.asarray(metrics[name]) for name in sorted(metrics)}
        if not any(value.any() for value in values.values()):
            raise RuntimeError("none of the compared lists has a hit")
        return list(values.items())

    return case


def _leaves(device: torch.device | str, *shapes: tuple[int, int], scale: float = 1.0) -> list[Tensor]:
    random = torch.Generator().manual_seed(3)
    return [(scale * torch.randn(shape, generator=random)).to(device).requires_grad_() for shape in shapes]


def _interactions(n_users: int, n_items: int, weighted: bool = False) -> sp.csr_matrix:
    """float32 [n_users, n_items], the last user without items."""
    random = np.random.RandomState(7)
    present = (random.rand(n_users, n_items) < 0.2).astype(np.float32)
    present[-1] = 0
    return sp.csr_matrix(present * random.uniform(0.25, 2, present.shape).astype(np.float32) if weighted else present)
