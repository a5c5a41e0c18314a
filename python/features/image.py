"""Pictures, by a model of timm, or one in a single file (programs.py).

What a model sees: the picture turned as its EXIF orientation says, what is transparent in front of white, in RGB. CMYK
and palettes are converted as Pillow does, without the colour profile. Grey values become equal red, green and blue, 16
bits 8. Of an animation, the first picture is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError, shown
from .encoders import Unusable, check_batch, digest_of, from_hub, library, named, refuse_model, versions
from .programs import ENDS, Program

# Formats that Pillow reads by itself. EPS would start another program.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation of red, green and blue


def read_image(path: Path) -> Any:
    """The picture in a file as a PIL.Image of mode RGB. Raises Unusable with the reason.

    A picture that Pillow takes for a decompression bomb is refused before it is decoded.
    """
    Image, ImageOps = library("PIL.Image", "image"), library("PIL.ImageOps", "image")
    if not path.stat().st_size:
        raise Unusable("the file is empty")
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]  # Pillow may have been built without some
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats) as image:
                image.load()
                return _rgb(Image, ImageOps.exif_transpose(image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise Unusable(f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller") from None
    except Image.UnidentifiedImageError:
        raise Unusable(f"is not a picture in a known format ({', '.join(formats)})") from None
    except (Unusable, MemoryError):
        raise
    except Exception as error:  # the readers of broken files raise OSError, SyntaxError, ValueError, struct.error, …
        raise Unusable(f"cannot be decoded ({shown(str(error) or type(error).__name__, 100)})") from None


def _rgb(Image: Any, image: Any) -> Any:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise Unusable(f"has pixels of mode {image.mode}, whose range is not known; save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


class ImageEncoder:
    """prepare: PIL.Image → float32 [3, h, w]. run: [n, 3, h, w] → vectors [n, width]."""

    part_rows = 256

    def __init__(
        self, prepare: Callable[[Any], Any], run: Callable[[np.ndarray], np.ndarray], identity: dict[str, Any]
    ) -> None:
        self.prepare, self.run, self.identity = prepare, run, identity
        image = library("PIL.Image", "image").new("RGB", (8, 8))
        self.width = int(run(np.asarray(prepare(image))[None]).shape[1])

    def load(self, content: Path) -> np.ndarray:
        return np.asarray(self.prepare(read_image(content)), np.float32)

    def encode(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        return self.run(np.stack(inputs))


def image_encoder(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    batch: int = 32,
    device: str = "cpu",
    download: bool = False,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    output: str = "",
) -> ImageEncoder:
    """The encoder of a model.

    model: a name of timm, with its weights in the file `weights`, in the cache of Hugging Face's libraries, or with
    download on the hub; a folder with the config.json and weights of a timm model; or a .onnx or .pt2 file. timm
    prepares pictures as the model's configuration says, and the vector is what the last layer but the classifier
    returns. For a file, the shorter side becomes `size` (default: what the file says, or 224) by bicubic interpolation,
    the middle is cut out, and the values from 0 to 1 are normalised by mean and std (default: those of ImageNet).
    output: of a .onnx file, if it has several.
    """
    check_batch(batch)
    library("PIL", "image")
    path = Path(model)
    if path.suffix in ENDS:
        if not path.is_file():
            raise InputError(f"{path}: no such model; check the path")
        if weights is not None:
            raise InputError(f"{path}: contains its weights; leave out --weights")
        return _of_program(path, batch, device, size, mean, std, output)
    if (size, mean, std) != (None, None, None):
        raise InputError(f"size, mean and std are for .onnx and .pt2 files; timm knows those of {model}")
    if output:
        raise InputError(f"output = {shown(output)}: is for .onnx files; of timm's models, the last layer is taken")
    return _of_timm(model, weights, batch, device, download)


def _of_program(
    path: Path,
    batch: int,
    device: str,
    size: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    output: str,
) -> ImageEncoder:
    program = Program(path, batch, device, "image", output)
    if len(program.shape) != 3 or program.shape[0] not in (3, None):
        raise InputError(f"{path}: takes inputs of the shape {program.shape}; it must take [n, 3, height, width]")
    stated = program.shape[1]
    if stated is not None and size not in (None, stated):
        raise InputError(f"size = {size}: {path} takes pictures of {stated} pixels; leave size out")
    side, mean, std = size or stated or 224, tuple(mean or IMAGENET[0]), tuple(std or IMAGENET[1])
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or side < 1:
        raise InputError(f"size = {side}, mean = {mean}, std = {std}: give a size of 1 or more, and three numbers each")
    centre, scale = (np.array(values, np.float32)[:, None, None] for values in (mean, std))
    ImageOps, Image = library("PIL.ImageOps", "image"), library("PIL.Image", "image")

    def prepare(image: Any) -> np.ndarray:
        cut = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
        return (np.asarray(cut, np.float32).transpose(2, 0, 1) / 255 - centre) / scale

    kind = ("onnxruntime",) if path.suffix == ".onnx" else ("torch",)
    settings = {"size": side, "mean": list(mean), "std": list(std), "batch": program.batch}
    settings |= {"output": output} if output else {}
    identity = {"model": path.name, "digest": digest_of(path), **settings, "versions": versions(*kind, "pillow")}
    return ImageEncoder(prepare, program, identity)


def _of_timm(model: str | Path, weights: str | Path | None, batch: int, device: str, download: bool) -> ImageEncoder:
    timm = library("timm", "image")
    path, options = Path(model), {}
    if weights is not None:
        if not Path(weights).is_file():
            raise InputError(f"{weights}: no such file; check --weights")
        options["pretrained_cfg_overlay"] = {"file": str(weights)}
    folder = path.is_dir()
    if folder and not (path / "config.json").is_file():
        raise InputError(f"{path}: has no config.json; give a folder that timm has saved, a .onnx or a .pt2 file")
    try:
        with from_hub(download):
            name = f"local-dir:{path}" if folder else str(model)
            module = timm.create_model(name, pretrained=True, num_classes=0, **options).eval().to(device)
    except Exception as error:  # timm passes on the errors of torch, safetensors and the hub
        raise refuse_model(weights if weights is not None else model, error, download) from None
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(module), is_training=False)

    @torch.inference_mode()
    def run(inputs: np.ndarray) -> np.ndarray:
        blocks = torch.from_numpy(inputs).split(batch)
        return torch.cat([module(block.to(device)).float().cpu() for block in blocks]).numpy()

    file = path if folder else Path(weights) if weights is not None else None
    identity: dict[str, Any] = {"model": named(model), "digest": digest_of(file) if file else "", "batch": batch}
    identity["versions"] = versions("timm", "torchvision", "pillow", "torch")
    return ImageEncoder(transform, run, identity)
