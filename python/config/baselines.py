"""Sections of the systems that MMSSL is compared with; a section has the name of its system."""

from __future__ import annotations

from pydantic import Field

from .section import Section


class SVDSection(Section):
    user_exponent: float = Field(
        0.5,
        ge=0,
        le=2,
        description="SVD: power of the user's degree that divides an interaction; both 1/2: LightGCN's.",
    )
    item_exponent: float = Field(
        0.25,
        ge=0,
        le=2,
        description="SVD: power of the item's degree that divides an interaction; below 1/2 popular items gain.",
    )
    power: int = Field(
        3,
        ge=0,
        le=16,
        description="SVD: extra steps of two hops, singular values to the power 2 power + 1; 0: PureSVD.",
    )
    content: float = Field(
        0.0,
        ge=0,
        le=1e3,
        description="SVD: weight of each modality's likeness to a user's items beside the interactions; 0: none.",
    )


class SGLSection(Section):
    drop: float = Field(0.1, ge=0, lt=1, description="SGL: share of edges left out of a view. Its paper: 0.1.")
    tau: float = Field(0.2, ge=1e-3, description="SGL: temperature of the contrast. Its paper: 0.2.")
    weight: float = Field(0.1, ge=0, description="SGL: weight of the contrast, a mean over anchors. Its paper: 0.1.")


class HCCFSection(Section):
    edges: int = Field(128, ge=1, le=4096, description="HCCF: hyperedges of either side. Its paper: 128.")
    tau: float = Field(0.2, ge=1e-3, description="HCCF: temperature of the contrast. Its paper: 0.1 to 10.")
    weight: float = Field(0.01, ge=0, description="HCCF: weight of the contrast, a mean over anchors.")


class NCLSection(Section):
    clusters: int = Field(
        1000,
        ge=1,
        le=1 << 20,
        description="NCL: clusters of either side, at most its nodes. Its published code on MovieLens-1M: 1000.",
    )
    tau: float = Field(
        0.1, ge=1e-3, description="NCL: temperature of both contrasts. Its published code on MovieLens-1M: 0.1."
    )
    weight: float = Field(
        4e-4,
        ge=0,
        description="NCL: weight of the contrast with the second layer, a mean over anchors. Its published code on "
        "MovieLens-1M: 1e-7 times a sum over 4096.",
    )
    prototype_weight: float = Field(
        3e-4,
        ge=0,
        description="NCL: weight of the contrast with clusters, a mean over anchors. Its published code on "
        "MovieLens-1M: 8e-8 times a sum over 4096.",
    )
    warm_up: int = Field(
        2,
        ge=0,
        description="NCL: epochs before there are clusters. Its published code waits too, its runs being longer.",
    )


class CLCRecSection(Section):
    hidden: int = Field(256, ge=1, le=4096, description="CLCRec: hidden width of the encoder. Its published code: 256.")
    tau: float = Field(1.0, ge=1e-3, description="CLCRec: temperature of both contrasts. Its published code: 1.")
    weight: float = Field(
        0.5, ge=0, le=1, description="CLCRec: share of the contrast between items and their features in the loss."
    )
    share: float = Field(
        0.5, ge=0, le=1, description="CLCRec: how often features stand in for an item. Its published code: 0.5."
    )


class MMGCLSection(Section):
    drop: float = Field(0.1, ge=0, lt=1, description="MMGCL: share of edges left out of each modality's graph.")
    tau: float = Field(0.2, ge=1e-3, description="MMGCL: temperature of the contrast.")
    weight: float = Field(0.01, ge=0, description="MMGCL: weight of the contrast, a mean over anchors.")


class SLMRecSection(Section):
    drop: float = Field(0.3, ge=0, lt=1, description="SLMRec: dropout in a view. Its published code: 0.3.")
    tau: float = Field(0.2, ge=1e-3, description="SLMRec: temperature of the contrasts. Its published code: 0.2.")
    weight: float = Field(
        0.1, ge=0, description="SLMRec: weight of the contrasts, each a mean over anchors. Its published code: 0.1."
    )


class LATTICESection(Section):
    neighbours: int = Field(10, ge=1, le=128, description="LATTICE: neighbours of an item, k. Its paper: 10.")
    keep: float = Field(
        0.9, ge=0, le=1, description="LATTICE: share of the graph read off the raw features. Its published code: 0.9."
    )
    layers: int = Field(1, ge=1, le=16, description="LATTICE: rounds over the item graph. Its published code: 1.")
