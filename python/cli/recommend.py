"""mmssl-fast recommend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import InputError
from .options import RunPath


def recommend(
    run: RunPath,
    out: Annotated[Path | None, typer.Option(help="A .csv or .parquet file; without it the lists are printed.")] = None,
    users: Annotated[
        list[str] | None,
        typer.Option(
            "--users",
            "--user",
            help="User ids, separated by commas; may be repeated. [default: all]",
            show_default=False,
        ),
    ] = None,
    users_from: Annotated[
        Path | None, typer.Option(help="A text file with one user id a line, or a table with a column user.")
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Items a user, from 1 to the number of items.")] = 20,
    exclude: Annotated[
        Literal["train", "all"],
        typer.Option(help="train leaves out training interactions, all those of validation and test too."),
    ] = "train",
) -> None:
    """The best items for users, by their own ids, seen items left out."""
    from ..console import output, tables
    from ..runs import recommend as recommending
    from ..runs import saved_model
    from ..runs.folder import unfinished

    model = saved_model.load(run)
    asked = _asked_users(users, users_from, model.interactions)
    if out is None and asked is None:
        raise InputError("name the users with --users, or a file with --out")
    chunks = recommending.recommend(model, asked, k, exclude)
    if note := unfinished(run):
        output.ERR.print(f"note: {note}", markup=False)
    if count := recommending.by_popularity(model, asked):
        output.ERR.print(f"note: {recommending.popularity_note(count)}", markup=False)
    if out is None:
        rows = [row for chunk in chunks for row in zip(*(column.tolist() for column in chunk), strict=True)]
        shown = [[str(user), rank, str(item), score] for user, rank, item, score in rows]
        output.OUT.print(tables.table("", recommending.COLUMNS, shown))
    else:
        count = recommending.write(chunks, out)
        output.OUT.print(f"{out}: {count:,} recommendations", markup=False)


def _asked_users(users: list[str] | None, users_from: Path | None, known) -> list[str] | None:
    """Ids as text. What --users gives is split at commas, unless an id of the data is written with one."""
    if users is None and users_from is None:
        return None
    asked = []
    for text in users or []:
        try:
            known.find_users([text])
            asked.append(text)
        except InputError:
            asked += [one.strip() for one in text.split(",")]
    if users_from is not None:
        from ..data.ids import read_id_list

        asked += read_id_list(users_from, "user")
    if not asked:
        raise InputError(f"{users_from or '--users'}: names no user")
    return asked
