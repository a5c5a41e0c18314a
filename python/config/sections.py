"""What a run is made of: sections whose keys each have a default, an equation and the range the paper searched.

Values come from the defaults, then a TOML file, then the command line (`--set section.key=value`), and are checked
once, with the source of a wrong one named. The resolved configuration is written back as TOML with the descriptions as
comments.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..data import LAYOUTS
from ..errors import InputError, shown
from ..systems import SYSTEMS

SYNTHETIC = "synthetic"
SYNTHETIC_EPOCHS = 20


class Section(BaseModel):
    """A table of the configuration: unknown keys and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DataSection(Section):
    path: str = Field(SYNTHETIC, description='Folder or file with the data; "synthetic" is the embedded catalogue.')
    layout: str = Field("auto", description='How the data is laid out; "auto" looks at the files.')
    modalities: list[str] = Field([], description="Modalities to use, in this order; empty: all there are.")
    split_seed: int = Field(
        0,
        ge=0,
        description="Seed of the 8:1:1 split per user made where the data has none, and of the embedded catalogue.",
    )

    @field_validator("layout")
    @classmethod
    def _known_layout(cls, name: str) -> str:
        if name not in ("auto", *LAYOUTS):
            raise ValueError(f"the layouts are auto, {', '.join(LAYOUTS)}")
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
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0: as torch chooses.")
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
        from ..memory.plan import parse_bytes

        if text:
            parse_bytes(text)
        return text


class EvaluateSection(Section):
    ks: list[int] = Field(
        [10, 20, 50], min_length=1, description="The list lengths K; 20 is always among them. At most 128."
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
        if any(not 1 <= k <= 128 for k in ks):
            raise ValueError("each must be between 1 and 128")
        return sorted({*ks, 20})


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


class Config(Section):
    """The whole configuration. `Config()` is the defaults; `load` and `override` check what is given."""

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


def load(
    path: str | Path | None = None,
    overrides: dict[str, tuple[Any, str]] | None = None,
    preset: str | Path | None = None,
) -> Config:
    """The defaults, changed by a preset (TOML too), by a TOML file, by overrides {"section.key": (value, where it was
    given)}.

    Raises InputError naming the file or option, the key, and for an unknown key the nearest known one.
    """
    values: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {}
    for file in (preset, path):
        if file is not None:
            _put_file(values, Path(file), sources)
    for name, (value, where) in (overrides or {}).items():
        _put(values, name, value, where, sources)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:2])
        given = _at(values, name)
        raise InputError(f"{sources.get(name, 'configuration')}: {name} = {shown(given)}: {_sentence(first)}") from None
    _check_together(config, sources)
    return config


def _check_together(config: Config, sources: dict[str, str]) -> None:
    """What no key can be wrong about alone."""

    def refuse(key: str, other: str, rule: str) -> None:
        where = sources.get(key, sources.get(other, "configuration"))
        raise InputError(
            f"{where}: {key} = {toml_value(_get(config, key))} with {other} = {toml_value(_get(config, other))}: {rule}"
        )

    if config.model.dim % config.model.heads:
        refuse("model.heads", "model.dim", "the first must divide the second")
    if config.loss.autoencoder and config.loss.adversarial:
        refuse("loss.autoencoder", "loss.adversarial", "the one replaces the other, set one of them to false")
    if config.loss.contrastive and not config.model.neighbours:
        refuse("model.neighbours", "loss.contrastive", "the contrastive part needs neighbours, or set it to false")


def _get(config: Config, name: str) -> Any:
    section, key = name.split(".")
    return getattr(getattr(config, section), key)


def parse_set(assignment: str) -> tuple[str, Any]:
    """("section.key", value) of "section.key=value". The value is read as TOML; what is not TOML is a string."""
    name, equals, text = assignment.partition("=")
    if not equals or not name.strip():
        raise InputError(f"--set {shown(assignment)}: write --set section.key=value")
    try:
        value = tomllib.loads(f"value = {text.strip()}")
        value = value["value"] if list(value) == ["value"] else text
    except tomllib.TOMLDecodeError:
        value = text
    return name.strip(), value


def to_toml(config: Config) -> str:
    """The configuration as TOML, each key under its description. `load` of it gives an equal configuration."""
    lines = ["# Resolved configuration of this run; mmssl-fast train --config <this file> repeats it."]
    for name in Config.model_fields:
        section = getattr(config, name)
        lines += ["", f"[{name}]"]
        for key, field in type(section).model_fields.items():
            lines += [f"# {field.description}", f"{key} = {toml_value(getattr(section, key))}"]
    return "\n".join(lines) + "\n"


def known_keys() -> list[str]:
    """Every "section.key"."""
    return [f"{name}.{key}" for name in Config.model_fields for key in type(getattr(Config(), name)).model_fields]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a configuration in TOML") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: is not TOML: {error}") from None


def _put_file(values: dict, path: Path, sources: dict[str, str]) -> None:
    for name, value in _read_toml(path).items():
        if name not in Config.model_fields:
            raise InputError(f"{path}: {_unknown(name)}")
        if not isinstance(value, dict):
            raise InputError(f"{path}: {name} must be a table, [{name}]")
        for key, one in value.items():
            _put(values, f"{name}.{key}", one, str(path), sources)


def _put(values: dict, name: str, value: Any, where: str, sources: dict[str, str]) -> None:
    if name not in known_keys():
        raise InputError(f"{where}: {_unknown(name)}")
    section, key = name.split(".")
    values.setdefault(section, {})[key] = value
    sources[name] = where


def _unknown(name: str) -> str:
    """What to say of a key nobody knows: nearest by the key alone when the section is right or the key is elsewhere."""
    known = known_keys()
    section, _, key = name.partition(".")
    if not key:
        near = difflib.get_close_matches(name, list(Config.model_fields), 1, 0)
        elsewhere = [one for one in known if one.endswith(f".{name}")]
        return f"unknown section {shown(name)}; the nearest known name is {(elsewhere or near)[0]!r}"
    same_key = [one for one in known if one.partition(".")[2] == key]
    near = (
        same_key
        or difflib.get_close_matches(name, known, 1, 0.6)
        or difflib.get_close_matches(key, [one for one in known if one.startswith(f"{section}.")] or known, 1, 0)
        or [known[0]]
    )
    return f"unknown key {shown(name)}; the nearest known name is {near[0]!r}"


def _at(values: dict, name: str) -> Any:
    section, _, key = name.partition(".")
    return values.get(section, {}).get(key)


def _sentence(error: dict) -> str:
    message = error["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def toml_value(value: Any) -> str:
    """A value of the configuration as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return repr(value)
