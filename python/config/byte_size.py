"""Sizes of memory as people write them."""

UNITS = {"": 1, "B": 1, **{f"{p}{end}": 1024 ** (at + 1) for at, p in enumerate("KMGT") for end in ("", "B", "iB")}}


def parse_bytes(text: str) -> int:
    """4GiB, 512M, 2e9: as bytes, K to T by 1024. Raises ValueError for anything else."""
    number = text.strip().rstrip("BKMGTibkmgt")
    unit = text.strip()[len(number) :]
    known = {name.lower(): factor for name, factor in UNITS.items()}
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if unit.lower() not in known or not 0 < value < 1e18:
        raise ValueError(f"{text!r} is no size; write 4GiB, 512M or 2e9")
    return int(value * known[unit.lower()])


def readable(count: float) -> str:
    """Bytes as people write them."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1024
    raise AssertionError
