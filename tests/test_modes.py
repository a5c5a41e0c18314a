"""What is kept between calls is right whichever mode of torch it was first needed in, and never holds a fake tensor."""

import copy
import io
import multiprocessing
import pickle
import threading

import pytest
import scipy.sparse as sp
import torch
from nn_catalogue import catalogue
from threads_at_once import in_threads
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from mmssl_fast import InteractionGraph, RelationRows, lightgcn, precision
from mmssl_fast.nn import MMSSL, Encoded
from mmssl_fast.precision import rounded

MATRIX = sp.random(12, 9, density=0.3, format="csr", random_state=0)
USERS, ITEMS = (torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (12, 9))


def graph():
    return InteractionGraph.from_scipy(MATRIX)


def gradients(graph, norm="both"):
    """What training gives: the output and the gradients of both sides."""
    users, items = (x.to(graph.device).clone().requires_grad_() for x in (USERS, ITEMS))
    out = torch.cat(lightgcn(graph, users, items, 2, norm))
    out.square().sum().backward()
    return out.detach(), users.grad, items.grad


def exported(graph):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.graph = graph

        def forward(self, users, items):
            return lightgcn(self.graph, users, items, 2, "both")

    torch.export.export(Model(), (USERS, ITEMS))


def compiled(graph):
    torch.compile(lambda u, v: lightgcn(graph, u, v, 2, "both"), fullgraph=True, backend="aot_eager")(USERS, ITEMS)


def traced(graph):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        lightgcn(graph, mode.from_tensor(USERS), mode.from_tensor(ITEMS), 2, "both")


def under(context):
    def first(graph):
        with context():
            lightgcn(graph, USERS, ITEMS, 2, "both")

    return first


def differentiated(graph):
    torch.func.grad(lambda u: lightgcn(graph, u, ITEMS, 2, "both")[0].sum())(USERS)
    torch.vmap(lambda u: lightgcn(graph, u, ITEMS, 2, "both")[0])(USERS[None])
    torch.func.jvp(lambda u: lightgcn(graph, u, ITEMS, 2, "both")[0], (USERS,), (USERS,))


FIRST_USES = {
    "inference_mode": under(torch.inference_mode),
    "no_grad": under(torch.no_grad),
    "autocast": under(lambda: torch.autocast("cpu", torch.bfloat16)),
    "FakeTensorMode": traced,
    "export": exported,
    "compile": compiled,
    "torch.func": differentiated,
}


def tensors_of(x, met=None):
    """Every tensor that an object holds, however deep."""
    met = set() if met is None else met
    if id(x) in met or isinstance(x, type):
        return
    met.add(id(x))
    if isinstance(x, torch.Tensor):
        yield x
    parts = x.values() if isinstance(x, dict) else x if isinstance(x, list | tuple | set) else ()
    for part in (*parts, *getattr(x, "__dict__", {}).values()):
        yield from tensors_of(part, met)


def assert_ordinary(x):
    for tensor in tensors_of(x):
        assert not isinstance(tensor, FakeTensor) and not tensor.is_inference()
        assert not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


@pytest.mark.parametrize("first", FIRST_USES)
def test_a_graph_trains_after_its_first_use_in_a_mode(first):
    used = graph()
    FIRST_USES[first](used)
    assert_ordinary(used)
    for a, b in zip(gradients(used), gradients(graph()), strict=True):
        assert type(a) is torch.Tensor and torch.equal(a, b)


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad, FakeTensorMode])
def test_a_graph_can_be_made_in_a_mode(context):
    with context():
        made = graph()
        pairs = InteractionGraph.from_pairs([0, 1], [0, 1], 2, 2, [1.0, 2.0])
    assert_ordinary((made, pairs))
    assert all(torch.equal(a, b) for a, b in zip(gradients(made), gradients(graph()), strict=True))


def test_a_graph_of_inference_tensors_trains():
    source = graph()
    with torch.inference_mode():
        arrays = [x.clone() for x in (source.crow, source.col, source.t_crow, source.t_col)]
    made = InteractionGraph(*arrays, n_users=12, n_items=9)
    assert all(torch.equal(a, b) for a, b in zip(gradients(made), gradients(source), strict=True))


