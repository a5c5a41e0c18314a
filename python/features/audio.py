"""Recordings: statistics of the spectrum, or a model in a single file (programs.py).

What a model hears: the first `seconds` of the recording, the mean of its channels, resampled to `rate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, shown
from .encoders import Unusable, check_batch, digest_of, library, refuse_model, versions
from .programs import ENDS, Program

LOGMEL = "logmel"
BANDS, WINDOW, HOP = 64, 0.025, 0.01  # mel bands; seconds
QUIETEST = 1e-10


def read_audio(path: Path, rate: int, seconds: float) -> np.ndarray:
    """The samples of a recording, float32 [n], at `rate` samples a second. Raises Unusable with the reason.

    soundfile decodes (WAV, FLAC, Ogg, MP3, …), librosa resamples with soxr.
    """
    soundfile, librosa = library("soundfile", "audio"), library("librosa", "audio")
    if not path.stat().st_size:
        raise Unusable("the file is empty")
    try:
        with soundfile.SoundFile(path) as file:
            own = file.samplerate
            samples = file.read(math.ceil(seconds * own), dtype="float32", always_2d=True).mean(1)
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        raise Unusable(f"cannot be decoded ({shown(str(error).partition(': ')[2] or str(error), 100)})") from None
    if not len(samples):
        raise Unusable("contains no samples")
    if not np.isfinite(samples).all():
        raise Unusable("contains samples that are not finite")
    return samples if own == rate else librosa.resample(samples, orig_sr=own, target_sr=rate, res_type="soxr_hq")


class LogMel:
    """Mean and deviation over time of the power in 64 mel bands, in decibels: 128 columns. No weights are learnt.

    Windows of 25 ms every 10 ms. It tells timbre and loudness apart, not what is played or said.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate

    def __call__(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([self.statistics(samples) for samples in inputs])

    def statistics(self, samples: np.ndarray) -> np.ndarray:
        """[128] of samples [n]."""
        power = library("librosa", "audio").feature.melspectrogram(
            y=samples,
            sr=self.rate,
            n_fft=round(WINDOW * self.rate),
            hop_length=max(1, round(HOP * self.rate)),
            n_mels=BANDS,
            pad_mode="constant",
        )
        decibels = 10 * np.log10(np.maximum(power, QUIETEST))
        return np.concatenate([decibels.mean(1), decibels.std(1)])


class AudioEncoder:
    """run: samples at `rate` of several recordings → vectors [n, width]."""

    part_rows = 64

    def __init__(
        self, run: Callable[[Sequence[np.ndarray]], np.ndarray], rate: int, seconds: float, identity: dict[str, Any]
    ) -> None:
        self.run, self.rate, self.seconds = run, rate, seconds
        self.identity = {**identity, "rate": rate, "seconds": seconds}
        self.width = int(run([np.zeros(rate, np.float32)]).shape[1])

    def load(self, content: Path) -> np.ndarray:
        return read_audio(content, self.rate, self.seconds)

    def encode(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        return self.run(inputs)


def audio_encoder(
    model: str | Path = LOGMEL,
    *,
    batch: int = 8,
    device: str = "cpu",
    rate: int = 16000,
    seconds: float = 30.0,
    output: str = "",
) -> AudioEncoder:
    """The encoder of a model.

    model: "logmel", see LogMel; or a .onnx or .pt2 file, which takes samples float32 [n, seconds · rate], filled up
    with zeros at the end, possibly with a further axis of size 1. A model that takes fewer gets one part of a recording
    after the other; the vector is their mean, weighted by their samples. rate: samples a second. seconds: of each
    recording that are used, from its start. output: of a .onnx file, if it has several.
    """
    check_batch(batch)
    if isinstance(rate, bool) or not isinstance(rate, int) or not 1000 <= rate <= 384000:
        raise InputError(f"rate = {shown(rate)}: must be an integer between 1000 and 384000, in samples a second")
    if not 0.1 <= seconds <= 3600:
        raise InputError(f"seconds = {shown(seconds)}: must be between 0.1 and 3600")
    library("soundfile", "audio"), library("librosa", "audio")
    packages = ["librosa", "soundfile", "soxr"]
    if str(model) == LOGMEL:
        if output:
            raise InputError(f"output = {shown(output)}: is for .onnx files, not for {LOGMEL}")
        return AudioEncoder(LogMel(rate), rate, seconds, {"model": LOGMEL, "versions": versions(*packages)})
    path = Path(model)
    if path.suffix not in ENDS or not path.is_file():
        raise refuse_model(model, f'no such model; give "{LOGMEL}", a .onnx or a .pt2 file', True)
    program = Program(path, batch, device, "audio", output)
    length = round(seconds * rate)
    sides = program.shape
    stated = [side for side in sides if side != 1]
    if len(stated) != 1 or (stated[0] or 0) > length:
        raise InputError(
            f"{path}: takes inputs of the shape {sides}, but --rate {rate} and --seconds {seconds:g} give ({length},)"
        )
    window = stated[0] or length
    shape = tuple(1 if side == 1 else window for side in sides)  # [n, 1, samples] and [n, samples, 1] are common

    def run(inputs: Sequence[np.ndarray]) -> np.ndarray:
        counts = [max(1, math.ceil(min(len(samples), length) / window)) for samples in inputs]
        filled = np.zeros((sum(counts), window), np.float32)
        first, shares = 0, []
        for samples, count in zip(inputs, counts, strict=True):
            kept = samples[: min(length, count * window)]
            filled[first : first + count].reshape(-1)[: len(kept)] = kept
            shares.append(np.minimum(window, np.maximum(1, len(kept) - window * np.arange(count))))
            first += count
        vectors = np.split(program(filled.reshape(len(filled), *shape)), np.cumsum(counts)[:-1])
        return np.stack([np.average(own, 0, share) for own, share in zip(vectors, shares, strict=True)])

    packages.append("onnxruntime" if path.suffix == ".onnx" else "torch")
    settings = {"batch": program.batch, **({"output": output} if output else {})}
    identity = {"model": path.name, "digest": digest_of(path), **settings, "versions": versions(*packages)}
    return AudioEncoder(run, rate, seconds, identity)
