"""Products that the sparse drop-in leaves to torch: they cost next to nothing, counted in steps of Python."""

import sys
import threading

import pytest
import torch
from tolerances import assert_close

from mmssl_fast.dropin import sparse
from mmssl_fast.dropin.sparse import cost, decide, matrices, pattern, wrappers
from mmssl_fast.dropin.sparse.counts import MatrixReport
from mmssl_fast.dropin.sparse.left import Left
from mmssl_fast.dropin.sparse.matrices import TOO_BRIEF, TOO_SMALL

pytestmark = pytest.mark.usefixtures("fresh")


def graph(entries, n, seed=0):
    random = torch.Generator().manual_seed(seed)
    indices = torch.randint(n, (2, entries), generator=random)
    return torch.sparse_coo_tensor(indices, torch.rand(entries, generator=random), (n, n)).coalesce()


def dropped(a, seed):
    keep = torch.rand(a._nnz(), generator=torch.Generator().manual_seed(seed)) > 0.2
    return torch.sparse_coo_tensor(a._indices()[:, keep], a._values()[keep] / 0.8, a.shape)


def steps_of(call):
    """The numbers of Python functions and of built-in functions that are called within `call`."""
    count = {"call": -1, "c_call": -1}  # `call` itself, and sys.setprofile

    def note(_, event, __):
        if event in count:
            count[event] += 1

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count["call"], count["c_call"]


@pytest.fixture
def examined(monkeypatch):
    """Names of the functions that look at entries or keep account of a matrix, as often as they are called."""
    calls = []
    for place, name in (
        (matrices.Matrices, "_find"),
        (matrices.Matrices, "_pattern"),
        (pattern.Pattern, "of"),
        (pattern.Snapshot, "is_still"),
        (pattern, "same_bits"),
        (pattern, "stored_indices"),
        (pattern, "stored_values"),
        (decide, "_run"),
    ):
        real = getattr(place, name)
        monkeypatch.setattr(
            place, name, lambda *args, name=name, real=real, **kw: calls.append(name) or real(*args, **kw)
        )
    return calls


CALLS = {
    "sparse.mm": lambda a, x: torch.sparse.mm(a, x),
    "mm": lambda a, x: torch.mm(a, x),
    "operator": lambda a, x: a @ x,
    "method": lambda a, x: a.mm(x),
    "from the right": lambda a, x: x.t() @ a,
    "vector": lambda a, x: a @ x[:, 0].contiguous(),
    "mv": lambda a, x: torch.mv(a, x[:, 0].contiguous()),
}


TAKEN = ("sparse.mm", "mm", "operator", "method")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_a_small_matrix_takes_one_function(call, layout, examined):
    """Whether its products are accelerated, or left to torch because they have to be transposed or are vectors."""
    a, x = graph(200, 100), torch.randn(100, 8, requires_grad=True)
    a = a.to_sparse_csr() if layout == "csr" else a
    own, product = steps_of(lambda: CALLS[call](a, x)), CALLS[call](a, x)
    with sparse.accelerated():
        CALLS[call](a, x)
        examined.clear()
        python, built_in = steps_of(lambda: CALLS[call](a, x))
        assert_close(CALLS[call](a, x), product, torch.float32)
    assert python - own[0] == 1 and built_in - own[1] <= 1, "the wrapper and the C++ function"
    assert not examined
    assert (sparse.report().taken, sparse.report().left) == ((3, {}) if call in TAKEN else (0, {TOO_SMALL: 3}))


def test_dense_products_take_one_function():
    x, y = torch.randn(3, 4), torch.randn(4, 5)
    own = steps_of(lambda: torch.mm(x, y))
    with sparse.accelerated():
        python, built_in = steps_of(lambda: torch.mm(x, y))
    assert python - own[0] == 1 and built_in - own[1] <= 1


def test_small_matrices_that_are_new_in_each_step_are_looked_at_briefly(examined):
    a, x = graph(900, 300), torch.randn(300, 64, requires_grad=True)
    new = [dropped(a, seed) for seed in range(10)]
    with sparse.accelerated():
        x.t() @ new[0]
        for matrix in new[1:]:
            python, built_in = steps_of(lambda matrix=matrix: x.t() @ matrix)
            assert python <= 2 and built_in <= 3  # the call itself, the wrapper and what it calls
    assert not examined and sparse.report().left == {TOO_SMALL: 10}


def test_matrices_used_too_briefly_are_examined_ever_less(examined):
    """Half of the edges dropped in each step: one product gains less than preparing costs."""
    a, x = graph(5000, 1500), torch.randn(1500, 64, requires_grad=True)
    gain = cost.gain(a.layout, 4000, a.shape, 64, backward=True, short=True)
    assert 0 < gain < cost.prepare_cost(4000, a.shape, False, short=True)
    with sparse.accelerated():
        dropped(a, 0) @ x  # nothing is known, so it is prepared
        examined.clear()
        unseen, steps = 0, 0
        for step in range(1, 200):
            matrix = dropped(a, step)
            before = len(examined)
            python, _ = steps_of(lambda matrix=matrix: matrix @ x)
            if len(examined) == before:
                unseen, steps = unseen + 1, max(steps, python)
    assert unseen >= 188 and steps <= 2
    assert examined.count("_find") <= 11 and not {"of", "is_still", "same_bits"} & set(examined)
    assert sparse.report().left == {TOO_BRIEF: 199} and sparse.report().matrices[0].left == 199


