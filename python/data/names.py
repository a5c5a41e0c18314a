"""Common column names in other data sets, which `data convert` recognises."""

from __future__ import annotations

from collections.abc import Iterable

COLUMN_NAMES = {
    "user": ("user", "user_id", "userid", "uid", "reviewerid", "reviewer_id", "customer_id", "visitorid", "session_id"),
    "item": (
        *("item", "item_id", "itemid", "iid", "movieid", "movie_id", "asin", "parent_asin", "book_id", "business_id"),
        *("product_id", "productid", "artistid", "artist_id", "track_id", "video_id", "gmap_id", "items", "item_ids"),
    ),
    "rating": ("rating", "overall", "stars", "score", "star_rating"),
    "timestamp": ("timestamp", "unixreviewtime", "time", "date", "datetime", "ts"),
    "split": ("split", "x_label"),
}


def standard_names(columns: Iterable[str]) -> dict[str, str]:
    """{user, item, rating, timestamp, split: the column with this meaning}, for the columns that have one.

    Upper case and the types of RecBole (`user_id:token`) are ignored. If several columns match, the name that comes
    first in COLUMN_NAMES decides, and then the order of the columns.
    """
    plain = {column: column.partition(":")[0].strip().lower() for column in columns}
    result = {}
    for meaning, names in COLUMN_NAMES.items():
        matching = [column for column in columns if plain[column] in names]
        if matching:
            result[meaning] = min(matching, key=lambda column: names.index(plain[column]))
    return result


def legible(name: str) -> str:
    """The name of a column for a message, in quotation marks if it could be misread: empty, or with spaces at its ends.

    >>> legible("item"), legible(" item"), legible("")
    ('item', "' item'", "''")
    """
    return name if name and name == name.strip() else repr(name)
