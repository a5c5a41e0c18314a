"""Microsoft recommenders: SAR, its item-item model."""

from protocol import Driver, K

driver = Driver("recommenders")

from recommenders.models.sar import SAR  # noqa: E402

data = driver.data
frame = data.frame("userID", "itemID", rating=1.0)


def lists():
    made = SAR(col_user="userID", col_item="itemID", col_rating="rating")
    with driver.fitted():
        made.fit(frame)
    users = frame[frame["userID"].isin(data.user_ids[data.test_users])][["userID"]].drop_duplicates()
    found = made.recommend_k_items(users, top_k=K, remove_seen=True)
    for user, rows in found.groupby("userID", sort=False):
        yield user, rows.sort_values("prediction", ascending=False, kind="stable")["itemID"].tolist()


driver.run({"SAR": lists})
