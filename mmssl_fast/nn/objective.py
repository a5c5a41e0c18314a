"""The training objective of MMSSL (Eq. 13) and of its discriminator (Eq. 7), without a training loop or optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from mmssl_fast import distributed
from mmssl_fast.graph import SeenRows
from mmssl_fast.nn import losses
from mmssl_fast.nn.discriminator import Discriminator
from mmssl_fast.nn.encoded import Encoded
from mmssl_fast.nn.encoder import MMSSL
from mmssl_fast.nn.noise import interpolation_weights
from mmssl_fast.nn.options import ObjectiveOptions
from mmssl_fast.relation import RelationRows


class MMSSLObjective:
    """The weighted loss terms of one training step: equation 7 of MMSSL (WWW 2023) for the discriminator, and equation
    13 for the model.

    A training step is::

        encoded = model()
        objective.discriminator_terms(encoded, users, step)["total"].backward()  # then step the discriminator's Adam
        objective.generator_terms(encoded, users, pos, neg)["total"].backward()  # then step the model's AdamW

    Both methods can use the same `encoded`, because discriminator_terms detaches it. The noise is a function of
    (seed, step). A part that is switched off has no entry in the result and is not computed.

    Args:
        model: the encoder. Its graph defines the real rows.
        discriminator: the discriminator, or None if options.adversarial is False.
        options: parts, weights and temperatures. None is ObjectiveOptions().
        seed: key of the noise.
        max_repeats: the maximum number of times that a user occurs in a batch: 1 for ``sample_bpr(over="users")``, None
            for any number. On CUDA, distinct users need less memory and time.
        gemm: torch.bfloat16 rounds the operands of the matrix products of the contrastive and structural terms
            (docs/precision.md has the errors). None follows torch.autocast. For the products of the discriminator, see
            its own `gemm`.
        **changes: fields of ObjectiveOptions that replace those of `options`.

    Raises:
        TypeError: ObjectiveOptions has no field of that name.
        ValueError: an option is invalid; the adversarial part is on, but there is no discriminator, or it has another
            number of items than the graph; or the contrastive part is on, but the model has no semantic neighbours.

    Example:
        >>> from mmssl_fast.nn import MMSSL, Discriminator, MMSSLObjective
        >>> graph = InteractionGraph.from_pairs([0, 0, 1, 2], [0, 2, 1, 3], n_users=3, n_items=40)
        >>> model = MMSSL(graph, {"image": torch.randn(40, 5)}, dim=8, neighbours=2)
        >>> objective = MMSSLObjective(model, Discriminator(40, hidden=(8, 4)), seed=1)
        >>> users, pos, neg = sample_bpr(graph, batch=3, seed=1, over="users")
        >>> sorted(objective.discriminator_terms(model(), users, step=0))
        ['fake', 'penalty', 'real', 'total']
        >>> sorted(objective.generator_terms(model(), users, pos, neg))
        ['bpr', 'contrastive', 'generator', 'l2', 'total']
    """

    def __init__(
        self,
        model: MMSSL,
        discriminator: Discriminator | None,
        options: ObjectiveOptions | None = None,
        *,
        seed: int | Tensor = 0,
        max_repeats: int | None = None,
        gemm: torch.dtype | None = None,
        **changes: Any,
    ) -> None:
        self.options = options = replace(options or ObjectiveOptions(), **changes)
        _check_model(model, discriminator, options)
        self.model, self.discriminator, self.seed, self.max_repeats = model, discriminator, seed, max_repeats
        self.gemm = gemm
        self.adversarial, self.contrastive = options.adversarial, options.contrastive
        self.noise_scale = options.noise_scale if options.gumbel else 0.0

    def real_rows(self, encoded: Encoded, users: Tensor, step: int) -> RelationRows:
        """The real rows Ã of Eq. 5 for `users`, int64 [B]: Gumbel rows plus ζ cos(h_u, h_i), normalised if
        options.row_l2."""
        options, ranks = self.options, self.model.ranks
        graph = distributed.batch_rows(self.model.interactions(), users)
        noise = options.gumbel_tau, self.seed, step, self.noise_scale
        rows = RelationRows.gumbel(graph, users, *noise, self.max_repeats, ranks.span(graph.n_items))
        rows = rows.to(encoded.users.dtype)
        if options.zeta:
            h_u = self._shared(encoded.users, users)
            rows = rows + options.zeta * RelationRows.generated(h_u, encoded.items, "cosine", self._seen(users))
        return distributed.normalize_rows(rows, ranks) if options.row_l2 else rows

    def fake_rows(self, encoded: Encoded, users: Tensor) -> list[RelationRows]:
        """The generated rows Â^m of Eq. 3 for `users`, one entry per modality."""
        seen, kind, ranks = self._seen(users), self.options.kind, self.model.ranks
        rows = [
            RelationRows.generated(self._shared(f_u, users), f_i, kind, seen)
            for f_u, f_i in zip(encoded.modal_users, encoded.modal_items, strict=True)
        ]
        return [distributed.normalize_rows(block, ranks) for block in rows] if self.options.row_l2 else rows

    def discriminator_terms(self, encoded: Encoded, users: Tensor, step: int) -> dict[str, Tensor]:
        """The terms "real", "fake" and "penalty" of L_D (Eq. 7), and their "total". Only the discriminator gets
        gradients.

        Args:
            encoded: the output of the model. It is detached.
            users: int64 [B], at least 2.
            step: number of the step, the offset of the noise.

        Raises:
            ValueError: the adversarial part is off.
        """
        self._check_adversarial()
        encoded = encoded.detach()
        return self._discriminator_terms(
            self.real_rows(encoded, users, step), self.fake_rows(encoded, users), users, step
        )

    def discriminator_parts(
        self, encoded: Encoded, users: Tensor, step: int, parts: Sequence[slice]
    ) -> Iterator[dict[str, Tensor]]:
        """Equals ``discriminator_terms(encoded, users[part], step) for part in parts``, up to rounding.

        The relation rows are made once for all users. They have O(B·d) numbers, but the values of the hidden layers, of
        which there are O(B·H), exist for one part at a time.

        Args:
            encoded, users, step: as for `discriminator_terms`.
            parts: slices of `users`, each with at least 2 of them.

        Raises:
            ValueError: the adversarial part is off.

        Example:
            >>> from mmssl_fast.nn import MMSSL, Discriminator, MMSSLObjective
            >>> graph = InteractionGraph.from_pairs([0, 1, 2, 3], [0, 2, 1, 3], n_users=4, n_items=40)
            >>> model = MMSSL(graph, {"image": torch.randn(40, 5)}, dim=8, neighbours=2)
            >>> objective = MMSSLObjective(model, Discriminator(40, hidden=(8, 4)))
            >>> terms = objective.discriminator_parts(model(), torch.arange(4), 0, [slice(0, 2), slice(2, 4)])
            >>> [sorted(part) for part in terms]
            [['fake', 'penalty', 'real', 'total'], ['fake', 'penalty', 'real', 'total']]
        """
        if len(parts) == 1:
            yield self.discriminator_terms(encoded, users[parts[0]], step)
            return
        self._check_adversarial()
        encoded = encoded.detach()
        real, fakes = self.real_rows(encoded, users, step), self.fake_rows(encoded, users)
        for part in parts:
            yield self._discriminator_terms(real[part], [rows[part] for rows in fakes], users[part], step)

    def _discriminator_terms(
        self, real: RelationRows, fakes: list[RelationRows], users: Tensor, step: int
    ) -> dict[str, Tensor]:
        alpha = interpolation_weights(self.seed, step, users, len(fakes))
        discriminator = cast(Discriminator, self.discriminator)
        return _with_total(losses.discriminator_loss(discriminator, real, fakes, alpha, self.options.lambda_penalty))

    def _check_adversarial(self) -> None:
        if not self.adversarial:
            raise ValueError(
                "MMSSLObjective.discriminator_terms: the adversarial part is off; there is no discriminator to train"
            )

    def generator_terms(
        self, encoded: Encoded, users: Tensor, pos: Tensor, neg: Tensor, anchors: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The weighted terms of Eq. 13, and their "total". Only the model gets gradients.

        The terms are "bpr", "l2", "features", "contrastive", "structural", "generator" and "autoencoder", as far as
        they are switched on.

        Args:
            encoded: the output of the model.
            users, pos, neg: int64 [B], from `sample_bpr`.
            anchors: int64 [A], the positions in the batch of the anchors of the contrastive and structural terms,
                which are means over them. Without any, these two terms have no entry in the result. None is
                ``anchor_positions(B, options.anchors)``.

        Raises:
            ValueError: the contrastive part is on, but `encoded` has no views.
        """
        options, graph, ranks = self.options, self.model.interactions(), self.model.ranks
        sizes = graph.n_users, graph.n_items
        if self.contrastive and not encoded.view_users:
            raise ValueError(
                "MMSSLObjective.generator_terms: the contrastive part needs the views of Eq. 8; call the model with "
                "views=True"
            )
        if anchors is None and options.anchors and options.anchors < len(users):
            anchors = anchor_positions(len(users), options.anchors, users.device)
        anchored = (users, pos) if anchors is None else (users[anchors], pos[anchors])
        contrasts = anchors is None or len(anchors) > 0
        terms = {"bpr": distributed.bpr_loss(encoded.users, encoded.items, users, pos, neg, *sizes, ranks)}
        if options.lambda_l2:
            batch = self._users(encoded.users, users), self._items(encoded.items, pos), self._items(encoded.items, neg)
            terms["l2"] = options.lambda_l2 * losses.embedding_l2(*batch)
        if options.lambda_features:
            square = torch.stack([f.square().sum() for f in encoded.modal_users + encoded.modal_items]).sum()
            square = distributed.reduce_from_ranks(square, ranks)
            terms["features"] = options.lambda_features * 0.5 * square / graph.n_items
        if self.contrastive and contrasts:
            terms["contrastive"] = options.lambda_contrastive * losses.contrastive_loss(
                encoded.users,
                encoded.view_users,
                anchored[0],
                options.contrastive_tau,
                exclude_self=options.exclude_self,
                n_users=graph.n_users,
                ranks=ranks,
                gemm=self.gemm,
            )
        if options.structural and contrasts:
            model = self.model
            terms["structural"] = options.lambda_structural * losses.structural_loss(
                graph, model.user_embedding, model.item_embedding, *anchored, options.structural_tau, ranks, self.gemm
            )
        if self.adversarial:
            terms["generator"] = options.lambda_generator * losses.generator_loss(
                cast(Discriminator, self.discriminator), self.fake_rows(encoded, users)
            )
        if options.autoencoder:
            modal, triples = (encoded.modal_users, encoded.modal_items), (users, pos, neg)
            if ranks.size > 1:
                rows = torch.arange(len(users), device=users.device)
                items, triples = torch.cat((pos, neg)), (rows, rows, rows + len(users))
                modal = [self._users(f, users) for f in modal[0]], [self._items(f, items) for f in modal[1]]
            tau = options.autoencoder_tau
            terms["autoencoder"] = options.lambda_autoencoder * losses.autoencoder_loss(*modal, *triples, tau)
        return _with_total(terms)

    def _users(self, table: Tensor, users: Tensor) -> Tensor:
        return distributed.gather_rows(table, users, self.model.graph.n_users, self.model.ranks)

    def _items(self, table: Tensor, items: Tensor) -> Tensor:
        return distributed.gather_rows(table, items, self.model.graph.n_items, self.model.ranks)

    def _shared(self, table: Tensor, users: Tensor) -> Tensor:
        """The rows of `users`, for a computation with this rank's items."""
        return distributed.copy_to_ranks(self._users(table, users), self.model.ranks)

    def _seen(self, users: Tensor) -> SeenRows | None:
        """The seen entries of this rank's items, if they are masked."""
        if not self.options.mask_seen:
            return None
        graph, ranks = self.model.interactions(), self.model.ranks
        seen = graph.rows(users)
        return seen if ranks.size == 1 else distributed.seen_of_items(seen, *ranks.span(graph.n_items))


