"""Memory sizes as text, such as "4GiB"."""

# K, KB and KiB all mean 1024 bytes, as in `docker run --memory`. (systemd's MemoryMax accepts only K, also 1024 bytes.)
UNITS = {"": 1, "B": 1} | {
    f"{prefix}{suffix}": 1024**power for power, prefix in enumerate("KMGT", 1) for suffix in ("", "B", "iB")
}


def parse_bytes(text: str) -> int:
    """The number of bytes in a text such as "4GiB", "512M" or "2e9". K, M, G and T are powers of 1024.

    Raises ValueError if the text is not a positive size.
    """
    number = text.strip().rstrip("BKMGTibkmgt")
    unit = text.strip()[len(number) :]
    factors = {name.lower(): factor for name, factor in UNITS.items()}
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if unit.lower() not in factors or not 0 < value < 1e18:
        raise ValueError(f"{text!r} is not a memory size; write for example 4GiB, 512M or 2e9")
    return int(value * factors[unit.lower()])


def readable(count: float) -> str:
    """A number of bytes as text, such as "1.50 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1024
    raise AssertionError
