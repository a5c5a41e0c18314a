"""Pictures of items: files that the table of items names, below one folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ...errors import InputError, shown

# Formats that browsers show and that contain no scripts.
KINDS = {
    ".jpg": b"image/jpeg",
    ".jpeg": b"image/jpeg",
    ".png": b"image/png",
    ".gif": b"image/gif",
    ".webp": b"image/webp",
    ".avif": b"image/avif",
}
MOST = 2 << 20  # bytes of a picture


def checked_name(table: Path | None, item: str, name: str) -> str:
    """The name of a picture as the table has it, "" for none. Raises InputError for one that cannot be a file below the
    folder. Whether the file is there is seen when it is asked for."""
    name = name.strip()
    if not name:
        return ""
    path = PurePosixPath(name)
    where = f"{table}: the picture {shown(name)} of the item {shown(item)}"
    if "://" in name:
        raise InputError(f"{where} is an address; the page shows files: give the name of a file below --images")
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise InputError(f"{where} must be a file below the folder of --images; give its name without / and ..")
    if path.suffix.lower() not in KINDS:
        raise InputError(f"{where} is of no known kind; convert it to one of {', '.join(KINDS)}")
    return name


def read(folder: Path, name: str) -> tuple[bytes, bytes] | None:
    """(content, media type) of a picture, None if there is no such file below the folder or it is too large.

    folder: an absolute path without symbolic links. name: one from `checked_name`.
    """
    try:
        path = (folder / name).resolve(strict=True)
        if not path.is_relative_to(folder) or not path.is_file():
            return None
        with path.open("rb") as file:
            content = file.read(MOST + 1)
    except (OSError, ValueError, RuntimeError):  # RuntimeError: symbolic links in a circle
        return None
    return (content, KINDS[PurePosixPath(name).suffix.lower()]) if len(content) <= MOST else None
