"""mmssl-fast recommend: recommendation lists of a trained model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import InputError
from . import launch
from .options import RanksOption, RunPath


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
    ranks: RanksOption = None,
) -> None:
    """Print or write the best items for each user. Items that the user has interacted with are excluded."""
    if launch.is_asked_for(ranks):
        if out is not None:
            refuse_occupied(out)
        return launch.launch(ranks, sys.argv[1:])
    from ..console import output, tables
    from ..runs import recommend as recommending
    from ..runs import saved_model
    from ..runs.folder import unfinished
    from ..training import ranks as together

    group = together.join()
    if group.size > 1:
        if users is not None or users_from is not None:
            raise InputError("--users and --users-from work with one process only; leave out --ranks or torchrun")
        if out is not None and out.suffix:
            raise InputError(f"{out}: every process writes a file; give a folder, whose name has no extension")
        if out is not None:
            refuse_occupied(out)
    model = saved_model.load(run)
    user_ids = _user_ids(users, users_from, model.interactions)
    if out is None and user_ids is None:
        raise InputError("choose users with --users, or write the lists of all users to a file with --out")
    chunks = recommending.recommend(model, user_ids, k, exclude)
    if note := unfinished(run):
        output.ERR.print(f"note: {note}", markup=False)
    if count := recommending.by_popularity(model, user_ids):
        output.ERR.print(f"note: {recommending.popularity_note(count)}", markup=False)
    if group.size > 1 and out is not None:
        count = recommending.write_part(chunks, out)
        output.OUT.print(f"{out}: {count:,} recommendations in {group.size} files", markup=False)
        together.leave()
    elif out is None:
        rows = [row for chunk in chunks for row in zip(*(column.tolist() for column in chunk), strict=True)]
        cells = [[str(user), rank, str(item), score] for user, rank, item, score in rows]
        output.OUT.print(tables.table("", recommending.COLUMNS, cells))
    else:
        count = recommending.write(chunks, out)
        output.OUT.print(f"{out}: {count:,} recommendations", markup=False)


def refuse_occupied(folder: Path) -> None:
    """Raise InputError if the folder for the files of all ranks has content."""
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty; give another folder with --out")


def _user_ids(users: list[str] | None, users_from: Path | None, dataset) -> list[str] | None:
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
