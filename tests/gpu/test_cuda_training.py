"""Training on a GPU against training on the CPU, and what only a GPU can show. Skips where there is none."""

import pytest
import torch
import torch.nn.functional as F
from csr_blocks import normal
from mmssl_trainer.systems.step_graph import StepGraph
from one_step import learner, parts

from mmssl_fast import build_info
from mmssl_fast.graph import InteractionGraph
from mmssl_fast.nn import MMSSLObjective
from mmssl_fast.ops.cosine_topk import cosine_topk
from mmssl_fast.ops.gumbel_softmax import gumbel_softmax
from mmssl_fast.ops.sample_bpr import sample_bpr

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and build_info()["cuda"]), reason="needs a GPU and a build with CUDA"
)
STEPS = 20


def losses(device, recorded=False):
    """Every loss term of the first STEPS steps, [STEPS, terms] float64, without dropout."""
    graph, model, discriminator = parts()
    graph, model, discriminator = graph.to(device), model.to(device), discriminator.to(device)
    objective = MMSSLObjective(model, discriminator, seed=3, zeta=2.0)
    adam = torch.optim.Adam(discriminator.parameters(), lr=1e-3, capturable=recorded)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-3, capturable=recorded)

    learn = learner(model, objective, adam, adamw)
    model()
    run = StepGraph(learn) if recorded else learn
    found = []
    for step in range(STEPS):
        triples = sample_bpr(graph, 40, 5, step, "users")
        terms = run(*triples, torch.tensor(step, device=device))
        found.append(torch.stack([value.detach() for value in terms.values()]).double().cpu())
    return list(terms), torch.stack(found)


def test_first_steps_agree_with_the_cpu_term_by_term():
    names, expected = losses("cpu")
    _, actual = losses("cuda")
    for column, name in enumerate(names):
        torch.testing.assert_close(
            actual[:, column], expected[:, column], rtol=1e-4, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_recorded_steps_agree_with_eager_ones():
    _, expected = losses("cuda")
    _, actual = losses("cuda", recorded=True)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-7)


def test_step_does_not_synchronise():
    graph, model, discriminator = (part.to("cuda") for part in parts())
    objective = MMSSLObjective(model, discriminator, seed=torch.tensor(3, device="cuda"), zeta=2.0)
    step = torch.tensor(7, device="cuda")

    def run():
        users, pos, neg = sample_bpr(graph, 40, 5, step, "users")
        encoded = model()
        objective.discriminator_terms(encoded, users, step)["total"].backward()
        objective.generator_terms(encoded, users, pos, neg)["total"].backward()

    run()  # what is set up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_more_than_2_to_31_entries():
    """Rows whose entries are beyond 2³¹ are those of the same users asked for alone."""
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free GPU memory")
    users, items = 33_000, 66_000
    graph = InteractionGraph.from_pairs([0, users - 1], [items - 1, 5], users, items).to("cuda")
    last = torch.arange(users - 3, users, device="cuda")
    rows = gumbel_softmax(graph, torch.arange(users, device="cuda"), 0.5, 7, method="dense")
    assert torch.equal(rows[-3:], gumbel_softmax(graph, last, 0.5, 7, method="dense"))
    del rows
    u, v = normal(users, 16, dtype=torch.float32).cuda(), normal(items, 16, dtype=torch.float32, seed=1).cuda()
    values, _ = cosine_topk(u, v, 5)
    expected = (F.normalize(u[-3:].double()) @ F.normalize(v.double()).T).topk(5).values
    torch.testing.assert_close(values[-3:].double(), expected, rtol=1e-5, atol=1e-6)
