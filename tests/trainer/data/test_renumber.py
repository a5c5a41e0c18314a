"""data prepare --renumber degree: the same data under other indices, of which equal blocks have equal shares."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from command_line import fails
from data_folders import one_line
from mmssl_trainer import InputError, configure, evaluate, prepare_data, recommend, resume, train
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import SPLITS, load, synthetic, write_plain
from mmssl_trainer.data.prepare import renumber
from mmssl_trainer.data.prepare.renumber import NOTE, balanced_order
from pyarrow import parquet

from mmssl_fast.distributed import GroupGraph, Ranks


def power_law(n, exponent, total, seed=0):
    """Degrees of n nodes, the highest first."""
    share = 1 / np.arange(1, n + 1) ** exponent
    return np.bincount(np.random.default_rng(seed).choice(n, total, p=share / share.sum()), minlength=n)


def shares(degrees, blocks):
    """The largest sum of `blocks` equal blocks over the mean."""
    sums = [degrees[first:last].sum() for first, last in Ranks(0, blocks).spans(len(degrees))]
    return max(sums) * blocks / sum(sums)


def skewed(folder, split=False, **columns):
    """A folder of Parquet, whose ids are sorted by popularity, with features and titles by id."""
    rng, n = np.random.default_rng(3), 4000
    user, item = (np.minimum((rng.pareto(1.1, n) * 4).astype(int), last) for last in (119, 89))
    table = {"user": [f"u{one:03d}" for one in user], "item": 7 * item + 1000, "timestamp": rng.permutation(n)}
    table |= {"rating": rng.integers(1, 6, n).astype(float)} | columns
    if split:
        table["split"] = rng.choice(["train", "train", "val", "test"], n)
    folder.mkdir()
    parquet.write_table(pa.table(table), folder / "interactions.parquet", row_group_size=500)
    ids = np.unique(table["item"])
    np.savez(folder / "text_feat.npz", ids=ids, features=rng.random((len(ids), 5)).astype(np.float32))
    parquet.write_table(pa.table({"item": ids, "title": [f"title {one}" for one in ids]}), folder / "items.parquet")
    return folder


def structured(folder):
    """Data whose scores are distinct: among equal scores, rounding decides the order."""
    data = synthetic(n_users=300, n_items=120, mean_degree=25)
    names = {"user_ids": np.array([f"u{one:03d}" for one in range(300)]), "item_ids": 7 * np.arange(120) + 1000}
    return write_plain(replace(data, **names), folder, "parquet")


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(renumber, "_BLOCK", 37)
    monkeypatch.setattr(renumber, "_BLOCK_BYTES", 100)


@pytest.mark.parametrize(
    "degrees",
    [power_law(9000, 0.8, 60_000), power_law(6000, 1.0, 60_000), power_law(5003, 0.5, 30_000)[::-1]],
    ids=["0.8", "1.0", "0.5, ascending"],
)
@pytest.mark.parametrize("blocks", [2, 3, 4, 6, 7, 8])
def test_equal_blocks_have_equal_shares(degrees, blocks):
    order = balanced_order(degrees)
    assert sorted(order.tolist()) == list(range(len(degrees)))
    least = max(1.0, degrees.max() * blocks / degrees.sum())  # one node may have more than the mean
    assert shares(degrees, blocks) > 1.25
    assert shares(degrees[order], blocks) < 1.02 * least


@pytest.mark.parametrize(
    "degrees",
    [[], [5], [0, 0, 0], [1] * 41, [0, 9, 0], [10**12, 1, 1, 0], list(range(33)), [3, 3, 1, 1, 0, 0, 0]],
    ids=str,
)
def test_every_node_has_one_place(degrees):
    degrees = np.array(degrees, np.int64)
    assert sorted(balanced_order(degrees).tolist()) == list(range(len(degrees)))
    assert (balanced_order(degrees) == balanced_order(degrees)).all()


def test_a_heavy_node_is_made_up_for_by_light_ones():
    degrees = np.array([30, *[5] * 10, *[1] * 20, 0])
    order = balanced_order(degrees)
    halves = degrees[order[:16]].sum(), degrees[order[16:]].sum()
    assert len(order) == 32 and max(halves) <= 52  # dealt one by one, they would have 65 and 35


@pytest.mark.parametrize(
    "options",
    [{}, {"split": "random", "split_seed": 4}, {"split": "time"}, {"split": "last", "min_rating": 2.0}],
    ids=str,
)
@pytest.mark.parametrize("source", ["parquet", "csv", "prepared"])
def test_splits_features_and_ids_belong_together_as_before(source, options, tmp_path, small_blocks):
    folder = skewed(tmp_path / "source", split=not options)
    plain = load(folder, **{"seed" if key == "split_seed" else key: value for key, value in options.items()})
    if source == "csv":
        folder, options = write_plain(plain, tmp_path / "csv"), {}
    if source == "prepared":
        prepare_data(folder, tmp_path / "first", **options)
        folder, options = tmp_path / "first", {}
    found = prepare_data(folder, tmp_path / "out", renumber="degree", **options)
    assert found.notes[-1] == NOTE and found.fingerprint != plain.fingerprint
    for split in SPLITS:
        pairs = []
        for data in (found, plain):
            matrix = getattr(data, split)
            rows, columns = matrix.nonzero()
            pairs.append(
                set(zip(data.original_users(rows).tolist(), data.original_items(columns).tolist(), strict=True))
            )
            for user in range(data.n_users):  # ascending and distinct, as the ops rely on
                assert (np.diff(matrix.indices[matrix.indptr[user] : matrix.indptr[user + 1]]) > 0).all()
        assert pairs[0] == pairs[1] and pairs[0]
    place = plain.find_items(found.original_items(np.arange(found.n_items)))
    assert (place != np.arange(len(place))).any()
    assert (found.features["text"] == plain.features["text"][place]).all()


def test_weights_stay_with_their_interactions(tmp_path, small_blocks):
    folder = skewed(tmp_path / "source", split=True)
    plain = load(folder, weight_column="rating")
    found = prepare_data(folder, tmp_path / "out", renumber="degree", weight_column="rating")
    weights = []
    for data in (found, plain):
        users, items = data.weighted.nonzero()
        pairs = zip(data.original_users(users).tolist(), data.original_items(items).tolist(), strict=True)
        weights.append(dict(zip(pairs, data.weights.tolist(), strict=True)))
    assert weights[0] == weights[1] and len(set(weights[0].values())) > 2


def test_ids_that_are_the_indices(tmp_path):
    rows = {"user": [0, 0, 0, 1, 2], "item": [0, 1, 2, 0, 3], "split": ["train"] * 5}
    (tmp_path / "source").mkdir()
    parquet.write_table(pa.table(rows), tmp_path / "source" / "interactions.parquet")
    np.save(tmp_path / "source" / "image_feat.npy", np.arange(8, dtype=np.float32).reshape(4, 2))
    found = prepare_data(tmp_path / "source", tmp_path / "out", renumber="degree")
    assert sorted(found.item_ids.tolist()) == [0, 1, 2, 3] and found.item_ids.dtype == np.int64
    assert (found.features["image"][:, 0] == 2 * found.item_ids).all()
    rows, columns = found.train.nonzero()
    pairs = zip(found.user_ids[rows].tolist(), found.item_ids[columns].tolist(), strict=True)
    assert sorted(pairs) == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 3)]


def test_renumbering_twice_adds_one_note(tmp_path):
    prepare_data(skewed(tmp_path / "source"), tmp_path / "one", renumber="degree")
    again = prepare_data(tmp_path / "one", tmp_path / "two", renumber="degree")
    assert again.notes.count(NOTE) == 1


@pytest.mark.parametrize("groups", [2, 4])
def test_groups_have_equal_shares(groups, tmp_path):
    folder, most = skewed(tmp_path / "source"), []
    for rule in ("none", "degree"):
        train_set = prepare_data(folder, tmp_path / rule, renumber=rule).train
        edges = []
        for group in range(groups):
            ranks = Ranks(group, groups).divided(groups)
            graph = GroupGraph.from_csr(train_set.indptr, train_set.indices, train_set.shape[1], ranks)
            edges.append(sum(len(block.col) for side in graph.blocks.values() for block in side.values()))
        most.append(max(edges) * groups / sum(edges))
    assert most[0] > 1.2 and most[1] < 1.05


@pytest.mark.parametrize("system", ["popularity", "ease", "svd", "itemknn"])
def test_metrics_and_lists_are_those_of_the_same_ids(system, tmp_path):
    folder, lists, metrics = structured(tmp_path / "source"), [], []
    for rule in ("none", "degree"):
        prepare_data(folder, tmp_path / rule, renumber=rule)
        settings = {"model.system": system, "data.path": str(tmp_path / rule), "model.dim": 8, "train.compare": "no"}
        model = train(configure(settings), tmp_path / f"run {rule}").model
        metrics.append(evaluate(model))
        found = recommend(model, k=5)
        by_user = {}
        for user, item, score in zip(found.user.tolist(), found.item.tolist(), found.score.tolist(), strict=True):
            by_user.setdefault(user, []).append((item, score))
        lists.append(by_user)
    for name, value in metrics[0].items():
        assert metrics[1][name] == pytest.approx(value, rel=1e-5), name
    assert metrics[0]["recall@20"] > 0.1
    one, other = lists
    assert one.keys() == other.keys()
    for user, items in one.items():
        scores, more = (np.array([score for _, score in found]) for found in (items, other[user]))
        np.testing.assert_allclose(scores, more, rtol=1e-4, atol=1e-5)
        last = scores[-1] + 1e-3 * abs(scores[-1]) + 1e-4  # items that are tied with the last one may differ
        better = [{item for item, score in found if score > last} for found in (items, other[user])]
        assert better[0] == better[1]
    assert sum(score > 0 for items in one.values() for _, score in items) > 100


def test_commands_speak_of_the_ids(tmp_path, capsys):
    """Lists of two users, with excluded and candidate items, similar items, and exported tables."""
    folder, answers, scores = structured(tmp_path / "source"), [], []
    candidates, bought, titles = (tmp_path / f"{name}.csv" for name in ("candidates", "bought", "titles"))
    candidates.write_text("item\n" + "\n".join(str(7 * item + 1000) for item in range(2, 60)))
    bought.write_text("user,item\nu000,1280\nu004,1301\n")
    titles.write_text("item,title\n" + "\n".join(f"{7 * item + 1000},film{item}" for item in range(120)))
    settings = ["--system", "svd", "--set", "model.dim=8"]
    for rule in ("none", "degree"):
        run, out = str(tmp_path / f"run {rule}"), tmp_path / f"export {rule}"
        prepare_data(folder, tmp_path / rule, renumber=rule)
        assert main(["train", "--data", str(tmp_path / rule), *settings, "--out", run]) == 0
        assert main(["export", run, "--to", "parquet", "--out", str(out)]) == 0
        capsys.readouterr()
        asked = ["--users", "u000,u004", "--candidates", str(candidates), "--exclude-from", str(bought)]
        assert main(["recommend", run, *asked, "--k", "4", "--items", str(titles), "--show", "title"]) == 0
        assert main(["similar", run, "1000", "1035", "--k", "3"]) == 0
        words = capsys.readouterr().out.split()
        answers.append([word for word in words if "." not in word])  # without scores, which are rounded differently
        users, items = (parquet.read_table(out / f"{side}s.parquet").sort_by(side) for side in ("user", "item"))
        assert users["user"].to_pylist() == sorted(load(folder).user_ids.tolist())
        scores.append(np.array(users["embedding"].to_pylist()) @ np.array(items["embedding"].to_pylist()).T)
    assert answers[0] == answers[1] and {"u000", "u004", "title"} < set(answers[0])
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-3, atol=1e-4)


def test_a_run_on_the_other_numbers_is_refused_in_one_line(tmp_path):
    folder = skewed(tmp_path / "source", split=True)
    for rule in ("none", "degree"):
        prepare_data(folder, tmp_path / rule, renumber=rule)
    settings = {"model.system": "lightgcn", "data.path": str(tmp_path / "none"), "train.compare": "no"}
    short = train(configure(settings | {"train.epochs": 1}), tmp_path / "run").config
    other = short.changed("data", path=str(tmp_path / "degree")).changed("train", epochs=2)
    with pytest.raises(InputError) as caught:
        resume(tmp_path / "run", other)
    one_line(caught, "the data has changed since the run was started: its fingerprint was")


def test_other_rules_are_refused(tmp_path, capsys):
    with pytest.raises(InputError) as caught:
        prepare_data(skewed(tmp_path / "source"), tmp_path / "out", renumber="size")
    one_line(caught, "renumber = 'size': must be one of none, degree")
    source, out = str(tmp_path / "source"), str(tmp_path / "out")
    fails(capsys, ["data", "prepare", source, out, "--renumber", "size"], "renumber = 'size': must be one of none")
    assert not (tmp_path / "out").exists()
