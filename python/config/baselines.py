"""Configuration sections of the baseline systems. A section has the name of its system."""

from __future__ import annotations

from pydantic import Field

from .section import Section


class SVDSection(Section):
    user_exponent: float = Field(
        0.5,
        ge=0,
        le=2,
        description="SVD: an interaction is divided by the user degree to this power. LightGCN: 1/2 on both sides.",
    )
    item_exponent: float = Field(
        0.25,
        ge=0,
        le=2,
        description="SVD: as user_exponent, for the item degree. Below 1/2, popular items rank higher.",
    )
    power: int = Field(
        1,
        ge=0,
        le=16,
        description="SVD: additional two-hop steps p; singular values are raised to the power 2p + 1. 0: PureSVD.",
    )
    content: float = Field(
        0.0,
        ge=0,
        le=1e3,
        description="SVD: weight of the similarity between an item's features and those of the user's items. "
        "0: no features.",
    )


class EASESection(Section):
    penalty: float = Field(
        100.0, gt=0, le=1e9, description="EASE: weight of the L2 penalty, lambda. Paper: 500 on MovieLens-20M."
    )
    user_exponent: float = Field(
        0.0,
        ge=0,
        le=2,
        description="EASE: the squared error of a user is divided by the user degree to this power. Paper: 0.",
    )
    content: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="EASE: weight of the squared error in the reconstruction of the items' features, each modality "
        "scaled to unit length (CEASE of Jeunen et al., RecSys 2020). 0: no features.",
    )
    content_tau: float = Field(
        0.0,
        ge=0,
        le=1e3,
        description="EASE: with ease.content, temperature of a Gaussian kernel of the unit features, "
        "exp((cosine - 1) / tau), instead of their cosines. 0: cosines.",
    )
    rank: int = Field(
        0,
        ge=0,
        le=1 << 15,
        description="EASE: number of singular vectors of the interactions that are used, an approximation. 0: exact, "
        "for which a matrix of items x items must fit into memory, or of users x users if these are fewer.",
    )


class ItemKNNSection(Section):
    neighbours: int = Field(
        200, ge=0, le=1 << 20, description="ItemKNN: most similar items that an item's score depends on. 0: all."
    )
    shrinkage: float = Field(
        10.0, ge=0, le=1e6, description="ItemKNN: added to the denominator of the cosine, against chance overlap."
    )
    user_exponent: float = Field(
        0.0,
        ge=0,
        le=2,
        description="ItemKNN: an interaction is divided by the user degree to this power before the cosine.",
    )
    content: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="ItemKNN: weight of the cosine of the features, added to that of the interactions for each "
        "modality. 0: no features.",
    )


class UserKNNSection(Section):
    neighbours: int = Field(
        200, ge=0, le=1 << 20, description="UserKNN: most similar users whose interactions a user gets. 0: all."
    )
    shrinkage: float = Field(
        10.0, ge=0, le=1e6, description="UserKNN: added to the denominator of the cosine, against chance overlap."
    )
    item_exponent: float = Field(
        0.25,
        ge=0,
        le=2,
        description="UserKNN: an interaction is divided by the item degree to this power before the cosine.",
    )


class SGLSection(Section):
    drop: float = Field(0.1, ge=0, lt=1, description="SGL: fraction of edges dropped from each view. Paper: 0.1.")
    tau: float = Field(0.2, ge=1e-3, description="SGL: temperature of the contrastive loss. Paper: 0.2.")
    weight: float = Field(
        0.1, ge=0, description="SGL: weight of the contrastive loss, a mean over anchors. Paper: 0.1."
    )


class HCCFSection(Section):
    edges: int = Field(
        128, ge=1, le=4096, description="HCCF: number of hyperedges of the users, and of the items. Paper: 128."
    )
    tau: float = Field(0.2, ge=1e-3, description="HCCF: temperature of the contrastive loss. Paper: 0.1 to 10.")
    weight: float = Field(0.01, ge=0, description="HCCF: weight of the contrastive loss, a mean over anchors.")


class NCLSection(Section):
    clusters: int = Field(
        1000,
        ge=1,
        le=1 << 20,
        description="NCL: number of user clusters and of item clusters; capped at the number of users or items. "
        "Published code, MovieLens-1M: 1000.",
    )
    tau: float = Field(
        0.1, ge=1e-3, description="NCL: temperature of both contrastive losses. Published code, MovieLens-1M: 0.1."
    )
    weight: float = Field(
        4e-4,
        ge=0,
        description="NCL: weight of the structural contrastive loss (against the second graph layer), a mean over "
        "anchors. Published code, MovieLens-1M: 1e-7 times a sum over 4096.",
    )
    prototype_weight: float = Field(
        3e-4,
        ge=0,
        description="NCL: weight of the prototype contrastive loss (against cluster centres), a mean over anchors. "
        "Published code, MovieLens-1M: 8e-8 times a sum over 4096.",
    )
    warm_up: int = Field(
        2,
        ge=0,
        description="NCL: epochs before the first clustering. The published code also warms up, in longer runs.",
    )


class CLCRecSection(Section):
    hidden: int = Field(
        256, ge=1, le=4096, description="CLCRec: hidden width of the feature encoder. Published code: 256."
    )
    tau: float = Field(1.0, ge=1e-3, description="CLCRec: temperature of both contrastive losses. Published code: 1.")
    weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="CLCRec: weight of the item-feature contrastive loss; the ranking loss has 1 - weight.",
    )
    share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="CLCRec: probability that an item is represented by its features. Published code: 0.5.",
    )


class MMGCLSection(Section):
    drop: float = Field(0.1, ge=0, lt=1, description="MMGCL: fraction of edges dropped from each modality's graph.")
    tau: float = Field(0.2, ge=1e-3, description="MMGCL: temperature of the contrastive loss.")
    weight: float = Field(0.01, ge=0, description="MMGCL: weight of the contrastive loss, a mean over anchors.")


class SLMRecSection(Section):
    drop: float = Field(0.3, ge=0, lt=1, description="SLMRec: dropout rate of a view. Published code: 0.3.")
    tau: float = Field(0.2, ge=1e-3, description="SLMRec: temperature of the contrastive losses. Published code: 0.2.")
    weight: float = Field(
        0.1,
        ge=0,
        description="SLMRec: weight of the contrastive losses, each a mean over anchors. Published code: 0.1.",
    )


class LATTICESection(Section):
    neighbours: int = Field(10, ge=1, le=128, description="LATTICE: number of neighbours per item, k. Paper: 10.")
    keep: float = Field(
        0.9,
        ge=0,
        le=1,
        description="LATTICE: weight of the item graph of the raw features; the learnt graph has 1 - keep. "
        "Published code: 0.9.",
    )
    layers: int = Field(
        1, ge=1, le=16, description="LATTICE: number of propagation layers on the item graph. Published code: 1."
    )
