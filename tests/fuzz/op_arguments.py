"""Sound arguments of every op by name, and the changes that tests/fuzz/ops.py makes to them."""

import torch
from hypothesis import strategies as st

import mmssl_fast  # noqa: F401  registers the ops

USERS, ITEMS, DIM, HIDDEN, MODALITIES, HEADS = 7, 11, 4, 6, 2, 2


def graph():
    """crow, col and their transpose; users 2 and 5 have no item, user 3 all of them."""
    dense = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(1)) < 0.4
    dense[[2, 5]], dense[3] = False, True
    user, item = dense.nonzero().T
    t_item, t_user = dense.T.nonzero().T

    def offsets(index, size):
        return torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(index, minlength=size).cumsum(0)])

    return {
        "crow": offsets(user, USERS),
        "col": item.contiguous(),
        "t_crow": offsets(t_item, ITEMS),
        "t_col": t_user.contiguous(),
    }


GRAPH = graph()
NNZ = GRAPH["col"].numel()


def rows(n, *width, dtype=torch.float32):
    return torch.randn(n, *width, generator=torch.Generator().manual_seed(n), dtype=torch.float64).to(dtype)


def ids(size, n=USERS):
    return torch.arange(n) * 3 % size


# What an argument of that name is, in whatever op; OVERRIDES where an op means something else by it.
VALUES = {
    **{name: (lambda name=name: GRAPH[name].clone()) for name in GRAPH},
    "value": lambda: rows(NNZ),
    "t_value": lambda: rows(NNZ),
    "row_scale": lambda: rows(USERS),
    "col_scale": lambda: rows(ITEMS),
    "users_receive": lambda: rows(USERS),
    "users_send": lambda: rows(USERS),
    "items_receive": lambda: rows(ITEMS),
    "items_send": lambda: rows(ITEMS),
    "full_users": lambda: torch.tensor([3]),
    "users": lambda: ids(USERS),
    "items": lambda: rows(ITEMS, DIM),
    "pos": lambda: ids(ITEMS),
    "neg": lambda: ids(ITEMS).flip(0),
    "user_emb": lambda: rows(USERS, DIM),
    "item_emb": lambda: rows(ITEMS, DIM),
    "user_unit": lambda: rows(USERS, DIM),
    "item_unit": lambda: rows(ITEMS, DIM),
    "slope": lambda: rows(USERS),
    "u": lambda: rows(USERS, DIM),
    "v": lambda: rows(ITEMS, DIM),
    "x": lambda: rows(ITEMS, DIM),
    "h": lambda: rows(USERS, DIM),
    "e": lambda: rows(USERS, DIM),
    "ids": lambda: ids(USERS),
    "lse": lambda: rows(USERS),
    "term_grad": lambda: rows(USERS),
    "lse_grad": lambda: rows(USERS),
    "block": lambda: rows(USERS, ITEMS),
    "inverse": lambda: rows(USERS),
    "counter": lambda: torch.arange(12).view(3, 4),
    "rows": lambda: torch.arange(USERS),
    "out": lambda: rows(USERS, DIM),
    "weight": lambda: rows(HIDDEN, ITEMS),
    "seed_offset": lambda: torch.tensor([5, 3]),
    "seed": lambda: 5,
    "offset": lambda: 3,
    "columns": lambda: 9,
    "stream": lambda: 1,
    "n_items": lambda: ITEMS,
    "n_cols": lambda: ITEMS,
    "first": lambda: 2,
    "last": lambda: 9,
    "batch": lambda: 3,
    "capacity": lambda: 0,
    "k": lambda: 3,
    "layers": lambda: 2,
    "heads": lambda: HEADS,
    "tau": lambda: 0.2,
    "noise_scale": lambda: 1.0,
    "zeta": lambda: 1.0,
    "g": lambda: rows(USERS, HIDDEN),
    "norm": lambda: rows(USERS).abs(),
    "vw": lambda: rows(DIM, HIDDEN),
    "products": lambda: rows(NNZ),
    "streamed": lambda: torch.zeros(USERS, dtype=torch.bool),
    "grad": lambda: rows(USERS),
    "cancelled": lambda: torch.zeros(USERS, dtype=torch.bool),
    "saved": lambda: rows(USERS, 0),
    "gemm": lambda: "float32",
}
MIXED = {name: (lambda: rows(MODALITIES, USERS, DIM)) for name in ("q", "k", "e")}
HIDDEN_ROWS = {
    **{name: (lambda: rows(USERS, HIDDEN)) for name in ("z", "grad", "gg_z")},
    **{name: (lambda: rows(HIDDEN)) for name in ("weight", "bias", "mean", "gg_weight", "gg_bias")},
    "variance": lambda: rows(HIDDEN).abs(),
    "slope": lambda: 0.2,
    "eps": lambda: 1e-5,
    "rate": lambda: 0.3,
}
OVERRIDES = {
    **{f"act_norm_dropout{part}": HIDDEN_ROWS for part in ("", "_bwd", "_bwd_bwd")},
    "coo_to_csr": {"row": lambda: ids(USERS, NNZ), "n_rows": lambda: USERS},
    "coo_to_csr_values": {"row": lambda: ids(USERS, NNZ), "n_rows": lambda: USERS},
    "cosine_block_bwd": {"grad": lambda: rows(USERS, ITEMS)},
    "gradient_norm_bwd": {"norm": lambda: rows(USERS).abs()},
    "gumbel_linear_bwd": {"grad": lambda: rows(USERS, HIDDEN)},
    "gumbel_tile": {"lse": lambda: rows(USERS, dtype=torch.float64)},
    "lightgcn": {"users": lambda: rows(USERS, DIM)},
    "modality_mix": MIXED,
    "modality_mix_bwd": {**MIXED, "grad": lambda: rows(USERS, HEADS * DIM)},
    "relation_row_norm_bwd": {
        "norm": lambda: rows(USERS, dtype=torch.float64).abs(),
        "grad": lambda: rows(USERS, dtype=torch.float64),
        "products": lambda: rows(DIM, DIM, dtype=torch.float64),
    },
    "relation_linear_bwd": {"grad": lambda: rows(USERS, HIDDEN)},
    "sampled_dot_bwd_u": {"grad": lambda: rows(NNZ)},
    "sampled_dot_bwd_v": {"grad": lambda: rows(NNZ)},
    "unit_rows_bwd": {"x": lambda: rows(USERS, DIM), "grad": lambda: rows(USERS, DIM)},
}
INTEGERS = [-(2**63), -(2**40), -(2**31) - 1, -1, 0, 1, 2, 13, 2**31, 2**32 + 1, 2**40, 2**62, 2**63 - 1]
FLOATS = [float("-inf"), -1.0, -0.0, 0.0, 1e-45, 1e-30, 1e-3, 10.0, 1e30, float("inf"), float("nan")]
DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
]


