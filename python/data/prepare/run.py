"""prepare_data: from a data folder to a folder in the prepared layout."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, shown
from ...files import whole_folder
from ..arrow import Column
from ..dataset import SPLITS, Dataset, float_notes, refuse_empty, separated, split_notes
from ..features import FeatureFiles, marked_missing, rows_of_items
from ..files import TABLE_ENDS, existing_folder, is_partitioned, parts_of
from ..ids import note_counting_from_one
from ..interactions import note_low_ratings, refuse_label, unread_interactions
from ..layouts import choose, plain, prepared
from ..layouts.plain import LABELS, find_table, listed, refuse_unknown_order
from ..load import load
from ..npy import feature_blocks
from ..options import LoadOptions
from ..split import note_split
from . import grouped, ids
from .renumber import BY_DEGREE, RULES, renumbered
from .splits import splitter
from .stream import Table
from .write import Npy, write_ids, write_manifest


def prepare_data(
    source: str | Path,
    destination: str | Path,
    layout: str = "auto",
    modalities: Sequence[str] = (),
    split_seed: int = 0,
    renumber: str = "none",
    **options: Any,
) -> Dataset:
    """Write the data of a folder as arrays that several processes can memory-map, to the new folder `destination`,
    which appears only when it is complete. Returns its Dataset, which equals that of `load_data` with the same
    arguments, fingerprint included, unless users and items are renumbered.

    renumber: "degree" gives users and items other indices, with which groups of ranks (distributed.groups) have equal
    shares of the interactions. Ids, features, splits and weights stay those of the same users and items. The
    fingerprint differs, because it depends on the indices.

    source: a folder in any layout, or a folder of Parquet files with columns `user` and `item`, as Spark, Dask, DuckDB
    and Polars write them. Interactions in Parquet are read twice in batches: memory is needed for the distinct ids, for
    about 40 bytes per user, and for a few million rows, and disk space next to `destination` for 8 to 17 bytes per
    row, and as much again while they are grouped by user. Other layouts are read into memory as by `load_data`. The
    other arguments are those of `load_data`.

    Raises InputError, with the file and row, if the data is invalid, and if `destination` is not empty.

    >>> prepare_data("data/clicks", "data/clicks-prepared", min_rating=4)  # doctest: +SKIP
    """
    if renumber not in RULES:
        raise InputError(f"--renumber: renumber = {shown(renumber)}: must be one of {', '.join(RULES)}")
    folder, destination = existing_folder(source), Path(destination)
    chosen = LoadOptions(seed=split_seed, modalities=list(modalities) or None, **options)
    try:
        table = _streamed(folder, layout, chosen)
        with whole_folder(destination) as temporary:
            if table is None:
                data = load(folder, layout, split_seed, list(modalities) or None, **options)
                _write_loaded(data, temporary, renumber)
            else:
                work = temporary / "work"
                work.mkdir()
                _Preparation(folder, Table(*table, chosen), chosen, temporary, work).run(renumber)
                shutil.rmtree(work)
    except MemoryError:
        raise InputError(f"{folder}: the distinct ids do not fit into memory; use a machine with more") from None
    return load(destination, prepared.NAME)


def _streamed(folder: Path, layout: str, options: LoadOptions) -> tuple[Path, list[tuple[Path, dict[str, str]]]] | None:
    """(path, parts) of the interaction table if it is in Parquet and can be read in batches, otherwise None."""
    path: Path | None
    try:
        if layout not in ("auto", plain.NAME):
            return None
        if options.interactions:
            path = folder / options.interactions
        elif layout == plain.NAME or plain.fits(folder):
            path = find_table(folder, "interactions") or (folder if is_partitioned(folder) else None)
        else:
            path = folder if _is_loose(folder, options) else None
            if path is None:
                choose(folder, layout)  # refuses a folder that fits no layout
        if path is None or not path.exists():
            return None
        if options.min_interactions > 1 or options.weight_column:
            if path == folder and not is_partitioned(folder):
                option = f"min_interactions = {options.min_interactions}"
                if options.weight_column:
                    option = f"weight_column = {shown(options.weight_column)}"
                raise InputError(
                    f"{folder}: {option} needs an interactions.parquet, a file or a folder; move the parts there"
                )
            return None
        parts = [(part, keys) for part, keys in parts_of(path) if path != folder or not _is_beside(folder, part)]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error}); check its permissions") from None
    return (path, parts) if parts and all(part.suffix == ".parquet" for part, _ in parts) else None


def _is_loose(folder: Path, options: LoadOptions) -> bool:
    """Whether the folder has Parquet files with users and items, with any names, and is none of the layouts."""
    from ..tables import column_names

    parts = [path for path in sorted(folder.glob("*.parquet")) if not _is_beside(folder, path) and path.is_file()]
    if not parts or prepared.fits(folder) or any(path.name.startswith((".", "_")) for path in parts[:1]):
        return False
    return {options.user_column, options.item_column} <= set(column_names(parts[0]))


def _is_beside(folder: Path, path: Path) -> bool:
    """Whether a file of the folder is a feature file or a list of ids, so no part of the interactions."""
    stem = path.name.partition(".")[0]
    return (
        path.parent == folder
        and path.name.endswith(TABLE_ENDS)
        and (stem.endswith("_feat") or stem in ("users", "items"))
    )


def _write_loaded(data: Dataset, folder: Path, rule: str) -> None:
    """Write a Dataset that is in memory. rule: of renumbering."""
    import pyarrow as pa

    for name, count in (("user", data.n_users), ("item", data.n_items)):
        if count > ids.LIMIT:
            ids.refuse_many(folder, name, count)
    for split in SPLITS:
        matrix = getattr(data, split)
        np.save(folder / f"{split}_indptr.npy", matrix.indptr.astype(np.int64))
        np.save(folder / f"{split}_indices.npy", matrix.indices.astype(np.int32))
    if data.weights is not None:
        np.save(folder / prepared.WEIGHTS, data.weights)
    for side, original in (("user", data.user_ids), ("item", data.item_ids)):
        if original is not None:
            values = (
                pa.array(original) if original.dtype.kind == "i" else pa.array(original.tolist(), pa.large_string())
            )
            write_ids(folder / f"{side}_ids.npy", values)
    for modality, values in data.features.items():
        np.save(folder / f"{modality}_feat.npy", values)
    _finish(folder, (data.n_users, data.n_items), data.modalities, list(data.notes), rule)


def _finish(folder: Path, shape: tuple[int, int], modalities: list[str], notes: list[str], rule: str) -> None:
    """Renumber users and items, if asked for, and write the manifest."""
    if rule == BY_DEGREE:
        renumbered(folder, shape, modalities, notes)
    write_manifest(folder, shape, modalities, notes)


class _Preparation:
    """The steps for a table that is read in batches."""

    def __init__(self, folder: Path, table: Table, options: LoadOptions, target: Path, work: Path) -> None:
        self.folder, self.table, self.options, self.target, self.work = folder, table, options, target, work
        self.notes: list[str] = []
        self.files = FeatureFiles(folder, options.modalities)

    def run(self, rule: str) -> None:
        """Write everything to the target folder. rule: of renumbering."""
        if self.table.unread:
            self.notes.append(unread_interactions(self.table.path, list(self.table.unread), self.options))
        found = self._distinct()
        users, items = self._users(found["user"]), self._items(found["item"])
        for side, known in (("user", users), ("item", items)):
            if len(known) > ids.LIMIT:
                ids.refuse_many(self.table.path, side, len(known))
        rows = self._rows(users, items)
        self._write_splits(rows, len(users), len(items))
        about_ids = []
        for side, known in (("user", users), ("item", items)):
            original = known.original()
            write_ids(self.target / f"{side}_ids.npy", original)
            about_ids += float_notes(side, original)
        modalities = self._write_features(items)
        removed, idle, counts = self._separated
        self.notes += about_ids
        self.notes += split_notes(removed, idle, (len(users), len(items)), counts)
        _finish(self.target, (len(users), len(items)), modalities, self.notes, rule)

    def _distinct(self) -> dict[str, ids.IdSet]:
        """First pass: {"user", "item": IdSet}."""
        import pyarrow as pa

        table = self.table
        found = {side: ids.IdSet(table.path, side, table.integers[side]) for side in ("user", "item")}
        n_kept = 0
        for batch in table:
            n_kept += batch.rows if batch.keep is None else int(batch.keep.sum())
            for side, column in (("user", batch.users), ("item", batch.items)):
                values = column.values
                if batch.keep is not None:
                    used = np.bincount(column.codes[batch.keep], minlength=len(values)) > 0
                    values = values.filter(pa.array(used))
                found[side].add(values)
        if self.options.min_rating is not None:
            note_low_ratings(table.path, table.rows - n_kept, table.rows, self.options, self.notes)
        return found

    def _users(self, found: ids.IdSet) -> ids.Ids:
        path = find_table(self.folder, "users")
        return ids.Ids.ascending("user", found) if path is None else self._listed("user", path, found)

    def _listed(self, side: str, path: Path, found: ids.IdSet) -> ids.Ids:
        import pyarrow as pa

        values = listed(path, side, self.notes)[0]
        kind = pa.int64() if values.dtype.kind == "i" else pa.large_string()
        return ids.Ids(side, pa.array(values.tolist(), kind), found.integers, path)

    def _items(self, found: ids.IdSet) -> ids.Ids | ids.RowNumbers:
        path, files = find_table(self.folder, "items"), self.files
        if path is not None:
            return self._listed("item", path, found)
        if files.rows is not None:
            values = found.distinct()
            is_integer = not str(values.type).endswith("string")
            numbers = values.to_numpy(zero_copy_only=False)
            if is_integer and (not len(numbers) or (0 <= numbers.min() and numbers.max() < files.rows)):
                note_counting_from_one("item", numbers, self.notes, bool(files.chosen))
                return ids.RowNumbers(files.rows, None)
            if files.chosen_without_ids is not None and len(numbers):
                first = numbers if is_integer else values.slice(0, 1).to_numpy(zero_copy_only=False)
                self._refuse_order(first, files.chosen_without_ids, files.rows)
        return ids.Ids.ascending("item", found, files.ids)

    def _refuse_order(self, values: np.ndarray, path: Path, rows: int) -> None:
        """Raise InputError that names the first row whose item is no row of the .npy file."""

        def refuse(part: Path, row: int, text: str) -> None:
            only_this_row = Column([text], (np.arange(row) == row - 1) - 1)
            refuse_unknown_order(part, only_this_row, values, path, rows)

        if values.dtype.kind != "i":
            refuse(self.table.path, 1, str(values[0]))
        known = ids.RowNumbers(rows, refuse)
        for batch in self.table:
            known.index(batch, batch.items)

    def _rows(self, users: ids.Ids, items: ids.Ids | ids.RowNumbers) -> grouped.Rows:
        """Second pass: the rows as indices, in groups of users."""
        table = self.table
        rows = grouped.Rows(self.work, len(users), table.has_split, table.times)
        labels = np.array([SPLITS.index(split) for split in LABELS.values()])
        number = dict(zip(LABELS, labels.tolist(), strict=True))
        for batch in table:
            columns = {"user": users.index(batch, batch.users), "item": items.index(batch, batch.items)}
            if batch.split is not None:
                texts = batch.split.values.to_pylist()
                split = np.array([number.get(text, -1) for text in texts])[batch.split.codes]
                row = ids.first_unknown(split, batch.keep)
                if row is not None:
                    text = texts[batch.split.codes[row]]
                    refuse_label(batch.path, batch.start + row + 1, self.options.split_column, text, LABELS)
                columns["split"] = split
            if batch.times is not None:
                columns["time"] = batch.times
            if batch.keep is not None:
                columns = {name: values[batch.keep] for name, values in columns.items()}
            rows.add(**columns)
        if not rows.count:
            refuse_empty(self.folder)
        rows.group()
        return rows

    def _write_splits(self, rows: grouped.Rows, n_users: int, n_items: int) -> None:
        has_split = self.table.has_split
        split_of = splitter(rows, self.options, has_split, self.work, self.table.path)
        removed: Counter[Any] = Counter()
        duplicates = 0
        degrees = {split: np.zeros(n_users + 1, np.int64) for split in SPLITS}
        item_degree = np.zeros(n_items, bool)
        with ExitStack() as stack:
            files = {s: stack.enter_context(Npy(self.target / f"{s}_indices.npy", "<i4")) for s in SPLITS}
            for group in rows:
                pairs = split_of(group)
                duplicates += len(group) - sum(len(side[0]) for side in pairs.values())
                for split, keys in separated(pairs, n_items, removed).items():
                    items = keys % n_items
                    files[split].add(items)
                    first = int(keys[0] // n_items) if len(keys) else 0
                    counted = np.bincount(keys // n_items - first)
                    degrees[split][first + 1 : first + 1 + len(counted)] += counted
                    if split == "train":
                        item_degree[items] = True
        counts = {split: files[split].count for split in SPLITS}
        if not counts["train"]:
            refuse_empty(self.folder)
        if not has_split:
            note_split(self.options, duplicates, self.notes)
        idle = [int((degrees["train"][1:] == 0).sum()), int((~item_degree).sum())]
        for split, degree in degrees.items():
            np.save(self.target / f"{split}_indptr.npy", np.cumsum(degree))
        self._separated = removed, idle, counts

    def _write_features(self, items: ids.Ids | ids.RowNumbers) -> list[str]:
        """Write the features. Files without ids are copied in blocks; of the others, one at a time is in memory."""
        files, original, n_items = self.files, items.original(), len(items)
        array = None if original is None else np.array(original.to_pylist())
        chosen, without_ids = files.chosen, files.chosen_without_ids
        for modality in chosen:
            target, path = self.target / f"{modality}_feat.npy", files.files[modality]
            if path.suffix != ".npy":
                files.chosen = [modality]
                np.save(target, files.read(n_items, array, self.options, self.notes)[modality])
                continue
            with ExitStack() as stack:
                file = None
                for block in feature_blocks(path, n_items):
                    file = file or stack.enter_context(Npy(target, block.dtype, block.shape[1]))
                    file.add(block)
            if n_items:
                marked_missing(path, np.load(target, mmap_mode="r+"), self.options, self.notes)
        if without_ids is not None:
            self.notes.append(rows_of_items(n_items, array))
        return chosen
