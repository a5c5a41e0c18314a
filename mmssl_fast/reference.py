"""Every op in plain PyTorch: the definition of the correct result, and the baseline of the benchmarks.

Nothing here is fast, and many functions form the B x I matrix. Any floating dtype works; tests use float64. The noise
is always float32, because its bits are part of the definition (see `philox4x32`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .graph import InteractionGraph, SeenRows

MASK32 = 0xFFFFFFFF
# The last word of the Philox counter, which differs between the uses of the same seed and offset.
STREAM_DENSE, STREAM_GAP, STREAM_ITEM, STREAM_POSITIVE, STREAM_NEGATIVE, STREAM_USER, STREAM_ALPHA = range(7)
STREAM_DROPOUT, STREAM_ROUNDING, STREAM_WEIGHT, STREAM_WEIGHTED_TRIPLE = range(7, 11)


# --- noise -----------------------------------------------------------------------------------------------------------
def philox4x32(seed: int, counter: Tensor, rounds: int = 10) -> Tensor:
    """Philox4x32-10 (Salmon et al., SC 2011). counter is int64 [..., 4] of 32-bit words, and the key consists of the
    low and the high word of seed. Returns int64 [..., 4] of 32-bit words."""
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = seed & MASK32, (seed >> 32) & MASK32
    for _ in range(rounds):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # int64 wraps around, but only the low 64 bits are needed
        hi0, lo0 = (p0 >> 32) & MASK32, p0 & MASK32
        hi1, lo1 = (p1 >> 32) & MASK32, p1 & MASK32
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return torch.stack((c0, c1, c2, c3), -1)


def philox_bits(seed: int, offset: int, rows: Tensor, columns: int, stream: int) -> Tensor:
    """The 32-bit word of every (row, column), int64 [B, columns]: lane column % 4 of the counter (column // 4, row,
    offset, stream). `rows` are GLOBAL ids, so that the noise of a row does not depend on how rows are tiled or
    distributed."""
    blocks = (columns + 3) // 4
    c0 = torch.arange(blocks).expand(rows.numel(), -1)
    c1 = rows.cpu().to(torch.int64)[:, None].expand_as(c0)
    counter = torch.stack((c0, c1, torch.full_like(c0, offset & MASK32), torch.full_like(c0, stream)), -1)
    return philox4x32(seed, counter).flatten(1)[:, :columns].to(rows.device)


def exponential_from_bits(bits: Tensor) -> Tensor:
    """Exp(1) draws in float32 from 32-bit words k: E = −log1p(−v) with v = (k + ½)·2⁻³², clamped to 1 − 2⁻²⁴."""
    v = (bits.to(torch.float32) * 2.0**-32 + 2.0**-33).clamp(max=1 - 2.0**-24)
    return -torch.log1p(-v)


def gumbel_noise(seed: int, offset: int, rows: Tensor, n_items: int) -> Tensor:
    """The Gumbel(0, 1) noise g = −log E of the dense evaluation of Eq. 5, float32 [B, n_items]."""
    return -torch.log(exponential_from_bits(philox_bits(seed, offset, rows, n_items, STREAM_DENSE)))


def dropped_below(rate: float) -> int:
    """The threshold of dropout: an entry is dropped if its 32-bit word is below rate · 2³², rounded to nearest."""
    return min(int(rate * 2.0**32 + 0.5), MASK32)


def uniform64(words: Tensor, n: Tensor | int) -> Tensor:
    """A uniform index in [0, n) from two 32-bit words [..., ≥2]: ⌊(w1·2³² + w0)·n / 2⁶⁴⌋, for n < 2³¹."""
    w0, w1 = words[..., 0], words[..., 1]
    return (w1 * n + ((w0 * n) >> 32)) >> 32


# --- rows ------------------------------------------------------------------------------------------------------------
def unit_rows(x: Tensor) -> Tensor:
    """x / ‖x‖ per row. A zero row stays zero and has gradient zero; with F.normalize, its gradient would be 1e12."""
    square = (x * x).sum(-1, keepdim=True)
    return x * torch.where(square > 0, square, math.inf).rsqrt()  # 1/sqrt(inf) = 0 for a zero row


def seen_mask(crow: Tensor, col: Tensor, n_items: int) -> Tensor:
    """A mask, bool [B, n_items], which is true at the entries of the CSR block."""
    mask = torch.zeros(crow.numel() - 1, n_items, dtype=torch.bool, device=crow.device)
    mask[row_ids(crow), col.long()] = True
    return mask


def row_ids(crow: Tensor) -> Tensor:
    """The row of every entry of a CSR block, int64 [nnz]."""
    return torch.repeat_interleave(torch.arange(crow.numel() - 1, device=crow.device), crow.diff())


def sampled_dot(crow: Tensor, col: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """s[e] = u[row(e)]·v[col(e)] for every entry e of a CSR block, [nnz]."""
    return (u[row_ids(crow)] * v[col.long()]).sum(-1)


def cosine_block(
    u: Tensor, v: Tensor, seen: SeenRows | None = None, kind: str = "cosine", row_l2: bool = False
) -> Tensor:
    """Eq. 3: the cosine (or dot product) of every user row with every item row, with seen entries 0 and optionally
    normalised rows, [B, I]."""
    if kind == "cosine":
        u, v = unit_rows(u), unit_rows(v)
    rows = u @ v.mT
    if seen is not None:
        rows = rows.masked_fill(seen_mask(seen.crow, seen.col, v.shape[0]), 0)
    return unit_rows(rows) if row_l2 else rows


def cosine_topk(
    u: Tensor, v: Tensor, k: int, seen: SeenRows | None = None, kind: str = "cosine"
) -> tuple[Tensor, Tensor]:
    """The k best items of each row by the same similarities, best first, equal values ordered by id, seen items
    excluded: values [B, k] and items int64 [B, k], with −inf and −1 if fewer than k items are left."""
    scores = cosine_block(u, v, kind=kind)
    if seen is not None:
        scores = scores.masked_fill(seen_mask(seen.crow, seen.col, v.shape[0]), -math.inf)
    scores = F.pad(scores, (0, max(0, k - scores.shape[1])), value=-math.inf)
    values, items = torch.sort(scores, dim=1, descending=True, stable=True)
    values, items = values[:, :k], items[:, :k]
    return values, torch.where(values == -math.inf, -1, items)


def gumbel_logits(
    crow: Tensor,
    col: Tensor,
    users: Tensor,
    n_items: int,
    tau: float,
    seed: int,
    offset: int = 0,
    noise_scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(A + σ g)/τ of Eq. 5, [B, I]. crow and col are the seen items of the users."""
    noise = gumbel_noise(seed, offset, users, n_items).to(dtype)
    return (seen_mask(crow, col, n_items).to(dtype) + noise_scale * noise) / tau


