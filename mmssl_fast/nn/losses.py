"""The terms of MMSSL's losses (Eq. 6, 7, 11, 13, 14), each a function that returns one scalar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl_fast.graph import InteractionGraph
from mmssl_fast.nn.discriminator import Discriminator
from mmssl_fast.ops.infonce import infonce
from mmssl_fast.ops.propagate import propagate
from mmssl_fast.ops.unit_rows import unit_rows
from mmssl_fast.relation.algebra.gradient_norm import gradient_norm

if TYPE_CHECKING:
    from mmssl_fast.relation.rows import RelationRows


def discriminator_loss(
    discriminator: Discriminator,
    real: Tensor | RelationRows,
    fakes: Sequence[Tensor | RelationRows],
    alpha: Tensor,
    penalty_weight: float = 1.0,
) -> dict[str, Tensor]:
    """L_D of Eq. 7 by parts; rows go through the first Linear once, interpolation and penalty happen behind it.

    Equals, with fake = cat(fakes) and the real rows repeated for every modality,

        real = -D(real).mean();  fake = D(fake).mean()
        x = alpha * real + (1 - alpha) * fake;  g, = grad(D(x).sum(), x, create_graph=True)
        penalty = penalty_weight * ((g.norm(dim=1) - 1) ** 2).mean()

    without x or g: Linear(x) = alpha Linear(real) + (1 - alpha) Linear(fake), and ‖∇_x D‖ = ‖g_z W‖ with g_z =
    ∂ΣD/∂Linear(x). Real, fake and interpolated rows each make their own pass above the first Linear, so BatchNorm
    normalises each kind by its own statistics (as the released code does; the paper leaves it open).

    Args:
        discriminator: D.
        real: Ã of Eq. 5 for B users, dense [B, I] or RelationRows.
        fakes: Â^m of Eq. 3 for the same users, one entry a modality, each like `real`. Detach all rows beforehand.
        alpha: the weights of the real rows in the interpolation, [M * B] in (0, 1), modality by modality.
        penalty_weight: λ1.

    Returns:
        "real", "fake", "penalty": scalars whose sum is L_D.

    Raises:
        ValueError: no fake rows, alpha of another length, or a single user in training (BatchNorm needs two).
    """
    count = len(fakes)
    batch = real.shape[0]
    if not count:
        raise ValueError("discriminator_loss: fakes is empty, at least one modality is needed")
    if discriminator.training and batch < 2:
        raise ValueError(f"discriminator_loss: BatchNorm needs at least 2 real rows in training, got {batch}")
    if alpha.shape != (count * batch,):
        raise ValueError(
            f"discriminator_loss: alpha has shape {tuple(alpha.shape)}, expected [{count} modalities x {batch} rows]"
        )
    z = discriminator.first(torch.cat(cast(list[Tensor], [real, *fakes])))
    z_real, z_fake = z.split([batch, count * batch])
    alpha = alpha.to(z.dtype)[:, None]
    z_mixed = alpha * z_real.repeat(count, 1) + (1 - alpha) * z_fake
    (g,) = torch.autograd.grad(discriminator.head(z_mixed).sum(), z_mixed, create_graph=True)
    with discriminator.products():
        norm = gradient_norm(g, discriminator.linear.weight)
    return {
        "real": -discriminator.head(z_real).mean(),
        "fake": discriminator.head(z_fake).mean(),
        "penalty": penalty_weight * (norm - 1).square().mean(),
    }


def generator_loss(discriminator: Discriminator, fakes: Sequence[Tensor | RelationRows]) -> Tensor:
    """L_G of Eq. 7: −D(cat(fakes)).mean(); gradients reach the rows' embeddings, none is computed for D's parameters.

    fakes: Â^m of Eq. 3, one entry a modality, dense [B, I] or RelationRows.
    """
    with discriminator.frozen():
        return -discriminator(torch.cat(cast(list[Tensor], list(fakes)))).mean()


def contrastive_loss(
    users: Tensor, views: Sequence[Tensor], ids: Tensor, tau: float, *, exclude_self: bool = False
) -> Tensor:
    """L_CL of Eq. 11: Σ_m infonce(users, views[m], ids), the mean over the anchors and the sum over modalities.

    The anchors are the batch's users, the negatives all U users. The paper sums over users: multiply λ2 by their
    number to compare.

    Args:
        users: h_u [U, d].
        views: e_u^m [U, d], one a modality.
        ids: anchors, int64 [B].
        tau: τ'.
        exclude_self: leave u' = u out of the sum over e_u'^m (the paper keeps it, the released code does not).
    """
    return torch.stack([infonce(users, view, ids, tau, exclude_self) for view in views]).sum()


def structural_loss(
    graph: InteractionGraph,
    users: Tensor,
    items: Tensor,
    user_ids: Tensor,
    item_ids: Tensor,
    tau: float,
) -> Tensor:
    """NCL's structural contrast (Lin et al., WWW 2022, Eq. 6 and 7): a node against its two-hop neighbourhood.

    Equals, with Â = D_u^−½ A D_i^−½,

        infonce(users, Â Âᵀ users, user_ids, tau, exclude_self=True)
        + infonce(items, Âᵀ Â items, item_ids, tau, exclude_self=True)

    Not part of MMSSL, whose Eq. 11 contrasts users alone and takes their neighbours from features; on TikTok it brings
    more than Eq. 11 does (docs/results.md). NCL's denominator sums over the nodes' own layer alone; `infonce`
    adds the anchor's, without the anchor itself.

    Args:
        graph: training interactions, U users x I items.
        users, items: embeddings before propagation, [U, d] and [I, d].
        user_ids, item_ids: anchors, int64 [B]: the batch's users and positive items.
        tau: temperature (NCL on MovieLens-1M: 0.1).
    """
    one_hop = propagate(graph, items, "users", "both"), propagate(graph, users, "items", "both")
    far_users, far_items = propagate(graph, one_hop[1], "users", "both"), propagate(graph, one_hop[0], "items", "both")
    return infonce(users, far_users, user_ids, tau, exclude_self=True) + infonce(
        items, far_items, item_ids, tau, exclude_self=True
    )


def autoencoder_loss(
    modal_users: Sequence[Tensor], modal_items: Sequence[Tensor], users: Tensor, pos: Tensor, neg: Tensor, tau: float
) -> Tensor:
    """The graph auto-encoder that replaces the adversarial part in Table 3: reconstruct A from every Â^m.

    Equals, summed over modalities, with Â^m of Eq. 3 taken only at the sampled pairs,

        ½ (BCE_with_logits(Â[users, pos] / tau, 1) + BCE_with_logits(Â[users, neg] / tau, 0))

    The paper names the variant and gives no formula; this is the usual graph auto-encoder (an edge is decoded from its
    two ends' similarity) on the batch's pairs.

    Args:
        modal_users, modal_items: f_u^m [U, d], f_i^m [I, d].
        users, pos, neg: int64 [B], the batch; neg are items the user has not interacted with.
        tau: temperature that turns a cosine into a logit.
    """
    terms = []
    for f_u, f_i in zip(modal_users, modal_items, strict=True):
        anchors = unit_rows(f_u[users])
        positive, negative = ((anchors * unit_rows(f_i[items])).sum(1) / tau for items in (pos, neg))
        terms.append(-0.5 * (F.logsigmoid(positive) + F.logsigmoid(-negative)).mean())
    return torch.stack(terms).sum()


def embedding_l2(*embeddings: Tensor) -> Tensor:
    """½ Σ‖row‖² / B over several [B, d] blocks: the batch's share of λ4‖Θ‖² (Eq. 13) as an explicit term.

    AdamW's decoupled weight decay is the other form of it; use one or the other.
    """
    return 0.5 * torch.stack([block.square().sum() / block.shape[0] for block in embeddings]).sum()
