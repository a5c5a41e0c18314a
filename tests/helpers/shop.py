"""A small shop: titles, prices and pictures of items, and what people bought and when."""

import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

KINDS = {
    "lamps": ["Desk lamp", "Floor lamp", "Reading light", "Bedside lamp", "Paper lantern"],
    "chairs": ["Oak chair", "Rocking chair", "Folding stool", "Office chair", "Bar stool"],
    "pots": ["Clay pot", "Hanging planter", "Herb pot", "Glazed planter", "Seed tray"],
    "blankets": ["Wool blanket", "Cotton throw", "Picnic blanket", "Quilted throw", "Baby blanket"],
}
COLOURS = "white black red green blue grey amber".split()
HOSTILE = '<img src=x onerror="document.title=1"> & <script>alert(1)</script>'
DAY = 86_400


def items(n=120, seed=0):
    """(ids, titles, kinds, prices) of n items. The title of the last one looks like HTML."""
    rng, names = np.random.default_rng(seed), list(KINDS)
    kinds = [names[n % len(names)] for n in range(n)]
    titles = [f"{rng.choice(KINDS[kind])}, {rng.choice(COLOURS)}, no. {n}" for n, kind in enumerate(kinds)]
    titles[-1] = HOSTILE
    return [100 + n for n in range(n)], titles, kinds, (5 + 200 * rng.random(n)).round(2).tolist()


def write_shop(folder, n_users=80, n_items=120, cold=9, seed=0):
    """interactions.parquet (user, item, rating, timestamp) and items.parquet (item, title, genres, year). Everybody has
    one kind that they buy most; the last `cold` items were never bought, and the last tenth of all users is new in the
    last tenth of the time."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, titles, kinds, _ = items(n_items, seed)
    rng, names, rows = np.random.default_rng(seed + 1), list(KINDS), []
    for user in range(n_users):
        liked = [n for n in range(n_items - cold) if kinds[n] == names[user % len(names)]]
        bought = np.unique([*rng.choice(liked, 9), *rng.integers(0, n_items - cold, 4)])
        late = user >= 0.9 * n_users
        days = rng.integers(95, 100, len(bought)) if late else rng.integers(0, 100, len(bought))
        rows += [(user + 1, ids[n], 4.0, 1_700_000_000 + int(day) * DAY) for n, day in zip(bought, days, strict=True)]
    columns = dict(zip(("user", "item", "rating", "timestamp"), zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), folder / "interactions.parquet")
    years = rng.integers(1960, 2024, n_items).tolist()
    genres = [f"{kind}|{rng.choice(COLOURS)}" for kind in kinds]
    pq.write_table(pa.table({"item": ids, "title": titles, "year": years, "genres": genres}), folder / "items.parquet")
    return folder


def png(red, green, blue, side=24):
    """A picture of one colour."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes([red, green, blue]) * side for _ in range(side))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
