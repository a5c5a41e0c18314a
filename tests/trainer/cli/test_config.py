"""The configuration: defaults, TOML in and out, overrides, and what is said of a wrong one."""

import inspect

import pytest
from mmssl_trainer.cli.options import parse_set
from mmssl_trainer.config.load import known_keys, load
from mmssl_trainer.config.sections import Config
from mmssl_trainer.config.toml import to_toml
from mmssl_trainer.errors import InputError

from mmssl_fast.nn import MMSSL


def write(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_need_no_file():
    assert load() == Config()


def test_every_key_is_described():
    for name in Config.model_fields:
        for key, field in type(getattr(Config(), name)).model_fields.items():
            assert field.description, f"{name}.{key}"


def test_toml_round_trip(tmp_path):
    overrides = {
        "data.path": ('odd "name"\\with\ttabs, Umlaute äß', "--data"),
        "data.modalities": (["image", "text"], "--set"),
        "loss.contrastive": (False, "--set"),
        "optimiser.lr": (3e-5, "--set"),
        "model.hidden": ([64, 32], "--set"),
        "evaluate.ks": ([5, 100], "--set"),
        "train.seed": (2**63 - 1, "--seed"),
    }
    config = load(None, overrides)
    assert load(write(tmp_path, to_toml(config))) == config != Config()


def test_file_then_overrides(tmp_path):
    path = write(tmp_path, "[train]\nepochs = 7\nbatch = 64\n")
    config = load(path, {"train.epochs": (9, "--epochs")})
    assert (config.train.epochs, config.train.batch) == (9, 64)


def test_twenty_is_always_evaluated():
    assert load(None, {"evaluate.ks": ([50, 5, 5], "--set")}).evaluate.ks == [5, 20, 50]


def test_integers_pass_for_numbers():
    assert load(None, {"loss.zeta": (10, "--set")}).loss.zeta == 10.0


@pytest.mark.parametrize(
    "text, named, nearest",
    [
        ("[loss]\ncontrastve_tau = 0.1\n", "loss.contrastve_tau", "loss.contrastive_tau"),
        ("[model]\nlayer = 1\n", "model.layer", "model.layers"),
        ("[train]\nlr = 1e-3\n", "train.lr", "optimiser.lr"),
        ("[optimizer]\nlr = 1e-3\n", "optimizer", "optimiser"),
        ("epochs = 3\n", "epochs", "train.epochs"),
    ],
)
def test_unknown_key_names_the_nearest(tmp_path, text, named, nearest):
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message and repr(named) in message and f"did you mean '{nearest}" in message


@pytest.mark.parametrize(
    "text, fragments",
    [
        ("[train]\nbatch = 'many'\n", ["train.batch", "'many'", "integer"]),
        ("[train]\nbatch = 0\n", ["train.batch", "greater than or equal to 1"]),
        ("[train]\nbatch = 9223372036854775808\n", ["train.batch", "less than 2147483648"]),
        ("[train]\nthreads = 100000\n", ["train.threads", "less than or equal to 1024"]),
        ("[train]\nmemory = 'garbage'\n", ["train.memory", "'garbage' is not a memory size; write for example 4GiB"]),
        ("[train]\nepochs = true\n", ["train.epochs"]),
        ("[loss]\nzeta = nan\n", ["loss.zeta", "finite"]),
        ("[loss]\nkind = 'vae'\n", ["loss.kind", "'cosine' or 'dot'"]),
        ("[model]\nsystem = 'mmsl'\n", ["model.system", "mmssl, popularity, itemknn, userknn, svd, ease, mf"]),
        ("[model]\nhidden = [3]\n", ["model.hidden", "two positive widths"]),
        ("[model]\ndim = 30\nheads = 4\n", ["model.heads = 4", "model.dim = 30"]),
        ("[model]\nneighbours = 0\n", ["model.neighbours = 0", "loss.contrastive = true"]),
        ("[loss]\nautoencoder = true\n", ["loss.autoencoder = true", "loss.adversarial = true"]),
        ("[evaluate]\nks = [0]\n", ["evaluate.ks", "at least 1"]),
        ("train = 3\n", ["train", "table"]),
        ("[train\n", ["not valid TOML"]),
    ],
)
def test_wrong_value_names_file_and_key(tmp_path, text, fragments):
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    for fragment in fragments:
        assert fragment in message


def test_wrong_override_names_its_option():
    with pytest.raises(InputError, match=r"^--epochs: train\.epochs = -1"):
        load(None, {"train.epochs": (-1, "--epochs")})


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml: cannot be read"):
        load(tmp_path / "none.toml")


def test_binary_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not valid TOML"):
        load(path)


@pytest.mark.parametrize(
    "text, value",
    [
        ("train.epochs=3", 3),
        ("optimiser.lr = 1e-3", 1e-3),
        ("loss.gumbel=false", False),
        ("data.path=a b", "a b"),
        ('data.path="3"', "3"),
        ("evaluate.ks=[5, 10]", [5, 10]),
        ("data.layout=plain", "plain"),
        ("data.path=a=b", "a=b"),
        ("data.path=1\nx=2", "1\nx=2"),
    ],
)
def test_set_reads_toml_or_text(text, value):
    assert parse_set(text) == (text.partition("=")[0].strip(), value)


@pytest.mark.parametrize("text", ["train.epochs", "=3"])
def test_set_without_assignment(text):
    with pytest.raises(InputError, match=r"section\.key=value"):
        parse_set(text)


def test_known_keys_are_complete():
    keys = known_keys()
    assert "loss.contrastive_tau" in keys and "train.seed" in keys and len(keys) == len(set(keys)) > 30


def test_defaults_are_those_of_the_core():
    """A key that is passed on to the encoder has one default, not two; test_nn_options has the objective's keys."""
    parameters = inspect.signature(MMSSL).parameters
    shared = {key: value for key, value in Config().model if key in parameters}
    assert len(shared) > 8
    assert shared == {key: parameters[key].default for key in shared}
