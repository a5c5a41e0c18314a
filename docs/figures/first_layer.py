"""Operations and memory of the discriminator's first layer, dense and from parts of the rows. Counted, not timed."""

import numpy as np
from style import DENSE, OURS, axes

B, D, H, SEEN = 1024, 64, 512, 8  # users of a batch, width of the features, hidden width, seen items of a user
items = np.geomspace(1e3, 1e6, 50)

dense_operations = 2 * B * items * D + 2 * B * items * H  # the block u vT, then its product with W
parts_operations = 2 * items * D * H + 2 * B * D * H + 2 * B * SEEN * H  # W V, then u (W V)T less the seen columns
dense_bytes = 4 * B * items
parts_bytes = 4 * (D * H + B * H + B * SEEN) + 0 * items

left, right = axes(2)
left.loglog(items, dense_operations, color=DENSE, label="dense block")
left.loglog(items, parts_operations, color=OURS, linestyle="--", label="from the parts")
left.set(xlabel="items", ylabel="operations", title="Multiplications and additions")
left.legend()
right.loglog(items, dense_bytes / 2**20, color=DENSE, label="dense block")
right.loglog(items, parts_bytes / 2**20, color=OURS, linestyle="--", label="from the parts")
right.set(xlabel="items", ylabel="MiB", title="Memory besides W and its inputs")
