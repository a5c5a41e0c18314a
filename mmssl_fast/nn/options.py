"""The options of the MMSSL objective, with their defaults.

The module imports nothing of the library, so that a configuration file can be derived from it without torch.
"""

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
    """The parts of MMSSLObjective, their weights and temperatures. Equation numbers are those of MMSSL (WWW 2023).

    The ablations of Table 3 are: adversarial=False ("w/o adversarial"); contrastive=False ("w/o contrastive");
    gumbel=False ("w/o Gumbel"), which uses softmax(A/τ) without noise in equation 5; and adversarial=False with
    autoencoder=True ("graph auto-encoder").

    Args:
        adversarial, contrastive, gumbel, autoencoder, structural: switch the parts. The structural part is not in the
            paper.
        lambda_penalty: λ1 of equation 7 (paper: 0 to 150, best 1).
        lambda_contrastive: λ2 of equation 13, here for a mean over the anchors (the paper sums). On TikTok, 0.01 leaves
            the validation recall unchanged, and 0.1 reduces it by a tenth (one seed each).
        lambda_generator: λ3 of equation 13, for a discriminator with scale 1. On TikTok, 1e-3 leaves the validation
            recall unchanged (one seed).
        lambda_l2: λ4 of equation 13 as a loss term on h_u, h_i⁺ and h_i⁻ of the batch. With 0, use weight decay in the
            optimiser instead.
        lambda_features: weight of ½ Σ‖f^m‖² / I over users and items. The released code has 1e-5; the paper has no such
            term.
        lambda_autoencoder: weight of the auto-encoder term.
        lambda_structural: weight of losses.structural_loss on the id embeddings.
        zeta: ζ of equation 5 (paper: 0 to 150, best 100).
        gumbel_tau: temperature τ of equation 5.
        noise_scale: factor σ of the noise in equation 5 (paper: 1).
        contrastive_tau: temperature τ' of equation 11 (paper: 0 to 0.9, best 0.085).
        exclude_self: see losses.contrastive_loss.
        anchors: the maximum number of anchors of the contrastive term, and of users and of items of the structural
            term, evenly spaced in the batch; 0 for all. The loss is a mean over fewer anchors, whose expectation is the
            same. The paper has all users of the batch.
        autoencoder_tau: see losses.autoencoder_loss.
        structural_tau: see losses.structural_loss.
        kind: kind of the generated rows, "cosine" (equation 3) or "dot" (the released code).
        mask_seen: whether generated rows are 0 at the training items of the user, as in the released code. Equations 3
            and 5 do not mask.
        row_l2: whether real and generated rows are divided by their length before the discriminator, as in the released
            code. The paper does not specify it. Without it, ζ = 100 makes real rows a hundred times longer than
            generated ones.

    Raises:
        ValueError: adversarial and autoencoder are both on, a temperature is not positive, a weight or the number of
            anchors is negative, or kind is unknown.

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
    anchors: int = 0
    autoencoder_tau: float = 0.2
    structural_tau: float = 0.1
    kind: Literal["cosine", "dot"] = "cosine"
    mask_seen: bool = False
    row_l2: bool = True

    def __post_init__(self) -> None:
        if self.adversarial and self.autoencoder:
            raise ValueError("MMSSLObjective: autoencoder replaces the adversarial part; pass adversarial=False, too")
        for name in TEMPERATURES:
            if not (tau := getattr(self, name)) > 0:
                raise ValueError(f"MMSSLObjective: {name} must be positive, got {tau}")
        for name in WEIGHTS:
            if not (weight := getattr(self, name)) >= 0:
                raise ValueError(f"MMSSLObjective: {name} must not be negative, got {weight}")
        if self.anchors < 0:
            raise ValueError(f"MMSSLObjective: anchors must not be negative, got {self.anchors}")
        if self.kind not in ("cosine", "dot"):
            raise ValueError(f'MMSSLObjective: kind must be "cosine" or "dot", got {self.kind!r}')
