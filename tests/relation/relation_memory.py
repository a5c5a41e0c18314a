"""Run as a program: one adversarial step at B far above H, and the peak of resident memory it added, in bytes.

``python relation_memory.py MODE TAU``: mode "lazy" keeps RelationRows, "dense" calls .dense() on the interpolated rows.
Prints the growth of VmHWM over the step, which counts every allocation of the process, C++ ones too. Linux only.
"""

import sys
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from mmssl_fast.graph import InteractionGraph
from mmssl_fast.relation import RelationRows

N_ROWS, N_ITEMS, D, H = 4096, 12288, 8, 32


def resident(field):
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) * 1024


def step(mode, tau, n_rows=N_ROWS, n_items=N_ITEMS):
    torch.manual_seed(0)
    pairs = torch.randint(0, n_rows * n_items, (10 * n_rows,)).unique()
    graph = InteractionGraph.from_pairs(pairs // n_items, pairs % n_items, n_rows, n_items)
    users = torch.arange(n_rows)
    seen = graph.rows(users)
    first = nn.Linear(n_items, H)
    first.weight = nn.Parameter(first.weight.detach().t().contiguous().t())
    d = nn.Sequential(first, nn.LeakyReLU(0.2), nn.BatchNorm1d(H), nn.Linear(H, 1), nn.Sigmoid())
    hu, hi, u, v = (torch.randn(n, D, requires_grad=True) for n in (n_rows, n_items) * 2)
    real = F.normalize(RelationRows.gumbel(graph, users, tau, 1) + 3.0 * RelationRows.generated(hu, hi), dim=1)
    fake = RelationRows.generated(u, v, "cosine", seen, row_l2=True)
    alpha = torch.rand(n_rows, 1)
    x = (alpha * real.detach() + (1 - alpha) * fake.detach()).requires_grad_()
    if mode == "dense":
        x = x.dense().requires_grad_()
    out = d(x)
    (g,) = torch.autograd.grad(out, x, torch.ones_like(out), create_graph=True)
    ((g.norm(2, dim=1) - 1) ** 2).mean().backward()
    (d(fake).mean() - d(real).mean()).backward()
    fake.topk(5)


if __name__ == "__main__":
    mode, tau = sys.argv[1], float(sys.argv[2])
    step(mode, tau, 64, 512)  # libraries, thread pools and first-use buffers
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts from here
    before = resident("VmRSS")
    step(mode, tau)
    print(resident("VmHWM") - before)
