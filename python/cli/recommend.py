"""mmssl-fast recommend: recommendation lists of a trained model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import InputError
from . import launch
from .options import NearestOption, NewItemsOption, RanksOption, RunPath, ShowOption, SpreadOption, shown_columns

if TYPE_CHECKING:
    from .. import Dataset


def recommend(
    run: RunPath,
    out: Annotated[
        Path | None,
        typer.Option(help=".csv or .parquet file to write, with --ranks a folder. [default: print the lists]"),
    ] = None,
    users: Annotated[
        list[str] | None,
        typer.Option(
            "--users",
            "--user",
            help="User ids, separated by commas. May be given several times. [default: all]",
            show_default=False,
        ),
    ] = None,
    users_from: Annotated[
        Path | None, typer.Option(help="Text file with one user id per line, or table with a column user.")
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Items per user, from 1 to the number of items.")] = 20,
    exclude: Annotated[
        Literal["train", "all"],
        typer.Option(help="Interactions to exclude: train, or all (training, validation and test)."),
    ] = "train",
    exclude_from: Annotated[
        Path | None,
        typer.Option(help="Table with columns user and item: more pairs to exclude, such as purchases since training."),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(
            help="Table with columns user and item. The lists are for its users, by their history, instead of the "
            "users of the model."
        ),
    ] = None,
    skip_unknown: Annotated[
        bool, typer.Option("--skip-unknown", help="Ignore items of --history that the model does not know.")
    ] = False,
    new_items: NewItemsOption = None,
    nearest: NearestOption = 0,
    spread: SpreadOption = 1.0,
    candidates: Annotated[
        Path | None,
        typer.Option(
            help="Items that may be recommended: text file with one id per line, or table with a column item."
        ),
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="COLUMN=VALUE",
            help="Recommend only items with this value in the table --items. A cell may contain several values, "
            "separated by |. May be given several times.",
        ),
    ] = None,
    items: Annotated[Path | None, typer.Option(help="Table with a column item, for --filter and --show.")] = None,
    show: ShowOption = None,
    diversity: Annotated[
        float,
        typer.Option(
            help="Variety of a list: from 0 (the best items) to 1 (the items that differ most from each other)."
        ),
    ] = 0.0,
    ranks: RanksOption = None,
) -> None:
    """Print or write the best items for each user. Items that the user has interacted with are excluded."""
    if launch.is_asked_for(ranks):
        if out is not None:
            refuse_occupied(out)
        return launch.launch(ranks, sys.argv[1:])
    from .. import load, unfinished
    from ..console import output, tables
    from ..inference import files
    from ..inference.lists import for_request
    from ..inference.towers import item_tower
    from ..runs import recommend as recommending

    group = launch.join()
    if group.size > 1:
        one_process = {
            "--users": users,
            "--users-from": users_from,
            "--exclude-from": exclude_from,
            "--history": history,
            "--new-items": new_items,
            "--candidates": candidates,
            "--filter": filters,
            "--diversity": diversity or None,
        }
        if given := [option for option, value in one_process.items() if value is not None]:
            raise InputError(f"{given[0]} works with one process only; leave out --ranks or torchrun")
        if out is not None and out.suffix:
            raise InputError(f"{out}: every process writes a file; give a folder, whose name has no extension")
        if out is not None:
            refuse_occupied(out)
    if nearest and not new_items:
        raise InputError("--nearest is for --new-items; give both")
    if spread != 1 and not new_items:
        raise InputError("--spread is for --new-items; give both")
    if skip_unknown and history is None:
        raise InputError("--skip-unknown is for --history; give both")
    if filters and items is None:
        raise InputError("--filter is about columns of the table --items; give both")
    if items is not None and not filters and not show:
        raise InputError("--items is for --filter and --show; give one of them")
    shown = shown_columns(show, items, recommending.COLUMNS)
    model = load(run)
    notes = []
    added = None
    if new_items:
        ids, features, present = files.read_unknown_items(new_items, item_tower(model).widths, model)
        if present:
            count = len(ids) + present
            notes.append(f"{present:,} of {count:,} new items are items of the model, and keep their embedding")
        added = ids, features
    allowed = _allowed(candidates, filters, items)
    known = {*model.interactions.item_index, *(added[0] if added else ())}
    model, pairs = for_request(
        model,
        histories=None if history is None else files.read_histories(history, None if skip_unknown else known),
        unknown="skip" if skip_unknown else "refuse",
        new_items=added,
        nearest=nearest,
        spread=spread,
        candidates=allowed,
        excluded=None if exclude_from is None else list(zip(*files.read_pairs(exclude_from), strict=True)),
    )
    if allowed is not None and (missing := len(allowed) - model.interactions.n_items):
        notes.append(f"{missing:,} of {len(allowed):,} candidates are not items of the model")
    if pairs is not None:
        notes.append(f"{pairs.nnz:,} pairs of --exclude-from are of these users and items")
    user_ids = _user_ids(users, users_from, model.interactions)
    if out is None and user_ids is None and history is None:
        raise InputError("choose users with --users, or write the lists of all users to a file with --out")
    texts = files.item_texts(items, shown, model.interactions.item_index) if items is not None and shown else {}
    chunks = recommending.recommend(model, user_ids, k, exclude, excluded=pairs, diversity=diversity)
    if note := unfinished(run):
        notes.append(note)
    if count := recommending.by_popularity(model, user_ids):
        notes.append(recommending.popularity_note(count))
    for note in notes:
        output.ERR.print(f"note: {note}", markup=False)
    if group.size > 1 and out is not None:
        count = recommending.write_part(chunks, out, texts)
        output.OUT.print(f"{out}: {count:,} recommendations in {group.size} files", markup=False)
    elif out is None:
        cells = [
            [str(user), rank, str(item), score, *more]
            for chunk in chunks
            for user, rank, item, score, *more in zip(
                *(column.tolist() for column in chunk), *recommending.texts_of(chunk.item, texts), strict=True
            )
        ]
        output.OUT.print(tables.table("", [*recommending.COLUMNS, *texts], cells))
    else:
        count = recommending.write(chunks, out, texts)
        output.OUT.print(f"{out}: {count:,} recommendations", markup=False)


def _allowed(candidates: Path | None, filters: list[str] | None, items: Path | None) -> list[str] | None:
    """The distinct ids of the items that --candidates and --filter allow, None without them."""
    from ..data.ids import read_id_list
    from ..inference.files import read_filtered

    lists = []
    if candidates is not None:
        lists.append(list(dict.fromkeys(read_id_list(candidates, "item"))))
    if filters and items is not None:
        lists.append(list(dict.fromkeys(read_filtered(items, filters))))
    if not lists:
        return None
    common = set.intersection(*map(set, lists))
    allowed = [item for item in lists[0] if item in common]
    if not allowed:
        raise InputError(f"{candidates or items}: no item is left to recommend; check --candidates and --filter")
    return allowed


def refuse_occupied(folder: Path) -> None:
    """Raise InputError if the folder for the files of all ranks has content."""
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty; give another folder with --out")


def _user_ids(users: list[str] | None, users_from: Path | None, dataset: Dataset) -> list[str] | None:
    """The user ids from both options as text, None without any. --users is split at commas, unless the whole text is an
    id of the data."""
    if users is None and users_from is None:
        return None
    ids = []
    for text in users or []:
        try:
            dataset.find_users([text])
            ids.append(text)
        except InputError:
            ids += [part.strip() for part in text.split(",")]
    if users_from is not None:
        from ..data.ids import read_id_list

        ids += read_id_list(users_from, "user")
    if not ids:
        raise InputError(f"{users_from or '--users'}: contains no user id")
    return ids