def anchor_positions(batch: int, most: int, device: torch.device | str = "cpu") -> Tensor:
    """``floor(i·B/A) for i < A``, int64 [A]: min(most, B) = A evenly spaced positions in a batch; all if most is 0.

    The triples of a batch are in random order, so that these are a random sample. Every part of the batch has its share
    of them.

    Example:
        >>> anchor_positions(10, 4)
        tensor([0, 2, 5, 7])
    """
    count = min(most, batch) if most else batch
    return torch.arange(count, device=device) * batch // max(count, 1)


def _with_total(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return terms | {"total": torch.stack(list(terms.values())).sum()}


def _check_model(model: MMSSL, discriminator: Discriminator | None, options: ObjectiveOptions) -> None:
    if options.adversarial and discriminator is None:
        raise ValueError("MMSSLObjective: the adversarial part needs a discriminator; pass one or adversarial=False")
    if options.adversarial and discriminator is not None and discriminator.n_items != model.graph.n_items:
        raise ValueError(
            f"MMSSLObjective: the discriminator has {discriminator.n_items} items, but the graph has "
            f"{model.graph.n_items}"
        )
    if options.contrastive and not model.neighbours:
        raise ValueError("MMSSLObjective: the contrastive part needs the views of Eq. 8; the model has neighbours=0")
