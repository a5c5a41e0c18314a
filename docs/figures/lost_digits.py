"""Where float32 loses digits in the two cancellations of the algebra, and that the library notices."""

import numpy as np
import torch
from style import DENSE, OURS, THIRD, axes

from mmssl_fast import RelationRows, SeenRows, gradient_norm

torch.manual_seed(0)
H, ITEMS = 64, 2000
left, right = axes(2)

# The penalty: rows g whose product with W is small because they nearly lie in the null space of W.
basis = torch.linalg.svd(torch.randn(H, ITEMS, dtype=torch.float64), full_matrices=False)
ratios = np.geomspace(1e-5, 1, 16)
by_gram, by_library = [], []
for ratio in ratios:
    singular = torch.ones(H, dtype=torch.float64)
    singular[H // 2 :] = ratio
    weight = (basis.U * singular) @ basis.Vh
    g = torch.randn(256, H // 2, dtype=torch.float64) @ basis.U[:, H // 2 :].T
    exact = (g @ weight).norm(dim=1)
    g32, w32 = g.float(), weight.float()
    gram = ((g32 @ (w32 @ w32.T)) * g32).sum(dim=1).clamp_min(0).sqrt()
    by_gram.append(((gram - exact).abs() / exact).median())
    by_library.append(((gradient_norm(g32, w32) - exact).abs() / exact).median())
left.loglog(ratios, by_gram, color=DENSE, label="g (W Wᵀ) gᵀ in float32")
left.loglog(ratios, by_library, color=OURS, linestyle="--", label="gradient_norm")
left.set(xlabel="‖g W‖ / (‖g‖ ‖W‖)", ylabel="relative error", title="Length of the penalty's gradient", ylim=(1e-9, 2))
left.legend()

# Row lengths: two seen items carry nearly all of the row.
shares = np.geomspace(1e-8, 1, 16)
in_float32, in_float64, by_rows = [], [], []
v = torch.nn.functional.normalize(torch.randn(ITEMS, 16, dtype=torch.float64), dim=1)
u = torch.nn.functional.normalize(torch.randn(64, 16, dtype=torch.float64), dim=1)
seen = SeenRows(torch.arange(0, 130, 2), torch.tensor([0, 1] * 64, dtype=torch.int32))
for share in shares:
    items = v.clone()
    items[2:] *= share**0.5 / 30
    dots = u @ items.T
    dots[:, :2] = 0
    exact = dots.norm(dim=1)
    u32, v32 = u.float(), items.float()
    s = u32 @ v32[:2].T
    narrow = ((u32 @ (v32.T @ v32)) * u32).sum(1) - s.square().sum(1)
    in_float32.append(((narrow.clamp_min(0).sqrt() - exact).abs() / exact).median())
    wide_u, wide_v = u32.double(), v32.double()
    wide = ((wide_u @ (wide_v.T @ wide_v)) * wide_u).sum(1) - (wide_u @ wide_v[:2].T).square().sum(1)
    in_float64.append(((wide.clamp_min(0).sqrt() - exact).abs() / exact).median())
    rows = RelationRows.generated(u32, v32, kind="dot", seen=seen)
    by_rows.append(((rows.row_norm() - exact).abs() / exact).median())
right.loglog(shares, in_float32, color=DENSE, label="Gram matrix in float32")
right.loglog(shares, in_float64, color=THIRD, linestyle=":", label="Gram matrix in float64")
right.loglog(shares, by_rows, color=OURS, linestyle="--", label="RelationRows.row_norm")
right.set(xlabel="share of the row that is unseen", title="Length of a row with seen items", ylim=(1e-9, 2))
right.legend()