def test_arrays_without_values_are_refused():
    source = graph()
    arrays = [x.to("meta") for x in (source.crow, source.col, source.t_crow, source.t_col)]
    with pytest.raises(ValueError, match="InteractionGraph: crow is on the meta device and has no values"):
        InteractionGraph(*arrays, n_users=12, n_items=9)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g)), copy.copy])
def test_a_copied_graph_is_the_same(copied):
    source = graph()
    with torch.inference_mode():
        other = copied(source)
        lightgcn(other, USERS, ITEMS, 2, "both")
    other = copied(source)
    assert all(torch.equal(a, b) for a, b in zip(gradients(other), gradients(source), strict=True))


def test_a_graph_on_meta_has_shapes():
    moved = graph().to("meta")
    users, items = lightgcn(moved, USERS.to("meta"), ITEMS.to("meta"), 2, "both")
    assert users.is_meta and users.shape == (12, 4) and items.shape == (9, 4)


def test_two_threads_use_a_new_graph_at_once():
    expected, source, found = gradients(graph()), graph(), []
    barrier = threading.Barrier(4)

    def work():
        barrier.wait()
        found.append(gradients(source))

    in_threads(work)
    assert len(found) == 4
    assert all(torch.equal(a, b) for one in found for a, b in zip(one, expected, strict=True))


def _in_a_child(source, queue):
    queue.put([x.tolist() for x in gradients(source)])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_forked_worker_uses_its_parents_graph():
    source = graph()
    with torch.inference_mode():
        lightgcn(source, USERS, ITEMS, 2, "both")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_a_child, args=(source, queue))
    child.start()
    found = queue.get(timeout=120)
    child.join()
    assert found == [x.tolist() for x in gradients(graph())]


# --- rounded weights --------------------------------------------------------------------------------------------------
def test_a_weight_rounded_in_inference_mode_is_not_kept():
    weight = torch.randn(8, 6)
    with torch.inference_mode():
        assert torch.equal(rounded(weight, torch.bfloat16), weight.bfloat16())
    found = rounded(weight, torch.bfloat16)
    assert not found.is_inference() and rounded(weight, torch.bfloat16) is found
    with torch.inference_mode():
        assert rounded(weight, torch.bfloat16) is found
    with torch.no_grad():
        weight.mul_(2)
    assert torch.equal(rounded(weight, torch.bfloat16), weight.bfloat16())


def test_a_weight_rounded_while_traced_is_not_kept():
    before = precision._cached
    with FakeTensorMode() as mode:
        rounded(mode.from_tensor(torch.randn(8, 6)), torch.bfloat16)
    assert precision._cached is before


def test_threads_get_the_rounding_of_their_own_weight():
    weights, wrong = [torch.full((64, 64), float(k + 1)) for k in range(4)], []

    def work(weight):
        for _ in range(300):
            if not bool((rounded(weight, torch.bfloat16) == weight[0, 0]).all()):
                wrong.append(weight[0, 0])

    in_threads(work, [(weight,) for weight in weights])
    assert not wrong


# --- relation rows ----------------------------------------------------------------------------------------------------
def relation_rows(tau):
    u, v = USERS.clone().requires_grad_(), ITEMS.clone().requires_grad_()
    seen = graph().rows(torch.arange(12))
    gumbel = RelationRows.gumbel(graph(), torch.arange(12), tau, 1)
    return gumbel, u, v, seen


@pytest.mark.parametrize("tau", [0.05, 0.9])  # order statistics, and dense tiles
def test_gumbel_rows_drawn_in_inference_mode_train_afterwards(tau):
    def trained(first):
        gumbel, u, v, seen = relation_rows(tau)
        if first:
            with torch.inference_mode():
                gumbel.linear(torch.ones(3, 9))
                gumbel.row_norm()
                gumbel.topk(2)
        rows = (gumbel + 0.5 * RelationRows.generated(u, v, "cosine", seen)).normalize()
        weight = torch.linspace(-1, 1, 27).view(3, 9).requires_grad_()
        rows.linear(weight).square().sum().backward()
        return u.grad, v.grad, weight.grad

    for a, b in zip(trained(True), trained(False), strict=True):
        torch.testing.assert_close(a, b)


