"""The configuration: the sections of data, training and evaluation, and the class Config with all sections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, create_model, field_validator

from ..errors import InputError
from .baselines import (
    CLCRecSection,
    EASESection,
    HCCFSection,
    ItemKNNSection,
    LATTICESection,
    MMGCLSection,
    NCLSection,
    SGLSection,
    SLMRecSection,
    SVDSection,
    UserKNNSection,
)
from .byte_size import parse_bytes
from .mmssl_sections import LossSection, ModelSection, OptimiserSection
from .names import EXTERNAL, LAYOUTS, METRICS, system_class
from .section import Section

SYNTHETIC = "synthetic"
SYNTHETIC_EPOCHS = 20


class DataSection(Section):
    path: str = Field(SYNTHETIC, description='Folder with the data; "synthetic" is the built-in synthetic data set.')
    layout: str = Field("auto", description='Layout of the data folder; "auto" detects it from the files.')
    modalities: list[str] = Field(
        [], description='Modalities to use, in this order. Empty: all of them; ["none"]: train without features.'
    )
    interactions: str = Field(
        "",
        description="Interaction table to read, relative to the data folder. Empty: the default file of the layout, "
        "for example interactions.csv.",
    )
    split_column: str = Field(
        "split", min_length=1, description="Column of the interaction table that contains train, val or test."
    )
    split: Literal["auto", "random", "time", "last"] = Field(
        "auto",
        description='"auto": the split that comes with the data, otherwise "random". "random": each user\'s '
        'interactions are split 8:1:1 at random. "time": the most recent interactions overall are '
        'held out. "last": the most recent interactions of each user are held out.',
    )
    split_share: float = Field(
        0.1,
        gt=0,
        lt=0.5,
        description="Fraction of the interactions in the validation set, and again in the test set, when split is "
        '"random" or "time".',
    )
    split_last: int = Field(
        1,
        ge=1,
        description='Interactions per user in the validation set, and again in the test set, when split is "last".',
    )
    split_dates: str = Field(
        "",
        description='When validation and testing begin, instead of split_share, when split is "time": two dates such '
        "as 2016-03-22,2017-05-08, which are in UTC, or two numbers in the unit of the timestamps.",
    )
    min_rating: float | None = Field(
        None, description="Lowest rating that counts as an interaction. Unset: every row counts."
    )
    min_interactions: int = Field(
        1,
        ge=1,
        description="k of the k-core: users and items with fewer distinct interactions are removed, repeatedly, until "
        "every one has k, before the split and after min_rating. 1: all are kept.",
    )
    user_column: str = Field("user", min_length=1, description="Column of the interaction table with the user ids.")
    item_column: str = Field("item", min_length=1, description="Column of the interaction table with the item ids.")
    time_column: str = Field(
        "timestamp", min_length=1, description='Column with the times for split "time" and "last".'
    )
    rating_column: str = Field("rating", min_length=1, description="Column with the ratings for min_rating.")
    weight_column: str = Field(
        "",
        description="Column with the weights of the interactions, positive numbers (docs/data.md). Empty: every "
        "interaction counts the same.",
    )
    sep: str = Field("", description='Separator of a text table, such as ";" or "tab". Empty: it is detected.')
    query: str = Field(
        "",
        description="SELECT statement whose result is the interaction table. data.interactions is then a DuckDB or "
        "SQLite database.",
    )
    missing_features: Literal["refuse", "mask", "mean"] = Field(
        "refuse",
        description="What becomes of an item without a row in a feature file with ids: it is refused, trained without "
        "these features (mask), or gets the mean of the other rows. Rows that are marked as missing are never refused: "
        'they are masked, or with "mean" get the mean.',
    )
    split_seed: int = Field(0, ge=0, description="Seed of the random split, and of the built-in synthetic data set.")

    @field_validator("layout")
    @classmethod
    def _known_layout(cls, name: str) -> str:
        if name not in LAYOUTS:
            raise ValueError(f"must be one of {', '.join(LAYOUTS)}")
        return name


class TrainSection(Section):
    epochs: int = Field(
        100,
        ge=0,
        description="Maximum number of epochs. An epoch has n_train // batch + 1 steps. Default on the "
        "built-in data set: 20.",
    )
    batch: int = Field(
        1024, ge=1, lt=2**31, description="Batch size in (user, positive, negative) triples. Released code: 1024."
    )
    microbatches: int = Field(
        1,
        ge=1,
        le=65536,
        description="MMSSL: number of parts of a batch whose losses are computed one after the other, for batches that "
        "do not fit into memory as a whole. There is one propagation, and one step of each optimiser, per batch. All "
        "losses are those of the whole batch up to rounding, except that BatchNorm of the discriminator normalises "
        'each part by itself (model.critic_norm = "layer" and "none" do not), and that its dropout masks differ.',
    )
    sample_over: Literal["interactions", "users"] = Field(
        "users",
        description='How a batch is sampled: "interactions" draws interactions with replacement; "users" draws users '
        "without replacement and one of their items each, as the released code does. Not specified in the "
        "paper.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of initialisation, sampling, dropout and noise.")
    device: str = Field("cpu", description='Device to train on: "cpu", "cuda", "cuda:1".')
    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="CPU threads of a process. 0: OMP_NUM_THREADS if set, otherwise the available processors, or "
        "fewer if some are busy.",
    )
    discriminator_steps: int = Field(
        1, ge=1, description="Discriminator steps before each generator step. Not specified in the paper."
    )
    refresh_every: int = Field(
        1,
        ge=1,
        description="Epochs between recomputations of the semantic neighbours of Eq. 8. Not specified in the paper.",
    )
    start: str = Field(
        "",
        description="Run folder or model file whose parameters are the initial values of training. Users and items are "
        "mapped by their ids (docs/serving.md). Empty: random initial values.",
    )
    start_scale: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Factor of the embeddings of train.start. With less than 1, a model that had converged learns "
        "faster from new data (docs/serving.md).",
    )
    validate_every: int = Field(1, ge=1, description="Epochs between validations.")
    select: Literal["auto", "all", "cold"] = Field(
        "auto",
        description='Ranking that selects the best epoch. "all": all items are ranked. "cold": only cold items, which '
        'have no training interactions. "auto": "cold" if all validation pairs are of cold items and the system uses '
        "features.",
    )
    select_by: str = Field(
        "recall@20",
        description="Validation metric that selects the best epoch, and that early stopping and tune use: "
        f"{', '.join(f'{name}@K' for name in METRICS)}.",
    )
    log_to: Literal["", "tensorboard", "wandb", "mlflow"] = Field(
        "",
        description="Also log losses, metrics and the configuration to TensorBoard (RUN/tensorboard), Weights & Biases "
        "(offline, RUN/wandb) or MLflow (RUN/mlflow.db). Empty: only metrics.jsonl.",
    )
    patience: int = Field(
        10,
        ge=0,
        description="Early stopping: validations without an improvement of train.select_by before training stops. 0: "
        "no early stopping.",
    )
    checkpoint_every: int = Field(
        0, ge=0, description="Epochs between checkpoints. 0: only train.checkpoint_minutes applies."
    )
    checkpoint_minutes: float = Field(
        2.0,
        ge=0,
        description="Minutes between checkpoints. The interval grows if writing a checkpoint takes more than a "
        "twentieth of it. 0: only train.checkpoint_every applies.",
    )
    balance: bool = Field(
        False,
        description="Write gradient statistics to metrics.jsonl every epoch: for each loss term and part of the model, "
        "the gradient norm and its cosine with the gradient of the ranking term. For MMSSL also how far its "
        "discriminator separates real and generated rows. Costs one backward pass per term and epoch.",
    )
    cuda_graph: bool = Field(
        False,
        description="CUDA only: capture the MMSSL training step as a CUDA graph once per epoch and replay it, which "
        "removes the launch overhead. Requires loss.mask_seen = false. Not yet tested on a GPU.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Precision of the operands of the large matrix products of MMSSL's discriminator and contrastive "
        "losses, forward and backward. bfloat16 is faster only on processors with bfloat16 matrix instructions, and is "
        "refused on a CPU without a fast implementation in torch (docs/precision.md).",
    )
    memory: str = Field(
        "",
        description='Memory budget of a run, or of each rank if there are several, such as "4GiB". Empty: 80% of the '
        "free memory, divided among the ranks of a machine. A run whose estimate exceeds the budget is refused.",
    )
    tile: int = Field(
        0,
        ge=0,
        description="Entries in a tile of an operation that processes items tile by tile. 0: derived from "
        "train.memory. The tile size changes results only by float32 rounding.",
    )
    feature_dtype: Literal["auto", "float32", "float16"] = Field(
        "auto",
        description='Dtype in which MMSSL stores the features. "auto": float32 if it fits into train.memory, otherwise '
        "float16, which rounds them to 11 significant bits.",
    )
    recompute: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether MMSSL computes parts of the encoder (dropout of Eq. 2, attention of Eq. 9) again in the "
        "backward pass, instead of keeping them, which takes half the memory of its forward pass or less. It changes "
        'results only by rounding. "auto": if a run does not fit into train.memory otherwise, with features in '
        "float16.",
    )
    compare: Literal["auto", "yes", "no"] = Field(
        "auto",
        description='Also train popularity and LightGCN and show them in the result table. "auto": only on the '
        "built-in data set.",
    )

    @field_validator("select_by")
    @classmethod
    def _metric(cls, text: str) -> str:
        name, _, k = text.partition("@")
        if name not in METRICS or not (k.isascii() and k.isdigit() and 0 < int(k) == int(k.lstrip("0") or 0)):
            raise ValueError(f"must be a metric and a list length such as ndcg@10; metrics: {', '.join(METRICS)}")
        return f"{name}@{int(k)}"

    @property
    def select_k(self) -> int:
        """The list length of select_by."""
        return int(self.select_by.partition("@")[2])

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
        description="List lengths K of the metrics. 20 is always included. No K may exceed the number of items.",
    )
    batch: int = Field(4096, ge=1, description="Users ranked at once; reduced if train.memory requires it.")
    mask_validation: bool = Field(
        False,
        description="Also exclude the validation items from the ranking on the test set. Paper: only training items "
        "are excluded.",
    )

    @field_validator("ks")
    @classmethod
    def _lengths(cls, ks: list[int]) -> list[int]:
        if any(k < 1 for k in ks):
            raise ValueError("every K must be at least 1")
        return sorted({*ks, 20})


class DistributedSection(Section):
    timeout_minutes: float = Field(
        10.0,
        gt=0,
        le=1440,
        description="Minutes that a rank waits for the others, at the start and in every exchange. It must be longer "
        "than a rank may take for a step, an evaluation or a checkpoint.",
    )
    check_every: int = Field(
        100,
        ge=0,
        description="Steps between comparisons of the losses of all ranks, which must be equal to the last bit. 0: "
        "only at the end of an epoch.",
    )
    groups: int | Literal["auto"] = Field(
        1,
        description="Number of groups of ranks, a divisor of the number of ranks. Each group has a part of the graph, "
        "so that a rank needs about 1/groups of its memory; the groups send each other the tables that are propagated. "
        '1: every rank has the whole graph. "auto": the smallest number with which the run fits the memory budget.',
    )
    wire: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Type of the values in the exchange of rows and columns, and of the tables that groups send each "
        'other. "bfloat16" halves the bytes and rounds the values to 8 bits.',
    )

    @field_validator("groups", mode="before")
    @classmethod
    def _number(cls, groups: Any) -> Any:
        if groups != "auto" and (not isinstance(groups, int) or isinstance(groups, bool) or groups < 1):
            raise ValueError('must be a whole number of at least 1, or "auto"')
        return groups


class OwnConfig(Section):
    """The sections that this package defines; `Config` adds those of external systems."""

    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    loss: LossSection = LossSection()
    optimiser: OptimiserSection = OptimiserSection()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection = EvaluateSection()
    distributed: DistributedSection = DistributedSection()
    svd: SVDSection = SVDSection()
    ease: EASESection = EASESection()
    itemknn: ItemKNNSection = ItemKNNSection()
    userknn: UserKNNSection = UserKNNSection()
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
        """The entries of `flat` that differ from the defaults."""
        defaults = type(self)().flat()
        return {name: value for name, value in self.flat().items() if value != defaults[name]}

    def changed(self, section: str, **values: Any) -> Self:
        """A copy with other values in one section. The new values are not validated."""
        return self.model_copy(update={section: getattr(self, section).model_copy(update=values)})

    def with_absolute_path(self) -> Self:
        """A copy with an absolute data.path, so that it can be used from another folder."""
        if self.data.path == SYNTHETIC:
            return self
        return self.changed("data", path=str(Path(self.data.path).resolve()))

    def for_many_runs(self) -> Self:
        """A copy for one of several runs: an absolute data.path, and no other systems beside it (train.compare)."""
        return self.with_absolute_path().changed("train", compare="no")


def _external_sections() -> dict[str, Section]:
    """The default section of every external system that has one, by system name.

    An external system declares its section as a class attribute `section`, a subclass of Section.
    """
    classes = {name: getattr(system_class(name), "section", None) for name in EXTERNAL}
    sections = {name: section() for name, section in classes.items() if section is not None}
    if conflicts := sorted(sections.keys() & OwnConfig.model_fields.keys()):
        raise InputError(
            f"system {conflicts[0]}: {EXTERNAL[conflicts[0]]} defines the section [{conflicts[0]}], which mmssl_fast "
            "already has; rename the system"
        )
    return sections


if TYPE_CHECKING:

    class Config(OwnConfig):
        """Below, with the sections of systems in other packages."""

else:
    Config = create_model(
        "Config",
        __base__=OwnConfig,
        __doc__="""The complete configuration. `Config()` has the default of every key; `configure`
        makes one from settings.

        >>> config = Config().changed("train", epochs=3)
        >>> config.train.epochs, config.model.system
        (3, 'mmssl')
        """,
        **{name: (type(section), section) for name, section in _external_sections().items()},
    )
