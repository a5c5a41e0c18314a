"""MMSSL's training objective (Eq. 13) and the discriminator's (Eq. 7), every part a switch. No loop, no optimiser."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl_fast.nn import losses
from mmssl_fast.nn.discriminator import Discriminator
from mmssl_fast.nn.encoder import MMSSL, Encoded
from mmssl_fast.nn.noise import interpolation_weights
from mmssl_fast.ops.bpr_loss import bpr_loss
from mmssl_fast.relation import RelationRows


class MMSSLObjective:
    """The loss terms of one training step, weighted and named.

    A step of the trainer is

        encoded = model()
        objective.discriminator_terms(encoded, users, step)["total"].backward()  # then Adam on the discriminator
        objective.generator_terms(encoded, users, pos, neg)["total"].backward()  # then AdamW on the model

    Both sides may read one `encoded`: discriminator_terms detaches it. Noise is a pure function of (seed, step).

    The ablations of Table 3: "w/o adversarial" is adversarial=False; "w/o contrastive" contrastive=False; "w/o Gumbel"
    is gumbel=False, which leaves Eq. 5's softmax without its perturbation, softmax(A/τ): at a small τ a user's row of
    A divided by its degree; "graph auto-encoder" is adversarial=False, autoencoder=True (see losses.autoencoder_loss).
    A part switched off has no entry in the terms and costs nothing.

    Args:
        model: the encoder; its graph gives the real rows.
        discriminator: D of Eq. 4; may be None when adversarial is False.
        adversarial, contrastive, gumbel, autoencoder, structural: the parts. The last is not the paper's.
        lambda_penalty: λ1 of Eq. 7 (paper: 0 to 150, best 1).
        lambda_contrastive: λ2 of Eq. 13, times a mean over anchors (the paper's is a sum). On TikTok 0.01 leaves
            validation recall where it is without the part, 0.1 costs a tenth of it (one seed each).
        lambda_generator: λ3 of Eq. 13, for a discriminator of scale 1. On TikTok 1e-3 leaves validation recall
            where it is without the part (one seed).
        lambda_l2: λ4 of Eq. 13 as an explicit term on the batch's h_u, h_i⁺, h_i⁻, losses.embedding_l2. 0 leaves it
            to the optimiser's decoupled weight decay.
        lambda_features: weight of ½ Σ‖f^m‖² / I over users and items (the released code's 1e-5; the paper has no such
            term).
        lambda_autoencoder: weight of the auto-encoder term.
        lambda_structural: weight of losses.structural_loss on the id embeddings.
        zeta: ζ of Eq. 5 (paper: 0 to 150, best 100).
        gumbel_tau: τ of Eq. 5.
        noise_scale: σ that multiplies Eq. 5's noise (1 in the paper).
        contrastive_tau: τ' of Eq. 11 (paper: 0 to 0.9, best 0.085).
        exclude_self: see losses.contrastive_loss.
        autoencoder_tau: see losses.autoencoder_loss.
        structural_tau: see losses.structural_loss.
        kind: "cosine" (Eq. 3) or "dot" (the released code) for generated rows.
        mask_seen: generated rows have value 0 at the user's training items (the released code); Eq. 3 and 5 keep them.
        row_l2: real and generated rows are divided by their length before D (the released code; the paper leaves it
            open). Without it ζ = 100 makes real rows a hundred times longer than generated ones.
        seed: key of all noise.
        max_repeats: how often a user occurs in a batch at most, 1 for sample_bpr's over="users"; None: any number of
            times. On CUDA, what is known not to repeat takes less memory and time.

    Raises:
        ValueError: adversarial without a discriminator or with another number of items, adversarial and autoencoder
            together, contrastive with a model that has no semantic neighbours, a temperature that is not positive, or a
            weight that is negative.
    """

    def __init__(
        self,
        model: MMSSL,
        discriminator: Discriminator | None,
        *,
        adversarial: bool = True,
        contrastive: bool = True,
        gumbel: bool = True,
        autoencoder: bool = False,
        structural: bool = False,
        lambda_penalty: float = 1.0,
        lambda_contrastive: float = 0.01,
        lambda_generator: float = 1e-3,
        lambda_l2: float = 1e-4,
        lambda_features: float = 0.0,
        lambda_autoencoder: float = 0.1,
        lambda_structural: float = 4e-4,
        zeta: float = 100.0,
        gumbel_tau: float = 0.2,
        noise_scale: float = 1.0,
        contrastive_tau: float = 0.5,
        exclude_self: bool = False,
        autoencoder_tau: float = 0.2,
        structural_tau: float = 0.1,
        kind: str = "cosine",
        mask_seen: bool = False,
        row_l2: bool = True,
        seed: int = 0,
        max_repeats: int | None = None,
    ) -> None:
        _check_parts(model, discriminator, adversarial, contrastive, autoencoder)
        for name, tau in (
            ("gumbel_tau", gumbel_tau),
            ("contrastive_tau", contrastive_tau),
            ("autoencoder_tau", autoencoder_tau),
            ("structural_tau", structural_tau),
        ):
            if not tau > 0:
                raise ValueError(f"MMSSLObjective: {name} must be positive, got {tau}")
        for name, weight in (
            ("lambda_penalty", lambda_penalty),
            ("lambda_contrastive", lambda_contrastive),
            ("lambda_generator", lambda_generator),
            ("lambda_l2", lambda_l2),
            ("lambda_features", lambda_features),
            ("lambda_autoencoder", lambda_autoencoder),
            ("lambda_structural", lambda_structural),
            ("zeta", zeta),
            ("noise_scale", noise_scale),
        ):
            if not weight >= 0:
                raise ValueError(f"MMSSLObjective: {name} must not be negative, got {weight}")
        self.model, self.discriminator = model, discriminator
        self.adversarial, self.contrastive, self.autoencoder = adversarial, contrastive, autoencoder
        self.structural, self.lambda_structural, self.structural_tau = structural, lambda_structural, structural_tau
        self.lambda_penalty, self.lambda_contrastive, self.lambda_generator = (
            lambda_penalty,
            lambda_contrastive,
            lambda_generator,
        )
        self.lambda_l2, self.lambda_features, self.lambda_autoencoder = lambda_l2, lambda_features, lambda_autoencoder
        self.zeta, self.gumbel_tau, self.noise_scale = zeta, gumbel_tau, noise_scale if gumbel else 0.0
        self.contrastive_tau, self.exclude_self, self.autoencoder_tau = contrastive_tau, exclude_self, autoencoder_tau
        self.kind, self.mask_seen, self.row_l2, self.seed = kind, mask_seen, row_l2, seed
        self.max_repeats = max_repeats

    def real_rows(self, encoded: Encoded, users: Tensor, step: int) -> RelationRows:
        """Ã of Eq. 5 for `users` (int64 [B]): Gumbel rows plus ζ cos(h_u, h_i), of length 1 with row_l2."""
        graph = self.model.interactions()
        noise = self.gumbel_tau, self.seed, step, self.noise_scale
        rows = RelationRows.gumbel(graph, users, *noise, self.max_repeats)
        rows = rows.to(encoded.users.dtype)
        if self.zeta:
            seen = graph.rows(users) if self.mask_seen else None
            rows = rows + self.zeta * RelationRows.generated(encoded.users[users], encoded.items, "cosine", seen)
        return rows.normalize() if self.row_l2 else rows

    def fake_rows(self, encoded: Encoded, users: Tensor) -> list[RelationRows]:
        """Â^m of Eq. 3 for `users`, one entry a modality."""
        seen = self.model.interactions().rows(users) if self.mask_seen else None
        return [
            RelationRows.generated(f_u[users], f_i, self.kind, seen, self.row_l2)
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
                self.discriminator,
                self.real_rows(encoded, users, step),
                self.fake_rows(encoded, users),
                alpha,
                self.lambda_penalty,
            )
        )

    def generator_terms(self, encoded: Encoded, users: Tensor, pos: Tensor, neg: Tensor) -> dict[str, Tensor]:
        """Eq. 13 by parts, each with its λ: "bpr", "l2", "features", "contrastive", "structural", "generator",
        "autoencoder" as far as switched on, and their "total"; gradients reach the model alone.

        users, pos, neg: int64 [B], from sample_bpr.

        Raises ValueError where the contrastive part is on and `encoded` has no views.
        """
        if self.contrastive and not encoded.view_users:
            raise ValueError(
                "MMSSLObjective.generator_terms: the contrastive part reads Eq. 8's views; encode with views=True"
            )
        terms = {"bpr": bpr_loss(encoded.users, encoded.items, users, pos, neg)}
        if self.lambda_l2:
            batch = encoded.users[users], encoded.items[pos], encoded.items[neg]
            terms["l2"] = self.lambda_l2 * losses.embedding_l2(*batch)
        if self.lambda_features:
            every = torch.stack([f.square().sum() for f in encoded.modal_users + encoded.modal_items]).sum()
            terms["features"] = self.lambda_features * 0.5 * every / encoded.items.shape[0]
        if self.contrastive:
            terms["contrastive"] = self.lambda_contrastive * losses.contrastive_loss(
                encoded.users, encoded.view_users, users, self.contrastive_tau, exclude_self=self.exclude_self
            )
        if self.structural:
            model = self.model
            terms["structural"] = self.lambda_structural * losses.structural_loss(
                model.interactions(), model.user_embedding, model.item_embedding, users, pos, self.structural_tau
            )
        if self.adversarial:
            terms["generator"] = self.lambda_generator * losses.generator_loss(
                self.discriminator, self.fake_rows(encoded, users)
            )
        if self.autoencoder:
            terms["autoencoder"] = self.lambda_autoencoder * losses.autoencoder_loss(
                encoded.modal_users, encoded.modal_items, users, pos, neg, self.autoencoder_tau
            )
        return _with_total(terms)


def _with_total(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return terms | {"total": torch.stack(list(terms.values())).sum()}


def _check_parts(
    model: MMSSL, discriminator: Discriminator | None, adversarial: bool, contrastive: bool, autoencoder: bool
) -> None:
    if adversarial and autoencoder:
        raise ValueError("MMSSLObjective: autoencoder replaces the adversarial part; pass adversarial=False with it")
    if adversarial and discriminator is None:
        raise ValueError("MMSSLObjective: the adversarial part needs a discriminator; pass one or adversarial=False")
    if adversarial and discriminator.n_items != model.graph.n_items:
        raise ValueError(
            f"MMSSLObjective: the discriminator reads rows of {discriminator.n_items} items, "
            f"the graph has {model.graph.n_items}"
        )
    if contrastive and not model.neighbours:
        raise ValueError("MMSSLObjective: the contrastive part needs the views of Eq. 8; the model has neighbours=0")