def reshaped(t, how):
    n = t.shape[0] if t.ndim else 1
    return {
        "empty": lambda: t.new_empty(0),
        "empty 2-D": lambda: t.new_empty(0, 4),
        "no rows": lambda: t[:0],
        "no columns": lambda: t[..., :0],
        "scalar": lambda: t.flatten()[:1].reshape(()),
        "more": lambda: t[None],
        "flat": lambda: t.flatten(),
        "short": lambda: t[: max(n - 1, 0)],
        "long": lambda: torch.cat([t, t[:1]]),
        "transposed": lambda: t.mT if t.ndim > 1 else t[:, None],
        "deep": lambda: t.reshape((1,) * 20 + t.shape),
    }[how]()


def restrided(t, how):
    wide = torch.stack([t, t], -1)
    return {
        "gaps": lambda: wide[..., 0],
        "offset": lambda: torch.cat([t.flatten()[:1], t.flatten()])[1:].view_as(t),
        "one value": lambda: t.flatten()[:1].expand(t.numel()).view_as(t) if t.ndim == 1 else t[:1].expand_as(t),
        "overlapping": lambda: t.flatten().as_strided(t.shape, (1,) * t.ndim),
        "columns first": lambda: t.mT.contiguous().mT if t.ndim > 1 else wide[:, 1],
        "2^40 rows": lambda: t[:1].expand(2**40, *t.shape[1:]),
        "2^62 rows": lambda: t.new_empty(()).expand(2**62),
        "2^31 columns": lambda: t[..., :1].expand(*t.shape[:-1], 2**31),
        "2^62 by none": lambda: t.new_empty(2**62, 0),
    }[how]()


def relaid(t, how):
    return {
        "meta": lambda: t.to("meta"),
        "sparse": lambda: t.to_sparse(),
        "csr": lambda: t.to_sparse_csr(),
        "negated": lambda: torch._neg_view(t),
        "gradient": lambda: t.clone().requires_grad_(),
        "none": lambda: None,
        "number": lambda: 3.5,
        "nested": lambda: torch.nested.nested_tensor([t, t[:1]]),
        "mkldnn": lambda: t.to_mkldnn(),
        "quantised": lambda: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
        "text": lambda: "tensor",
        "parameter": lambda: torch.nn.Parameter(t),
    }[how]()


def filled(t, where, what):
    """One entry of the tensor, or all of them, another value."""
    flat = t.clone().flatten()
    if not flat.numel():
        return t
    value = torch.tensor(INTEGERS if not t.is_floating_point() else FLOATS, dtype=torch.float64)[what % 11]
    limits = torch.iinfo(t.dtype) if not (t.is_floating_point() or t.is_complex() or t.dtype == torch.bool) else None
    number = INTEGERS[what % len(INTEGERS)] if limits else value.item()
    number = min(max(number, limits.min), limits.max) if limits else number
    flat[slice(None) if where < 0 else where % flat.numel()] = number
    return flat.view_as(t)


KINDS = {
    "dtype": (range(len(DTYPES)), lambda t, at: t.to(DTYPES[at])),
    "shape": (
        [
            "empty",
            "empty 2-D",
            "no rows",
            "no columns",
            "scalar",
            "more",
            "flat",
            "short",
            "long",
            "transposed",
            "deep",
        ],
        reshaped,
    ),
    "strides": (
        [
            "gaps",
            "offset",
            "one value",
            "overlapping",
            "columns first",
            "2^40 rows",
            "2^62 rows",
            "2^31 columns",
            "2^62 by none",
        ],
        restrided,
    ),
    "layout": (
        [
            "meta",
            "sparse",
            "csr",
            "negated",
            "gradient",
            "none",
            "number",
            "nested",
            "mkldnn",
            "quantised",
            "text",
            "parameter",
        ],
        relaid,
    ),
    "value": ([(where, what) for where in (-1, 0, 1, 3, 10**6) for what in range(13)], lambda t, at: filled(t, *at)),
    "reversed": ([0], lambda t, _: t.flip(0)),
}
EDIT = st.sampled_from([(kind, choice) for kind, (choices, _) in KINDS.items() for choice in choices])
