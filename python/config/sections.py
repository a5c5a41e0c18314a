"""What a run is made of: sections whose keys each have a default, an equation and the range the paper searched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, create_model, field_validator

from ..errors import InputError
from .baselines import (
    CLCRecSection,
    HCCFSection,
    LATTICESection,
    MMGCLSection,
    NCLSection,
    SGLSection,
    SLMRecSection,
    SVDSection,
)
from .byte_size import parse_bytes
from .names import EXTERNAL, LAYOUTS, SYSTEMS, system_class
from .section import Section

SYNTHETIC = "synthetic"
SYNTHETIC_EPOCHS = 20


class DataSection(Section):
    path: str = Field(SYNTHETIC, description='Folder or file with the data; "synthetic" is the embedded catalogue.')
    layout: str = Field("auto", description='How the data is laid out; "auto" looks at the files.')
    modalities: list[str] = Field(
        [], description='Modalities to use, in this order; empty: all there are, ["none"]: no features.'
    )
    interactions: str = Field(
        "", description="The table to read, as seen from the folder; empty: the layout's own, as interactions.csv."
    )
    split_column: str = Field("split", min_length=1, description="The table's column that holds train, val or test.")
    split: Literal["auto", "random", "time", "last"] = Field(
        "auto",
        description='"auto": the split that the data gives, else "random", 8:1:1 of each user\'s interactions; "time": '
        'the latest of all interactions are held out, "last": the latest of each user.',
    )
    split_share: float = Field(
        0.1, gt=0, lt=0.5, description='Share of validation and of testing where split is "random" or "time".'
    )
    split_last: int = Field(
        1, ge=1, description='Interactions of a user in validation and in testing where split is "last".'
    )
    min_rating: float | None = Field(
        None, description="The lowest rating that counts as an interaction; left out: every row counts."
    )
    missing_features: Literal["refuse", "mean"] = Field(
        "refuse",
        description="Where feature files carry ids: whether an item without a row is refused or gets the mean of the "
        "others.",
    )
    split_seed: int = Field(
        0,
        ge=0,
        description="Seed of the 8:1:1 split per user made where the data has none, and of the embedded catalogue.",
    )

    @field_validator("layout")
    @classmethod
    def _known_layout(cls, name: str) -> str:
        if name not in LAYOUTS:
            raise ValueError(f"the layouts are {', '.join(LAYOUTS)}")
        return name


class ModelSection(Section):
    system: str = Field("mmssl", description=f"What is trained: {', '.join(SYSTEMS)}.")
    dim: int = Field(64, ge=1, le=4096, description="Latent size d. Paper: 64, searched in 2^3..2^9.")
    layers: int = Field(2, ge=0, le=16, description="Graph layers L of Eq. 10. Paper: searched in 1..4, best 2 or 3.")
    heads: int = Field(4, ge=1, description="Attention heads H of Eq. 9; must divide dim. The released code: 4.")
    dropout: float = Field(
        0.2, ge=0, lt=1, description="Dropout after the features' linear map, Eq. 2. The released code: 0.2."
    )
    eta: float = Field(
        0.36, description="Weight of the modality-aware view in Eq. 10's start. The released code: 0.36."
    )
    omega: float = Field(0.1, description="Weight of the modality features in Eq. 12. The released code: 0.55.")
    norm: Literal["receiver", "both", "none"] = Field(
        "receiver",
        description="Degree scaling of Eq. 2 and 10: 1/sqrt of the receiving node's degree as in the paper, "
        'LightGCN\'s "both", or "none".',
    )
    neighbours: int = Field(
        10,
        ge=0,
        le=128,
        description="Semantic neighbours a user gets from a modality, k of Eq. 8; "
        "0 leaves Eq. 8 and 9 out. Left open by the paper.",
    )
    exclude_seen_neighbours: bool = Field(
        True, description="Whether a user's training items are left out of those neighbours. Left open by the paper."
    )
    final_softmax: bool = Field(
        True,
        description="Whether the last graph layer of Eq. 10 goes through a softmax, as in "
        "the released code; the paper has none.",
    )
    hidden: list[int] = Field(
        [],
        max_length=2,
        description="The discriminator's two hidden widths, Eq. 4; empty: (min(I/4, 512), half of it).",
    )

    standardise: bool = Field(
        True, description="Whether feature columns get mean 0 and variance 1 before Eq. 2. Not in the paper."
    )

    @field_validator("system")
    @classmethod
    def _known_system(cls, name: str) -> str:
        if name not in SYSTEMS:
            raise ValueError(f"the systems are {', '.join(SYSTEMS)}")
        return name

    @field_validator("hidden")
    @classmethod
    def _two_widths(cls, widths: list[int]) -> list[int]:
        if len(widths) == 1 or any(width < 1 for width in widths):
            raise ValueError("give two positive widths or none")
        return widths


class LossSection(Section):
    adversarial: bool = Field(True, description='Eq. 6 and 7; false is Table 3\'s "w/o adversarial".')
    contrastive: bool = Field(True, description='Eq. 11; false is Table 3\'s "w/o contrastive".')
    gumbel: bool = Field(True, description="Eq. 5's perturbation; false is Table 3's \"w/o Gumbel\": softmax(A/tau).")
    autoencoder: bool = Field(
        False, description="Table 3's graph auto-encoder in the adversarial part's place (with adversarial = false)."
    )
    structural: bool = Field(
        False,
        description="NCL's structural contrast: a node's own embedding against its neighbourhood two hops away, users "
        "and items. Not in the paper.",
    )
    lambda_penalty: float = Field(
        1.0, ge=0, description="lambda_1 of Eq. 7. Paper: searched in {0, 1, 10, 20, 50, 100, 150}, best 1."
    )
    lambda_contrastive: float = Field(
        0.01, ge=0, description="lambda_2 of Eq. 13, times a mean over anchors. The released code: 0.03."
    )
    lambda_generator: float = Field(1e-3, ge=0, description="lambda_3 of Eq. 13. The released code: 1e-4.")
    lambda_l2: float = Field(
        1e-4,
        ge=0,
        description="lambda_4 of Eq. 13 as a term on the batch's embeddings; 0 leaves it to optimiser.weight_decay.",
    )
    lambda_features: float = Field(
        0.0, ge=0, description="Weight of the modality features' squares. Not in the paper; the released code: 1e-5."
    )
    lambda_autoencoder: float = Field(0.1, ge=0, description="Weight of the auto-encoder's term.")
    lambda_structural: float = Field(
        4e-4, ge=0, description="Weight of the structural contrast, a mean over anchors. Not in the paper."
    )
    zeta: float = Field(
        100.0, ge=0, description="zeta of Eq. 5. Paper: searched in {0, 10, 20, 50, 100, 150}, best 100."
    )
    gumbel_tau: float = Field(0.2, ge=1e-3, le=10, description="tau of Eq. 5's softmax. Left open by the paper.")
    noise_scale: float = Field(1.0, ge=0, description="Scale of Eq. 5's Gumbel noise. Paper: 1.")
    contrastive_tau: float = Field(
        0.5,
        ge=1e-3,
        description="tau' of Eq. 11. Paper: in (0, 0.9), best 0.085 on TikTok; the released code: 0.5.",
    )
    exclude_self: bool = Field(False, description="Whether the anchor is left out of Eq. 11's second sum.")
    autoencoder_tau: float = Field(0.2, ge=1e-3, description="Temperature of the auto-encoder's logits.")
    structural_tau: float = Field(
        0.1, ge=1e-3, description="Temperature of the structural contrast. NCL on MovieLens-1M: 0.1."
    )
    kind: Literal["cosine", "dot"] = Field(
        "cosine", description="Similarity of generated rows: Eq. 3's cosine, or the released code's dot product."
    )
    mask_seen: bool = Field(
        False, description="Whether generated rows are 0 at a user's training items, as in the released code."
    )
    row_l2: bool = Field(
        True, description="Whether real and generated rows get length 1 before D. Left open by the paper."
    )


class OptimiserSection(Section):
    lr: float = Field(
        3e-3, gt=0, description="AdamW's rate, generator side. Paper: searched in {4.5e-4, 5e-4, 5.4e-3, 5.6e-3}."
    )
    weight_decay: float = Field(
        1.4e-2,
        ge=0,
        description="AdamW's decoupled decay, lambda_4 of Eq. 13. Paper: searched in {1.2e-2, 1.4e-2, 1.6e-2}.",
    )
    discriminator_lr: float = Field(
        3e-4, gt=0, description="Adam's rate, discriminator. Paper: searched in {2.5e-4, 3e-4, 3.5e-4}."
    )
    discriminator_beta1: float = Field(
        0.5, ge=0, lt=1, description="Adam's first beta, discriminator. The released code: 0.5."
    )
    discriminator_beta2: float = Field(
        0.9, ge=0, lt=1, description="Adam's second beta, discriminator. The released code: 0.9."
    )
    first_layer_moments: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="What Adam's moments of the discriminator's first layer are kept in; bfloat16 halves them and "
        "rounds them to 8 bits at every step.",
    )


class TrainSection(Section):
    epochs: int = Field(
        100,
        ge=0,
        description="At most so many, each of n_train // batch + 1 steps; where it is not given, 20 on the embedded "
        "catalogue.",
    )
    batch: int = Field(1024, ge=1, lt=2**31, description="Triples of a step. The released code: 1024.")
    sample_over: Literal["interactions", "users"] = Field(
        "users",
        description="What a batch is drawn over: interactions with replacement, or users without "
        "(as the released code). Left open by the paper.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of parameters, sampling, dropout and noise.")
    device: str = Field("cpu", description='Where to train: "cpu", "cuda", "cuda:1".')
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0: OMP_NUM_THREADS or the free processors.")
    discriminator_steps: int = Field(
        1, ge=1, description="Discriminator steps before each generator step. Left open by the paper."
    )
    refresh_every: int = Field(
        1, ge=1, description="Epochs between renewals of Eq. 8's neighbours. Left open by the paper."
    )
    start: str = Field(
        "",
        description="Run folder, or model file, from whose parameters training starts; empty: from random ones. Its "
        "users and items must be the data's.",
    )
    validate_every: int = Field(1, ge=1, description="Epochs between validations.")
    patience: int = Field(
        10, ge=0, description="Validations without a better Recall@20 before training stops; 0: never stops early."
    )
    checkpoint_every: int = Field(
        0, ge=0, description="Epochs between states to resume from; 0: by train.checkpoint_minutes alone."
    )
    checkpoint_minutes: float = Field(
        2.0,
        ge=0,
        description="Minutes between states to resume from, stretched where writing one takes over a twentieth of "
        "that; 0: by train.checkpoint_every alone.",
    )
    balance: bool = Field(
        False,
        description="Whether an epoch's line of metrics.jsonl holds the gradient of every loss term on every part of "
        "the model, its length and its cosine with the ranking term's; a backward pass a term and epoch.",
    )
    cuda_graph: bool = Field(
        False,
        description="On CUDA: record MMSSL's step once an epoch and replay it, which spares its launches. Needs "
        "loss.mask_seen = false. Not yet tried on a GPU.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="What the operands of the discriminator's large products are rounded to, forward and backward; "
        "bfloat16 gains where the processor multiplies it and is refused on a CPU where torch would crawl "
        "(docs/precision.md).",
    )
    memory: str = Field(
        "",
        description='Memory a run may take, as "4GiB"; empty: 80% of what is free. A run that needs more is refused.',
    )
    tile: int = Field(
        0,
        ge=0,
        description="Entries of a tile where items are met in tiles; 0: by train.memory. Results are the same to "
        "float32's rounding.",
    )
    feature_dtype: Literal["auto", "float32", "float16"] = Field(
        "auto",
        description='What MMSSL keeps its features in; "auto": float32 where train.memory allows it, else float16, '
        "which rounds them to 11 bits.",
    )
    compare: Literal["auto", "yes", "no"] = Field(
        "auto",
        description='Whether popularity and LightGCN are fitted too and shown beside; "auto": on the embedded '
        "catalogue only.",
    )

    @field_validator("memory")
    @classmethod
    def _size(cls, text: str) -> str:
        if text:
            parse_bytes(text)
        return text


class EvaluateSection(Section):
    ks: list[int] = Field(
        [10, 20, 50],
        min_length=1,
        description="The list lengths K; 20 is always among them. At most the number of items.",
    )
    batch: int = Field(4096, ge=1, description="Users ranked at once, fewer by train.memory.")
    mask_validation: bool = Field(
        False,
        description="Whether validation items are left out of the ranking when testing. "
        "Paper: only training items are.",
    )

    @field_validator("ks")
    @classmethod
    def _lengths(cls, ks: list[int]) -> list[int]:
        if any(k < 1 for k in ks):
            raise ValueError("each must be at least 1")
        return sorted({*ks, 20})


class OwnConfig(Section):
    """The sections of this package."""

    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    loss: LossSection = LossSection()
    optimiser: OptimiserSection = OptimiserSection()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection = EvaluateSection()
    svd: SVDSection = SVDSection()
    sgl: SGLSection = SGLSection()
    lattice: LATTICESection = LATTICESection()
    hccf: HCCFSection = HCCFSection()
    ncl: NCLSection = NCLSection()
    clcrec: CLCRecSection = CLCRecSection()
    mmgcl: MMGCLSection = MMGCLSection()
    slmrec: SLMRecSection = SLMRecSection()

    def flat(self) -> dict[str, Any]:
        """{"section.key": value}."""
        return {f"{name}.{key}": value for name, section in self.model_dump().items() for key, value in section.items()}

    def changes(self) -> dict[str, Any]:
        """`flat` of the keys that are not the defaults."""
        defaults = type(self)().flat()
        return {name: value for name, value in self.flat().items() if value != defaults[name]}

    def changed(self, section: str, **values: Any) -> Self:
        """The same with other values in one section; they are taken as they are, unchecked."""
        return self.model_copy(update={section: getattr(self, section).model_copy(update=values)})


def _external_sections() -> dict[str, Section]:
    """The defaults of the section that a system of another package has: its class attribute `section`, a subclass of
    Section, under the system's name."""
    classes = {name: getattr(system_class(name), "section", None) for name in EXTERNAL}
    sections = {name: section() for name, section in classes.items() if section is not None}
    if taken := sorted(sections.keys() & OwnConfig.model_fields.keys()):
        raise InputError(
            f"system {taken[0]}: {EXTERNAL[taken[0]]} has a section, and [{taken[0]}] is one of mmssl_fast's own; "
            "rename the system"
        )
    return sections


if TYPE_CHECKING:

    class Config(OwnConfig):
        """The whole configuration: `Config()` is the defaults."""

else:
    Config = create_model(
        "Config",
        __base__=OwnConfig,
        __doc__="The whole configuration: `Config()` is the defaults.",
        **{name: (type(section), section) for name, section in _external_sections().items()},
    )
