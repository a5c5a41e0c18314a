"""The options of MMSSL's objective, each with its default. Imports nothing of the library, so that a configuration can
be derived from it or checked against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TEMPERATURES = ("gumbel_tau", "contrastive_tau", "autoencoder_tau", "structural_tau")
WEIGHTS = (
    "lambda_penalty",
    "lambda_contrastive",
    "lambda_generator",
    "lambda_l2",
    "lambda_features",
    "lambda_autoencoder",
    "lambda_structural",
    "zeta",
    "noise_scale",
)


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """Which parts MMSSLObjective has, with which weights and temperatures.

    The ablations of Table 3: "w/o adversarial" is adversarial=False; "w/o contrastive" contrastive=False; "w/o Gumbel"
    is gumbel=False, which leaves Eq. 5's softmax without its perturbation, softmax(A/τ): at a small τ a user's row of
    A divided by its degree; "graph auto-encoder" is adversarial=False, autoencoder=True (see losses.autoencoder_loss).

    Args:
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

    Raises:
        ValueError: adversarial and autoencoder together, a temperature that is not positive, a negative weight, or an
            unknown kind.

    Example:
        >>> ObjectiveOptions(adversarial=False, autoencoder=True).lambda_autoencoder
        0.1
    """

    adversarial: bool = True
    contrastive: bool = True
    gumbel: bool = True
    autoencoder: bool = False
    structural: bool = False
    lambda_penalty: float = 1.0
    lambda_contrastive: float = 0.01
    lambda_generator: float = 1e-3
    lambda_l2: float = 1e-4
    lambda_features: float = 0.0
    lambda_autoencoder: float = 0.1
    lambda_structural: float = 4e-4
    zeta: float = 100.0
    gumbel_tau: float = 0.2
    noise_scale: float = 1.0
    contrastive_tau: float = 0.5
    exclude_self: bool = False
    autoencoder_tau: float = 0.2
    structural_tau: float = 0.1
    kind: Literal["cosine", "dot"] = "cosine"
    mask_seen: bool = False
    row_l2: bool = True

    def __post_init__(self) -> None:
        if self.adversarial and self.autoencoder:
            raise ValueError(
                "MMSSLObjective: autoencoder replaces the adversarial part; pass adversarial=False with it"
            )
        for name in TEMPERATURES:
            if not (tau := getattr(self, name)) > 0:
                raise ValueError(f"MMSSLObjective: {name} must be positive, got {tau}")
        for name in WEIGHTS:
            if not (weight := getattr(self, name)) >= 0:
                raise ValueError(f"MMSSLObjective: {name} must not be negative, got {weight}")
        if self.kind not in ("cosine", "dot"):
            raise ValueError(f'MMSSLObjective: kind must be "cosine" or "dot", got {self.kind!r}')
