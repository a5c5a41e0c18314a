"""The terms of the MMSSL losses (Eq. 7, 11 and 13). Every function returns a scalar or a dict of scalars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl_fast import distributed
from mmssl_fast.distributed import ONE, Ranks
from mmssl_fast.graph import InteractionGraph
from mmssl_fast.nn.discriminator import Discriminator
from mmssl_fast.ops.unit_rows import unit_rows

if TYPE_CHECKING:
    from mmssl_fast.relation.rows import RelationRows


def discriminator_loss(
    discriminator: Discriminator,
    real: Tensor | RelationRows,
    fakes: Sequence[Tensor | RelationRows],
    alpha: Tensor,
    penalty_weight: float = 1.0,
) -> dict[str, Tensor]:
    """The terms of the discriminator loss L_D, equation 7 of MMSSL (WWW 2023).

    With fake = cat(fakes) and the real rows repeated for every modality, the terms equal::

        real = -D(real).mean()
        fake = D(fake).mean()
        x = alpha[:, None] * real + (1 - alpha[:, None]) * fake
        (g,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
        penalty = penalty_weight * ((g.norm(dim=1) - 1) ** 2).mean()

    Neither x nor g is formed. The first Linear is applied once to the real and fake rows. Its output for x is the
    interpolation of their outputs, and ‖g‖ = ‖g_z W‖ with g_z = ∂ΣD/∂Linear(x). Real, fake and interpolated rows pass
    the other layers separately, so that BatchNorm uses the statistics of each kind. The released code does the same;
    the paper does not specify it.

    Args:
        discriminator: the discriminator D.
        real: rows Ã of equation 5 for B users, a [B, I] tensor or RelationRows, detached.
        fakes: rows Â^m of equation 3 for the same users, one entry per modality, detached.
        alpha: [M * B], weights of the real rows in the interpolation, in (0, 1), modality by modality.
        penalty_weight: weight λ1 of the penalty.

    Returns:
        A dict with the scalars "real", "fake" and "penalty", whose sum is L_D.

    Raises:
        ValueError: fakes is empty, alpha has another shape, or there is a single user in training mode, for which
            BatchNorm is undefined.

    Example:
        >>> from mmssl_fast.nn import Discriminator
        >>> discriminator = Discriminator(40, hidden=(8, 4), dropout=(0.0, 0.0))
        >>> real = RelationRows.from_dense(torch.rand(3, 40))
        >>> fakes = [RelationRows.generated(torch.randn(3, 6), torch.randn(40, 6)) for _ in range(2)]
        >>> terms = discriminator_loss(discriminator, real, fakes, alpha=torch.rand(6))
        >>> sorted(terms)
        ['fake', 'penalty', 'real']
    """
    count = len(fakes)
    batch = real.shape[0]
    if not count:
        raise ValueError("discriminator_loss: fakes must have at least one modality")
    if discriminator.training and discriminator.norm == "batch" and batch < 2:
        raise ValueError(f"discriminator_loss: BatchNorm needs at least 2 real rows in training, got {batch}")
    if alpha.shape != (count * batch,):
        raise ValueError(
            f"discriminator_loss: alpha must be [{count} modalities x {batch} rows], got shape {tuple(alpha.shape)}"
        )
    z = discriminator.first(torch.cat(cast(list[Tensor], [real, *fakes])))
    z_real, z_fake = z.split([batch, count * batch])
    alpha = alpha.to(z.dtype)[:, None]
    z_mixed = alpha * z_real.repeat(count, 1) + (1 - alpha) * z_fake
    (g,) = torch.autograd.grad(discriminator.head(z_mixed).sum(), z_mixed, create_graph=True)
    with discriminator.products():
        norm = distributed.gradient_norm(g, discriminator.linear.weight, discriminator.ranks)
    return {
        "real": -discriminator.head(z_real).mean(),
        "fake": discriminator.head(z_fake).mean(),
        "penalty": penalty_weight * (norm - 1).square().mean(),
    }


def generator_loss(discriminator: Discriminator, fakes: Sequence[Tensor | RelationRows]) -> Tensor:
    """Equals ``-discriminator(torch.cat(fakes)).mean()``, without gradients for the discriminator's parameters.

    The generator loss L_G of equation 7.

    Args:
        discriminator: the discriminator D.
        fakes: rows Â^m of equation 3, one entry per modality, each a [B, I] tensor or RelationRows.
    """
    with discriminator.frozen():
        return -discriminator(torch.cat(cast(list[Tensor], list(fakes)))).mean()


def contrastive_loss(
    users: Tensor,
    views: Sequence[Tensor],
    ids: Tensor,
    tau: float,
    *,
    exclude_self: bool = False,
    n_users: int | None = None,
    ranks: Ranks = ONE,
    gemm: torch.dtype | None = None,
) -> Tensor:
    """Equals ``sum(infonce(users, view, ids, tau, exclude_self, gemm=gemm) for view in views)``.

    The contrastive loss L_CL of equation 11, as a mean over the anchors and a sum over the modalities. The anchors are
    the users of the batch, and the negatives are all U users. The paper sums over the users; to compare, multiply λ2 by
    their number.

    Args:
        users: h_u [U, d].
        views: e_u^m [U, d], one tensor per modality.
        ids: anchors, int64 [B].
        tau: temperature τ'.
        exclude_self: leave u' = u out of the sum over e_u'^m. The released code does, the paper does not.
        ranks, n_users: the processes and U, if several share the tables; `users` and `views` are then this rank's rows.
        gemm: dtype to which the operands of products are rounded, as in `infonce`.
    """
    rows = users.shape[0] if n_users is None else n_users
    terms = [distributed.infonce(users, view, ids, tau, rows, ranks, exclude_self, gemm=gemm) for view in views]
    return torch.stack(terms).sum()


def structural_loss(
    graph: InteractionGraph,
    users: Tensor,
    items: Tensor,
    user_ids: Tensor,
    item_ids: Tensor,
    tau: float,
    ranks: Ranks = ONE,
    gemm: torch.dtype | None = None,
) -> Tensor:
    """The structural contrastive loss of NCL (Lin et al., WWW 2022, Eq. 6 and 7): a node against its two-hop
    neighbourhood.

    With Â = D_u^−½ A D_i^−½, it equals::

        infonce(users, Â Âᵀ users, user_ids, tau, exclude_self=True)
        + infonce(items, Âᵀ Â items, item_ids, tau, exclude_self=True)

    It is not part of MMSSL. Equation 11 of MMSSL contrasts users only, with neighbours by features. On TikTok, this
    loss improves recall more than equation 11 (docs/tiktok.md). In NCL, the denominator has one sum, over the
    embeddings before propagation. `infonce` adds the sum over the propagated embeddings, without the anchor itself.

    Args:
        graph: training interactions of U users and I items.
        users, items: embeddings before propagation, [U, d] and [I, d].
        user_ids, item_ids: anchors, int64 [B]: the users and positive items of the batch.
        tau: temperature (NCL on MovieLens-1M: 0.1).
        ranks: the processes, if several share the tables; `users` and `items` are then this rank's rows.
        gemm: dtype to which the operands of products are rounded, as in `infonce`.
    """

    def two_hops(x: Tensor, n: int, *sides: str) -> Tensor:
        columns = distributed.rows_to_columns(x, n, ranks)
        for to in sides:
            columns = distributed.propagate_columns(graph, columns, ranks, to, "both")
        return distributed.columns_to_rows(columns, x.shape[1], ranks, n)

    far_users = two_hops(users, graph.n_users, "items", "users")
    far_items = two_hops(items, graph.n_items, "users", "items")
    options: Any = {"exclude_self": True, "gemm": gemm}
    return distributed.infonce(users, far_users, user_ids, tau, graph.n_users, ranks, **options) + (
        distributed.infonce(items, far_items, item_ids, tau, graph.n_items, ranks, **options)
    )


def autoencoder_loss(
    modal_users: Sequence[Tensor], modal_items: Sequence[Tensor], users: Tensor, pos: Tensor, neg: Tensor, tau: float
) -> Tensor:
    """The loss of the graph auto-encoder, which replaces the adversarial part in Table 3 of the paper: it reconstructs
    the interactions from every Â^m.

    With Â^m of equation 3 at the sampled pairs only, it equals the sum over the modalities of::

        (BCE_with_logits(Â[users, pos] / tau, 1) + BCE_with_logits(Â[users, neg] / tau, 0)) / 2

    The paper names this variant without a formula. This is the usual graph auto-encoder, which predicts an edge from
    the similarity of its two nodes.

    Args:
        modal_users, modal_items: f_u^m [U, d] and f_i^m [I, d], one tensor per modality.
        users, pos, neg: int64 [B]: users, items that they interacted with, and items that they did not.
        tau: temperature by which a cosine is divided to give a logit.
    """
    terms = []
    for f_u, f_i in zip(modal_users, modal_items, strict=True):
        anchors = unit_rows(f_u[users])
        positive, negative = ((anchors * unit_rows(f_i[items])).sum(1) / tau for items in (pos, neg))
        terms.append(-0.5 * (F.logsigmoid(positive) + F.logsigmoid(-negative)).mean())
    return torch.stack(terms).sum()


def embedding_l2(*embeddings: Tensor) -> Tensor:
    """Equals ``sum(x.square().sum() / len(x) for x in embeddings) / 2``: λ4‖Θ‖² of equation 13 for a batch.

    The decoupled weight decay of AdamW is an alternative. Use one of the two.
    """
    return 0.5 * torch.stack([block.square().sum() / block.shape[0] for block in embeddings]).sum()
