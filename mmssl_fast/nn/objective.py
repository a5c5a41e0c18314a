"""MMSSL's training objective (Eq. 13) and the discriminator's (Eq. 7), every part a switch. No loop, no optimiser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from mmssl_fast.nn import losses
from mmssl_fast.nn.discriminator import Discriminator
from mmssl_fast.nn.encoder import MMSSL, Encoded
from mmssl_fast.nn.noise import interpolation_weights
from mmssl_fast.nn.options import ObjectiveOptions
from mmssl_fast.ops.bpr_loss import bpr_loss
from mmssl_fast.relation import RelationRows


class MMSSLObjective:
    """The loss terms of one training step, weighted and named.

    A step of the trainer is

        encoded = model()
        objective.discriminator_terms(encoded, users, step)["total"].backward()  # then Adam on the discriminator
        objective.generator_terms(encoded, users, pos, neg)["total"].backward()  # then AdamW on the model

    Both sides may read one `encoded`: discriminator_terms detaches it. Noise is a pure function of (seed, step).

    A part switched off has no entry in the terms and costs nothing.

    Args:
        model: the encoder; its graph gives the real rows.
        discriminator: D of Eq. 4; may be None when adversarial is False.
        options: the parts, their weights and temperatures; the defaults where it is None.
        seed: key of all noise.
        max_repeats: how often a user occurs in a batch at most, 1 for sample_bpr's over="users"; None: any number of
            times. On CUDA, distinct users take less memory and time.
        **changes: single fields of ObjectiveOptions, which replace those of `options`.

    Raises:
        TypeError: a keyword that ObjectiveOptions does not have.
        ValueError: as ObjectiveOptions; adversarial without a discriminator or with another number of items;
            contrastive with a model that has no semantic neighbours.

    Example:
        >>> objective = MMSSLObjective(model, None, adversarial=False, seed=1)
        >>> sorted(objective.generator_terms(model(), users, pos, neg))
        ['bpr', 'contrastive', 'l2', 'total']
    """

    def __init__(
        self,
        model: MMSSL,
        discriminator: Discriminator | None,
        options: ObjectiveOptions | None = None,
        *,
        seed: int | Tensor = 0,
        max_repeats: int | None = None,
        **changes: Any,
    ) -> None:
        self.options = options = replace(options or ObjectiveOptions(), **changes)
        _check_model(model, discriminator, options)
        self.model, self.discriminator, self.seed, self.max_repeats = model, discriminator, seed, max_repeats
        self.adversarial, self.contrastive = options.adversarial, options.contrastive
        self.noise_scale = options.noise_scale if options.gumbel else 0.0

    def real_rows(self, encoded: Encoded, users: Tensor, step: int) -> RelationRows:
        """Ã of Eq. 5 for `users` (int64 [B]): Gumbel rows plus ζ cos(h_u, h_i), of length 1 with row_l2."""
        graph, options = self.model.interactions(), self.options
        noise = options.gumbel_tau, self.seed, step, self.noise_scale
        rows = RelationRows.gumbel(graph, users, *noise, self.max_repeats)
        rows = rows.to(encoded.users.dtype)
        if options.zeta:
            seen = graph.rows(users) if options.mask_seen else None
            rows = rows + options.zeta * RelationRows.generated(encoded.users[users], encoded.items, "cosine", seen)
        return rows.normalize() if options.row_l2 else rows

    def fake_rows(self, encoded: Encoded, users: Tensor) -> list[RelationRows]:
        """Â^m of Eq. 3 for `users`, one entry a modality."""
        seen = self.model.interactions().rows(users) if self.options.mask_seen else None
        return [
            RelationRows.generated(f_u[users], f_i, self.options.kind, seen, self.options.row_l2)
            for f_u, f_i in zip(encoded.modal_users, encoded.modal_items, strict=True)
        ]

    def discriminator_terms(self, encoded: Encoded, users: Tensor, step: int) -> dict[str, Tensor]:
        """L_D of Eq. 7 as "real", "fake", "penalty" and their "total"; gradients reach D alone.

        Raises ValueError when the adversarial part is off.
        """
        if not self.adversarial:
            raise ValueError(
                "MMSSLObjective.discriminator_terms: the adversarial part is off, there is no discriminator to train"
            )
        encoded = encoded.detach()
        alpha = interpolation_weights(self.seed, step, users, len(encoded.modal_users))
        return _with_total(
            losses.discriminator_loss(
                cast(Discriminator, self.discriminator),
                self.real_rows(encoded, users, step),
                self.fake_rows(encoded, users),
                alpha,
                self.options.lambda_penalty,
            )
        )

    def generator_terms(self, encoded: Encoded, users: Tensor, pos: Tensor, neg: Tensor) -> dict[str, Tensor]:
        """Eq. 13 by parts, each with its λ: "bpr", "l2", "features", "contrastive", "structural", "generator",
        "autoencoder" as far as switched on, and their "total"; gradients reach the model alone.

        users, pos, neg: int64 [B], from sample_bpr.

        Raises ValueError where the contrastive part is on and `encoded` has no views.
        """
        options = self.options
        if self.contrastive and not encoded.view_users:
            raise ValueError(
                "MMSSLObjective.generator_terms: the contrastive part reads Eq. 8's views; encode with views=True"
            )
        terms = {"bpr": bpr_loss(encoded.users, encoded.items, users, pos, neg)}
        if options.lambda_l2:
            batch = encoded.users[users], encoded.items[pos], encoded.items[neg]
            terms["l2"] = options.lambda_l2 * losses.embedding_l2(*batch)
        if options.lambda_features:
            every = torch.stack([f.square().sum() for f in encoded.modal_users + encoded.modal_items]).sum()
            terms["features"] = options.lambda_features * 0.5 * every / encoded.items.shape[0]
        if self.contrastive:
            terms["contrastive"] = options.lambda_contrastive * losses.contrastive_loss(
                encoded.users, encoded.view_users, users, options.contrastive_tau, exclude_self=options.exclude_self
            )
        if options.structural:
            model = self.model
            terms["structural"] = options.lambda_structural * losses.structural_loss(
                model.interactions(), model.user_embedding, model.item_embedding, users, pos, options.structural_tau
            )
        if self.adversarial:
            terms["generator"] = options.lambda_generator * losses.generator_loss(
                cast(Discriminator, self.discriminator), self.fake_rows(encoded, users)
            )
        if options.autoencoder:
            terms["autoencoder"] = options.lambda_autoencoder * losses.autoencoder_loss(
                encoded.modal_users, encoded.modal_items, users, pos, neg, options.autoencoder_tau
            )
        return _with_total(terms)


def _with_total(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return terms | {"total": torch.stack(list(terms.values())).sum()}


def _check_model(model: MMSSL, discriminator: Discriminator | None, options: ObjectiveOptions) -> None:
    if options.adversarial and discriminator is None:
        raise ValueError("MMSSLObjective: the adversarial part needs a discriminator; pass one or adversarial=False")
    if options.adversarial and discriminator is not None and discriminator.n_items != model.graph.n_items:
        raise ValueError(
            f"MMSSLObjective: the discriminator reads rows of {discriminator.n_items} items, "
            f"the graph has {model.graph.n_items}"
        )
    if options.contrastive and not model.neighbours:
        raise ValueError("MMSSLObjective: the contrastive part needs the views of Eq. 8; the model has neighbours=0")
