"""Configuration sections of the model, the loss and the optimisers. Other systems use some keys of MMSSL as well."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ..errors import did_you_mean
from .names import SYSTEMS
from .section import Section


class ModelSection(Section):
    system: str = Field("mmssl", description=f"System to train: {', '.join(SYSTEMS)}.")
    dim: int = Field(64, ge=1, le=4096, description="Embedding size d. Paper: 64, searched in 2^3..2^9.")
    layers: int = Field(
        2, ge=0, le=16, description="Number of graph layers L in Eq. 10. Paper: searched in 1..4, best 2 or 3."
    )
    heads: int = Field(
        4, ge=1, description="Number of attention heads H in Eq. 9; dim must be a multiple of it. Released code: 4."
    )
    dropout: float = Field(
        0.2, ge=0, lt=1, description="Dropout after the linear projection of the features, Eq. 2. Released code: 0.2."
    )
    eta: float = Field(
        0.36, description="Weight of the modality-aware view in the input of Eq. 10. Released code: 0.36."
    )
    omega: float = Field(0.1, description="Weight of the modality features in Eq. 12. Released code: 0.55.")
    norm: Literal["receiver", "both", "none"] = Field(
        "receiver",
        description='Degree normalisation in Eq. 2 and 10. "receiver": 1/sqrt(degree of the receiving node), as in the '
        'paper; "both": LightGCN\'s symmetric normalisation; "none": no normalisation.',
    )
    neighbours: int = Field(
        10,
        ge=0,
        le=128,
        description="Semantic neighbours per user and modality, k in Eq. 8. 0 disables Eq. 8 and 9. Not specified in "
        "the paper.",
    )
    exclude_seen_neighbours: bool = Field(
        True, description="Exclude a user's training items from their semantic neighbours. Not specified in the paper."
    )
    neighbours_method: Literal["auto", "exact", "ivf"] = Field(
        "auto",
        description='Search for the semantic neighbours. "exact": every user is compared with all items; "ivf": with '
        "the items of the clusters closest to the user, as many as are needed to find 95% of the neighbours (the "
        'measured share is in metrics.jsonl). "auto": "ivf" if the product of the numbers of users and items is '
        '10^10 or more and there is one process, otherwise "exact".',
    )
    final_softmax: bool = Field(
        True,
        description="Apply a softmax to the output of the last graph layer of Eq. 10, as the released code does. The "
        "paper has none.",
    )
    hidden: list[int] = Field(
        [],
        max_length=2,
        description="The two hidden widths of the discriminator, Eq. 4. Empty: h1 = min(I/4, 512) and h1/2, where I is "
        "the number of items.",
    )

    critic_norm: Literal["batch", "layer", "none"] = Field(
        "batch",
        description='Normalisation in the discriminator, Eq. 4. "batch": BatchNorm, as in the paper, which normalises '
        'real and generated rows separately; "layer": LayerNorm; "none": no normalisation.',
    )
    critic_sigmoid: bool = Field(
        True, description="Sigmoid after the discriminator, Eq. 4. WGAN-GP, whose loss Eq. 7 is, has none."
    )

    standardise: bool = Field(
        True,
        description="Scale every feature column to mean 0 and variance 1 before Eq. 2. Columns that differ by rounding "
        "errors only become 0. Not in the paper.",
    )

    item_item: float = Field(
        0.0,
        ge=0,
        le=1e9,
        description="Trained systems: weight of an item-item part beside the dot product of the embeddings: the scores "
        "of EASE with the keys of [ease]. 0: none. Not in the paper.",
    )

    @field_validator("system")
    @classmethod
    def _known_system(cls, name: str) -> str:
        if name not in SYSTEMS:
            raise ValueError(f"must be one of {', '.join(SYSTEMS)}{did_you_mean(name, SYSTEMS)}")
        return name

    @field_validator("hidden")
    @classmethod
    def _two_widths(cls, widths: list[int]) -> list[int]:
        if len(widths) == 1 or any(width < 1 for width in widths):
            raise ValueError("must be two positive widths, or empty")
        return widths


class LossSection(Section):
    adversarial: bool = Field(True, description='Adversarial task, Eq. 6 and 7. false: "w/o adversarial" in Table 3.')
    contrastive: bool = Field(True, description='Contrastive task, Eq. 11. false: "w/o contrastive" in Table 3.')
    gumbel: bool = Field(
        True, description='Gumbel noise of Eq. 5. false: "w/o Gumbel" in Table 3, which uses softmax(A/tau).'
    )
    autoencoder: bool = Field(
        False,
        description="Graph auto-encoder of Table 3, which replaces the adversarial task; requires adversarial = false.",
    )
    structural: bool = Field(
        False,
        description="Structural contrastive loss of NCL: the embedding of a user or item against its two-hop "
        "neighbourhood. Not in the paper.",
    )
    lambda_penalty: float = Field(
        1.0,
        ge=0,
        description="Weight of the gradient penalty, lambda_1 in Eq. 7. Paper: searched in {0, 1, 10, 20, 50, 100, "
        "150}, best 1.",
    )
    lambda_contrastive: float = Field(
        0.01,
        ge=0,
        description="Weight of the contrastive loss, lambda_2 in Eq. 13; the loss is a mean over anchors. Released "
        "code: 0.03.",
    )
    lambda_generator: float = Field(
        1e-3,
        ge=0,
        description="Weight of the adversarial loss of the generator, lambda_3 in Eq. 13. Released code: 1e-4.",
    )
    lambda_l2: float = Field(
        1e-4,
        ge=0,
        description="Weight of the L2 penalty on the batch embeddings, lambda_4 in Eq. 13. 0: regularise by "
        "optimiser.weight_decay only.",
    )
    lambda_features: float = Field(
        0.0,
        ge=0,
        description="Weight of the L2 penalty on the modality features. Not in the paper; released code: 1e-5.",
    )
    lambda_autoencoder: float = Field(0.1, ge=0, description="Weight of the auto-encoder loss.")
    lambda_structural: float = Field(
        4e-4, ge=0, description="Weight of the structural contrastive loss, a mean over anchors. Not in the paper."
    )
    zeta: float = Field(
        100.0,
        ge=0,
        description="Weight zeta of the cosine similarities that Eq. 5 adds to the real rows. Paper: "
        "searched in {0, 10, 20, 50, 100, 150}, best 100.",
    )
    gumbel_tau: float = Field(
        0.2, ge=1e-3, le=10, description="Softmax temperature tau in Eq. 5. Not specified in the paper."
    )
    noise_scale: float = Field(1.0, ge=0, description="Scale of the Gumbel noise in Eq. 5. Paper: 1.")
    contrastive_tau: float = Field(
        0.5,
        ge=1e-3,
        description="Temperature tau' of the contrastive loss, Eq. 11. Paper: in (0, 0.9), best 0.085 on TikTok; "
        "released code: 0.5.",
    )
    anchors: int = Field(
        0,
        ge=0,
        description="Maximum number of anchors of each contrastive loss in a step, also of NCL and SGL, evenly spaced "
        "in the batch. The loss is a mean over fewer anchors, an approximation whose expectation is the same. 0: all "
        "users, or items, of the batch.",
    )
    exclude_self: bool = Field(False, description="Exclude the anchor from the second sum of Eq. 11.")
    autoencoder_tau: float = Field(0.2, ge=1e-3, description="Temperature of the auto-encoder logits.")
    structural_tau: float = Field(
        0.1, ge=1e-3, description="Temperature of the structural contrastive loss. NCL on MovieLens-1M: 0.1."
    )
    kind: Literal["cosine", "dot"] = Field(
        "cosine",
        description="Similarity in the generated rows: the cosine of Eq. 3, or the dot product of the released code.",
    )
    mask_seen: bool = Field(
        False, description="Set generated rows to 0 at the user's training items, as the released code does."
    )
    row_l2: bool = Field(
        True,
        description="Scale real and generated rows to unit length before the discriminator. Not specified in the "
        "paper.",
    )


class OptimiserSection(Section):
    lr: float = Field(
        3e-3, gt=0, description="Learning rate of AdamW (generator). Paper: searched in {4.5e-4, 5e-4, 5.4e-3, 5.6e-3}."
    )
    weight_decay: float = Field(
        1.4e-2,
        ge=0,
        description="Decoupled weight decay of AdamW, lambda_4 in Eq. 13. Paper: searched in {1.2e-2, 1.4e-2, 1.6e-2}.",
    )
    discriminator_lr: float = Field(
        3e-4, gt=0, description="Learning rate of Adam (discriminator). Paper: searched in {2.5e-4, 3e-4, 3.5e-4}."
    )
    discriminator_beta1: float = Field(
        0.5, ge=0, lt=1, description="beta_1 of Adam (discriminator). Released code: 0.5."
    )
    discriminator_beta2: float = Field(
        0.9, ge=0, lt=1, description="beta_2 of Adam (discriminator). Released code: 0.9."
    )
    first_layer_weight: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Dtype in which the weight of the discriminator's first layer is stored. bfloat16 halves its "
        "memory: updates are computed in float32, and rounded at random such that they are right on average. One "
        "process only. "
        '"auto": float32, or bfloat16 if a run does not fit into train.memory otherwise, with train.recompute.',
    )
    first_layer_moments: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Dtype of the Adam moments of the discriminator's first layer. bfloat16 halves their memory and "
        "rounds them to 8 significant bits at every step.",
    )
