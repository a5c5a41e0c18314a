"""What columns are called elsewhere: the names that `data convert` recognises and messages point at."""

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


def standard_names(columns):
    """{user, item, rating, timestamp, split: the column that is it} of a table's columns, whatever their case and a
    RecBole type (`user_id:token`); a name that two columns fit is the first one's."""
    plain = {column: column.partition(":")[0].strip().lower() for column in columns}
    found = {}
    for name, known in COLUMN_NAMES.items():
        fitting = sorted((known.index(plain[c]), at, c) for at, c in enumerate(columns) if plain[c] in known)
        if fitting:
            found[name] = fitting[0][2]
    return found
