"""How steep a Gumbel-softmax row is at small temperatures, and how many items order statistics draw for it."""

import numpy as np
import scipy.sparse as sp
import torch
from style import DENSE, OURS, THIRD, axes

from mmssl_fast import InteractionGraph, gumbel_softmax
from mmssl_fast.ops.gumbel_method import expected_draws
from mmssl_fast.ops.gumbel_rows import gumbel_order_statistics

ITEMS, ROWS = 20_000, 64
graph = InteractionGraph.from_scipy(sp.random(ROWS, ITEMS, density=5 / ITEMS, format="csr", random_state=0))
users = torch.arange(ROWS)

left, right = axes(2)
for tau, color, line in ((0.085, OURS, "-"), (0.2, THIRD, "--"), (0.5, DENSE, ":")):
    rows = gumbel_softmax(graph, users, tau=tau, seed=0, method="dense")
    ranked = rows.sort(dim=1, descending=True).values.mean(dim=0)
    left.loglog(np.arange(1, ITEMS + 1), ranked.clamp_min(1e-12), color=color, linestyle=line, label=f"τ = {tau}")
left.set(
    xlabel="position of the item in its row, sorted by weight",
    ylabel="mean weight",
    title=f"A row of {ITEMS} items",
    ylim=(1e-12, 2),
)
left.legend()

temperatures = np.linspace(0.05, 0.33, 15)
drawn = []
for tau in temperatures:
    crow, _, _ = gumbel_order_statistics(graph, users, tau=float(tau), seed=1)
    drawn.append((int(crow[-1]) - graph.nnz) / ROWS)
smooth = np.linspace(0.05, 0.45, 200)
right.semilogy(smooth, [expected_draws(float(tau)) for tau in smooth], color=OURS, label="estimate behind the choice")
right.semilogy(temperatures, drawn, "o", color=DENSE, markersize=4, label=f"drawn, mean of {ROWS} rows")
right.axhline(ITEMS / 32, color=THIRD, linestyle="--", label="dense evaluation above")
right.set(xlabel="temperature τ", ylabel="items drawn in a row", title="Order statistics", ylim=(1, 1e5))
right.legend()