def test_a_matrix_that_stays_is_found_between_new_ones(taken):
    """Each step uses a new matrix and then one that stays, in the same order."""
    a, x = graph(5000, 1500), torch.randn(1500, 64, requires_grad=True)
    with sparse.accelerated():
        for step in range(30):
            dropped(a, step) @ x
        before = len(taken)
        for step in range(200):
            dropped(a, step) @ x
            a @ x
    assert len(taken) - before > 100


def test_matrices_that_are_used_longer_from_now_on_are_taken(taken):
    a, x = graph(5000, 1500), torch.randn(1500, 64, requires_grad=True)
    with sparse.accelerated():
        for step in range(60):
            dropped(a, step) @ x
        assert len(taken) == 1
        for step in range(40):
            matrix = dropped(a, step)
            for _ in range(6):
                matrix @ x
    assert len(taken) > 150


def test_a_matrix_that_grows_in_place_is_looked_at_again(examined):
    a, x = graph(200, 100), torch.randn(8, 100, requires_grad=True)
    with sparse.accelerated():
        (x @ a).sum().backward()
        with pytest.raises(RuntimeError, match=r"size|shape"):  # torch's own error
            torch.mm(x[:, :7], a)
        assert not examined
        larger = graph(8000, 100, seed=1)
        with torch.no_grad():
            a.copy_(larger)  # keeps its place in memory
        assert_close(x @ a, x @ larger.to_dense(), torch.float32)
    assert "_find" in examined and sparse.report().taken == 1


def between(small, large):
    """A matrix [300, 300] with a number of entries between the two."""
    assert small < large - 1
    places = torch.randperm(300 * 300, generator=torch.Generator().manual_seed(0))[: (small + large) // 2]
    return torch.zeros(300 * 300).index_fill(0, places, 1.0).view(300, 300).to_sparse()


def most(width, backward=False):
    return cost.most_left(torch.sparse_coo, torch.Size((300, 300)), width, 4, backward)


def test_what_is_left_depends_on_the_width_and_on_training():
    """A matrix whose products are left in one case may gain in another."""
    a, memory = between(most(1000), most(8)), Left()
    for _ in range(2):
        assert memory.leaves(a, torch.ones(300, 8)) and memory.leaves(a, torch.ones(8, 300), from_right=True)
        assert not memory.leaves(a, torch.ones(300, 1000))
        assert not memory.leaves(a, torch.ones(1000, 300), from_right=True)
        assert not memory.leaves(a, torch.ones(300, 8), short=True)
    a, wide = between(most(1000, True), most(8, True)), torch.ones(300, 1000, requires_grad=True)
    for _ in range(2):
        assert memory.leaves(a, torch.ones(300, 8)) and not memory.leaves(a, wide)
    low, high = sorted(most(8, backward) for backward in (False, True))
    a, memory, x = between(low, high), Left(), torch.ones(300, 8)
    ways = (x, x.clone().requires_grad_())
    found = [[memory.leaves(a, one) for one in (*ways, *ways)], [Left().leaves(a, one) for one in (*ways, *ways)]]
    assert found[0] == found[1] and sorted(found[0]) == [False, False, True, True]


def test_pauses_double_up_to_a_limit_and_are_even_and_odd_in_turn():
    """The matrix of the last product that is left is left for as many more, and one that is known is looked at."""
    two, x = [torch.ones(300, 300).to_sparse() for _ in range(2)], torch.ones(300, 64)
    memory, kind = Left(), MatrixReport.of(two[0])
    token = memory.products.know(two[1])
    for own, lengths in (
        (True, [2, 4, 10, 16, 34, 64, 130, 256, 514, 512, 514]),
        (False, [1, 2, 5, 8, 17, 32, 65, 128, 257, 256, 257]),
    ):
        for length in lengths:
            memory.pause(two[0].shape, kind)
            found = 0
            while not memory.leaves(two[1], x) and memory.leaves(two[0] if own else 1 * two[0], x):
                found += 1
            assert found == length
        memory.resume(two[0].shape)
        assert not memory.leaves(two[0], x)
    assert memory.products.too_brief == kind.left == 3084 and memory.products.too_small == 0
    memory.pause(two[0].shape, kind)
    assert not memory.leaves(two[1], x)
    memory.products.forget(token)
    assert memory.leaves(two[1], x)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
@pytest.mark.parametrize("backward", [False, True])
def test_the_number_of_entries_that_are_left_is_the_root_of_the_gain(layout, backward):
    for width in (1, 16, 64, 1000):
        for shape in (torch.Size((300, 300)), torch.Size((100, 40000))):
            most = cost.most_left(layout, shape, width, 4, backward)
            assert cost.gain(layout, most, shape, width, 4, backward) <= 0
            assert most == 2**30 or cost.gain(layout, most + 1, shape, width, 4, backward) > 0


def test_threads_of_autograd_are_told_where_there_are_any(monkeypatch):
    """What torch hands to them is copied at every node of every backward pass."""
    told = []

    def work():
        x = torch.randn(500, 64, requires_grad=True)
        with sparse.accelerated():
            for has_cuda, a in ((False, graph(9000, 500)), (True, graph(200, 500)), (True, graph(9000, 500))):
                monkeypatch.setattr(torch.cuda, "is_initialized", lambda has_cuda=has_cuda: has_cuda)
                (x.t() @ a).sum().backward()
                told.append(torch._C._is_key_in_tls(wrappers._KEY))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert told == [False, False, True] and sparse.report().taken == 2