def test_rows_of_inference_tensors_see_writes():
    """They have no version that would tell of a write, so nothing of theirs is kept."""
    with torch.inference_mode():
        u, v, weight = USERS.clone(), ITEMS.clone(), torch.ones(3, 9)
        rows, dense = RelationRows.generated(u, v, "dot"), RelationRows.from_dense(torch.ones(12, 9))
        for some in (rows, dense):
            for _ in range(2):
                u.mul_(2)
                weight.mul_(3)
                torch.testing.assert_close(some.linear(weight), some.dense() @ weight.mT)
                torch.testing.assert_close(
                    some.to(torch.float64).linear(weight.double()), some.dense().double() @ weight.double().mT
                )


# --- MMSSL ------------------------------------------------------------------------------------------------------------
def model(**settings):
    torch.manual_seed(0)
    source, features = catalogue(2)
    return MMSSL(source, features, dim=8, dropout=0.0, neighbours=3, **settings)


def trained(encoder):
    encoder.zero_grad()
    out = encoder()
    (out.users.square().sum() + out.view_users[0].sum()).backward()
    return [out.users.detach(), *(p.grad.clone() for p in encoder.parameters())]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("settings", [{}, {"feature_dtype": torch.float16}, {"final_softmax": False}])
def test_mmssl_exports_and_stays_as_it_was(settings, strict):
    encoder = model(**settings)
    program = torch.export.export(encoder, (), strict=strict)
    assert_ordinary(encoder)
    out = program.module()()
    assert isinstance(out, Encoded) and torch.equal(out.users, encoder().users)
    for a, b in zip(trained(program.module()), trained(model(**settings)), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(trained(encoder), trained(model(**settings)), strict=True):
        assert torch.equal(a, b)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    assert torch.equal(torch.export.load(buffer).module()().items, out.items)


def fake_forward(encoder):
    with FakeTensorMode(allow_non_fake_inputs=True):
        encoder(views=True)


def functional(encoder):
    parameters = dict(encoder.named_parameters())
    torch.func.grad(lambda p: torch.func.functional_call(encoder, p, ()).users.sum())(parameters)


MODEL_USES = {
    "inference_mode": lambda m: torch.inference_mode()(m)(),
    "export": lambda m: torch.export.export(m, ()),
    "compile": lambda m: torch.compile(m, fullgraph=True, backend="aot_eager")(),
    "FakeTensorMode": fake_forward,
    "torch.func": functional,
}
CHANGES = {
    "as it is": lambda m: m,
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "load_state_dict": lambda m: m.load_state_dict(m.state_dict()) and m,
    "to and back": lambda m: m.double().float().to("cpu"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("first", MODEL_USES)
def test_mmssl_trains_after_its_first_use_in_a_mode(first, change):
    encoder = CHANGES[change](model())
    MODEL_USES[first](encoder)
    assert_ordinary(encoder)
    for a, b in zip(trained(encoder), trained(model()), strict=True):
        assert type(a) is torch.Tensor and torch.equal(a, b)


def test_mmssl_sees_new_semantic_neighbours():
    encoder, other = model(), model()
    encoder()
    encoder.semantic_neighbours.copy_(encoder.semantic_neighbours.flip(1))
    other.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(encoder().view_users[0], other().view_users[0])
    assert not torch.equal(encoder().view_users[0], model()().view_users[0])


def test_mmssl_on_meta_keeps_its_graph():
    encoder = model()
    state = encoder.state_dict()
    features = [getattr(encoder, f"features_{m}") for m in range(2)]
    encoder.to("meta")
    assert encoder().users.is_meta
    encoder.to_empty(device="cpu")
    encoder.load_state_dict(state)
    for m, kept in enumerate(features):
        getattr(encoder, f"features_{m}").copy_(kept)
    for a, b in zip(trained(encoder), trained(model()), strict=True):
        assert torch.equal(a, b)


def test_mmssl_in_double_precision():
    encoder = model().double()
    expected = model()
    torch.testing.assert_close(encoder().users.float(), expected().users)
    assert encoder().users.dtype == torch.float64


def test_an_encoded_is_a_pytree():
    leaves, spec = torch.utils._pytree.tree_flatten(model()())
    assert len(leaves) == 10 and all(isinstance(x, torch.Tensor) for x in leaves)
    assert isinstance(torch.utils._pytree.tree_unflatten(leaves, spec), Encoded)