def gumbel_softmax(
    graph: InteractionGraph,
    users: Tensor,
    tau: float,
    seed: int,
    offset: int = 0,
    *,
    noise_scale: float = 1.0,
    augment: tuple[Tensor, Tensor] | None = None,
    zeta: float = 0.0,
    row_l2: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Eq. 5, dense evaluation: softmax((A + σ g)/τ) + ζ cos(h_u, h_i), optionally with normalised rows, [B, I]."""
    seen = graph.rows(users)
    logits = gumbel_logits(seen.crow, seen.col, users, graph.n_items, tau, seed, offset, noise_scale, dtype)
    rows = logits.softmax(-1)
    if augment is not None:
        rows = rows + zeta * cosine_block(*augment)
    return unit_rows(rows) if row_l2 else rows


def gumbel_order_statistics(
    graph: InteractionGraph, users: Tensor, tau: float, seed: int, offset: int = 0, noise_scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows softmax((A + σ g)/τ) of Eq. 5 from their order statistics, as a CSR block (crow, col ascending, value
    float32). Requires τ < σ.

    With a = σ/τ, a seen item has the log weight 1/τ − a log E, where E is the word of its column in STREAM_DENSE. The
    k-th smallest E of the n unseen items has the log weight −a log E_(k) with E_(k+1) = E_(k) + Exp(1)/(n − k), where
    Exp(1) is word k of STREAM_GAP. Its item is the next of a Fisher-Yates shuffle of the unseen items, by the words 2k
    and 2k + 1 of STREAM_ITEM. The drawing ends when n E_(k)^{1−a}/(a − 1) is below 2⁻²⁴ of the largest weight. E =
    −log1p(−v) is computed in double.
    """
    if not tau < noise_scale:
        raise ValueError(f"gumbel_order_statistics: tau / noise_scale must be below 1, got {tau} / {noise_scale}")
    power, crow, items, values = noise_scale / tau, [0], [], []

    def words(user: int, block: int, stream: int) -> list[int]:
        return philox4x32(seed, torch.tensor([block, user, offset & MASK32, stream])).tolist()

    def exponential(bits: int) -> float:
        return -math.log1p(-min(float(torch.tensor(bits, dtype=torch.float32) * 2.0**-32 + 2.0**-33), 1 - 2.0**-24))

    for user in users.tolist():
        seen = graph.col[graph.crow[user] : graph.crow[user + 1]].tolist()
        log_weight = {
            i: 1 / tau - power * math.log(exponential(words(user, i // 4, STREAM_DENSE)[i % 4])) for i in seen
        }
        unseen = sorted(set(range(graph.n_items)) - set(seen))
        top, e, n = max(log_weight.values(), default=-math.inf), 0.0, len(unseen)
        for k in range(n):
            e += exponential(words(user, k // 4, STREAM_GAP)[k % 4]) / (n - k)
            pair = torch.tensor(words(user, k // 2, STREAM_ITEM)[k % 2 * 2 :][:2])
            pick = k + int(uniform64(pair, n - k))
            unseen[k], unseen[pick] = unseen[pick], unseen[k]
            log_weight[unseen[k]] = -power * math.log(e)
            top = max(top, log_weight[unseen[k]])
            if math.log(n / (power - 1)) + (1 - power) * math.log(e) - top < -24 * math.log(2):
                break
        row = sorted(log_weight)
        weight = [math.exp(log_weight[i] - top) for i in row]
        items += row
        values += [w / sum(weight) for w in weight]
        crow.append(len(items))
    return torch.tensor(crow), torch.tensor(items, dtype=graph.col.dtype), torch.tensor(values, dtype=torch.float32)


def relation_linear(
    u: Tensor,
    v: Tensor,
    weight: Tensor,
    seen: SeenRows | None = None,
    kind: str = "dot",
    row_l2: bool = False,
) -> Tensor:
    """F.linear of generated rows, [B, H], with weight [H, I]."""
    return F.linear(cosine_block(u, v, seen, kind, row_l2), weight)


def relation_row_norm(u: Tensor, v: Tensor, seen: SeenRows | None = None) -> Tensor:
    """The length of dot rows with seen entries 0, [B]. A zero row has gradient 0."""
    square = cosine_block(u, v, seen, "dot").square().sum(-1)
    return torch.where(square > 0, square, 1.0).sqrt() * (square > 0)


def gumbel_linear(
    graph: InteractionGraph,
    users: Tensor,
    weight: Tensor,
    tau: float,
    seed: int,
    offset: int = 0,
    noise_scale: float = 1.0,
) -> Tensor:
    """F.linear of Gumbel rows (dense evaluation), [B, H], with weight [H, I]."""
    rows = gumbel_softmax(graph, users, tau, seed, offset, noise_scale=noise_scale, dtype=weight.dtype)
    return F.linear(rows, weight)


def act_norm_dropout(
    z: Tensor, weight: Tensor, bias: Tensor, rate: float, seed: int, offset: int, slope: float = 0.2, eps: float = 1e-5
) -> Tensor:
    """Γ of Eq. 4 without its Linear, in training mode: dropout(batch_norm(leaky_relu(z))) for z [B, H]. The entries
    that are not dropped are divided by 1 − rate."""
    normed = F.batch_norm(F.leaky_relu(z, slope), None, None, weight, bias, training=True, eps=eps)
    words = philox_bits(seed, offset, torch.arange(z.shape[0]), z.shape[1], STREAM_DROPOUT)
    return normed * (words >= dropped_below(rate)) / (1 - rate)


def gradient_norm(g: Tensor, weight: Tensor) -> Tensor:
    """‖g W‖₂ per row, [B], with gradient 0 at 0. It is ‖∇_x D‖ of Eq. 7 if g = ∂ΣD/∂z for the first Linear's output
    z."""
    return (g @ weight).norm(dim=1)


# --- graph -----------------------------------------------------------------------------------------------------------
def spmm(crow: Tensor, col: Tensor, value: Tensor | None, x: Tensor) -> Tensor:
    """The sum of value · x[col] over the entries of every row, [rows, d]."""
    gathered = x[col.long()] if value is None else value[:, None].to(x.dtype) * x[col.long()]
    return x.new_zeros(crow.numel() - 1, x.shape[1]).index_add(0, row_ids(crow), gathered)


def propagate(graph: InteractionGraph, x: Tensor, to: str = "users", norm: str = "receiver") -> Tensor:
    """Eq. 2, 8, 10: y_r = Σ_{c∈N_r} x_c / sqrt|N_r| (norm="receiver"), / sqrt(|N_r||N_c|) ("both"), or the sum."""
    crow, col, value = (
        (graph.crow, graph.col, graph.value) if to == "users" else (graph.t_crow, graph.t_col, graph.t_value)
    )
    sender = "items" if to == "users" else "users"
    if norm == "both":
        x = x * graph.inv_sqrt_degree(sender, x.dtype)[:, None]
    y = spmm(crow, col, value, x)
    return y if norm == "none" else y * graph.inv_sqrt_degree(to, x.dtype)[:, None]


def lightgcn(
    graph: InteractionGraph, users: Tensor, items: Tensor, layers: int, norm: str = "receiver"
) -> tuple[Tensor, Tensor]:
    """Eq. 10: users' = A items and items' = Aᵀ users, L times, and the mean over the layers 0 to L."""
    sum_users, sum_items = users, items
    for _ in range(layers):
        users, items = propagate(graph, items, "users", norm), propagate(graph, users, "items", norm)
        sum_users, sum_items = sum_users + users, sum_items + items
    return sum_users / (layers + 1), sum_items / (layers + 1)


# --- attention and losses --------------------------------------------------------------------------------------------
def modality_attention(e: Tensor, wq: Tensor, wk: Tensor, wo: Tensor, heads: int) -> Tensor:
    """Eq. 9 with an output projection, [N, d]: the mean over m of (concat_h Σ_m' softmax_m'((e_m Wq_h)·(e_m' Wk_h) /
    sqrt(d/H)) e_m') Wo, for e [M, N, d], wq and wk [d, d] (d/H columns per head) and wo [H·d, d]."""
    m, n, d = e.shape
    q = (e @ wq).view(m, n, heads, d // heads)
    k = (e @ wk).view(m, n, heads, d // heads)
    weights = (torch.einsum("anhc,bnhc->nhab", q, k) / math.sqrt(d / heads)).softmax(-1)
    mixed = torch.einsum("nhab,bnd->anhd", weights, e).reshape(m, n, heads * d)
    return (mixed @ wo).mean(0)


def infonce(h: Tensor, e: Tensor, ids: Tensor, tau: float, exclude_self: bool = False) -> Tensor:
    """Eq. 11 as a mean over the anchors u in ids: −s(h_u, e_u) + log Σ_{u'} [exp s(h_u', e_u) + exp s(e_u', e_u)] with
    s = cosine/τ. exclude_self leaves the term u' = u out of the second sum."""
    h, e = unit_rows(h), unit_rows(e)
    anchors = e[ids]
    cross, within = anchors @ h.mT / tau, anchors @ e.mT / tau
    if exclude_self:
        within = within.scatter(1, ids[:, None], -math.inf)
    denominator = torch.cat((cross, within), 1).logsumexp(1)
    return (denominator - (anchors * h[ids]).sum(1) / tau).mean()


def bpr_loss(user_emb: Tensor, item_emb: Tensor, users: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
    """Eq. 14 as a mean: −log σ(u·i⁺ − u·i⁻)."""
    u = user_emb[users]
    return -F.logsigmoid((u * item_emb[pos]).sum(1) - (u * item_emb[neg]).sum(1)).mean()


# --- sampling --------------------------------------------------------------------------------------------------------
def sample_bpr(
    graph: InteractionGraph, batch: int, seed: int, offset: int = 0, over: str = "interactions"
) -> tuple[Tensor, Tensor, Tensor]:
    """Users, positives and negatives, int64 [batch]. Users with every item, who have no negative, are not drawn.

    over="interactions": triple b has edge ⌊w·nnz'⌋ of the nnz' edges whose user has a negative, with the uniform w of
    the counter (b, 0, offset, STREAM_POSITIVE). over="users": the eligible users with the `batch` smallest (64-bit
    word, id), in this order, with the word of the counter (user, 0, offset, STREAM_USER), and for each a uniform
    positive. The negative is the r-th unseen item, with the uniform r of the counter (b, 0, offset, STREAM_NEGATIVE).
    """
    device, crow, col = graph.device, graph.crow.cpu(), graph.col.cpu().long()
    degree = crow.diff()
    eligible = ((degree > 0) & (degree < graph.n_items)).nonzero().flatten()
    counter = torch.zeros(batch, 4, dtype=torch.int64)
    counter[:, 0], counter[:, 2], counter[:, 3] = torch.arange(batch), offset & MASK32, STREAM_POSITIVE
    words = philox4x32(seed, counter)
    if over == "interactions":
        ends = torch.cumsum(degree[eligible], 0)
        edge = uniform64(words, int(ends[-1]))
        slot = torch.searchsorted(ends, edge, right=True)
        users = eligible[slot]
        pos = col[crow[users] + edge - (ends[slot] - degree[users])]
    else:
        draw = torch.zeros(eligible.numel(), 4, dtype=torch.int64)
        draw[:, 0], draw[:, 2], draw[:, 3] = eligible, offset & MASK32, STREAM_USER
        w = philox4x32(seed, draw)
        by_low = torch.sort(w[:, 0], stable=True).indices
        order = by_low[torch.sort(w[by_low, 1], stable=True).indices]
        if batch > eligible.numel():
            raise ValueError(f"sample_bpr: batch is {batch}, but only {eligible.numel()} users have a negative item")
        users = eligible[order[:batch]]
        pos = col[crow[users] + uniform64(words, degree[users])]
    counter[:, 3] = STREAM_NEGATIVE
    rank = uniform64(philox4x32(seed, counter), graph.n_items - degree[users])
    neg = torch.stack(
        [
            r + (col[crow[u] : crow[u + 1]] - torch.arange(int(degree[u])) <= r).sum()
            for u, r in zip(users.tolist(), rank, strict=True)
        ]
    )
    return users.to(device), pos.to(device), neg.to(device)
