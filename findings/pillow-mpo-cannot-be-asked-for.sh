#!/usr/bin/env bash
# Pillow 13.0.0: a list of allowed formats with "MPO" in it opens photos, until one file is no picture: KeyError 'MPO'.
#
# Image.open gives .format == "MPO" for the JPEG files with two frames that many phones write, so one would guess that
# formats=["MPO"] opens them, and that an allow-list with "MPO" raises UnidentifiedImageError, as any other, for a file
# that is no picture. But no reader has that name: the reader "JPEG" turns such a file into an MPO image after opening
# it. formats=["JPEG"] therefore gives an image whose format is not in the list, formats=["MPO"] raises a bare KeyError
# for a valid MPO file, and formats=["JPEG", "MPO"] works for all pictures and raises KeyError where a pipeline expects
# UnidentifiedImageError, which is an OSError.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pillow==13.0.0
"$work/venv/bin/python" - <<'PYTHON'
import io

import PIL
from PIL import Image

print("pillow", PIL.__version__)
file = io.BytesIO()
frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
frames[0].save(file, "MPO", save_all=True, append_images=frames[1:])
contents = {"photo": file.getvalue(), "text": b"no picture"}


def opened(content, formats):
    try:
        return Image.open(io.BytesIO(contents[content]), formats=formats).format
    except Exception as error:
        return type(error).__name__


found = {
    (content, formats): opened(content, None if formats is None else formats.split("+"))
    for content in contents
    for formats in (None, "JPEG", "MPO", "JPEG+MPO")
}
for (content, formats), result in found.items():
    print(f"{content}, formats={formats}: {result}")
assert [found["photo", formats] for formats in (None, "JPEG", "MPO", "JPEG+MPO")] == ["MPO", "MPO", "KeyError", "MPO"]
unidentified = "UnidentifiedImageError"
wanted = [unidentified, unidentified, "KeyError", "KeyError"]
assert [found["text", formats] for formats in (None, "JPEG", "MPO", "JPEG+MPO")] == wanted
Image.init()
assert "MPO" in Image.SAVE and "MPO" not in Image.OPEN
PYTHON
