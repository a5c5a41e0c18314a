#!/usr/bin/env bash
# torch_geometric 2.8.1 with torch 2.13.0: importing it replaces torch.select and torch.index_select for the process, and
# tensor types that look functions up in a dictionary, as torch's documentation shows, lose these two.
#
# One would guess that torch.select is torch.select. `import torch_geometric` puts Python functions in the place of both
# (for its HashTensor), which call torch's own. A class with __torch_function__ still receives torch's own function. So
# a dictionary {torch.select: handler} that was filled after the import is never asked for its key, and the call goes to
# the default, or fails; filled before the import, it works. The order of two import statements decides. What the
# handler sees first is dim(), which the new function calls to check the argument. torch.overrides no longer lists
# Tensor.select and Tensor.index_select among the functions that a tensor type can override.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 torch_geometric==2.8.1 numpy==2.4.6
cat > "$work/order.py" <<'PYTHON'
import sys

first = sys.argv[1]
if first == "torch_geometric first":
    import torch_geometric
import torch

HANDLED = {}


def implements(function):
    def register(handler):
        HANDLED[function] = handler
        return handler

    return register


class Diagonal:
    """The example of torch's page on extending torch, in short: n times the identity."""

    def __init__(self, n, value):
        self.n, self.value = n, value

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function not in HANDLED:
            return NotImplemented
        return HANDLED[function](*args, **(kwargs or {}))

    def dim(self):
        return 2


@implements(torch.select)
def select(matrix, dim, index):
    row = torch.zeros(matrix.n)
    row[index] = matrix.value
    return row


@implements(torch.index_select)
def index_select(matrix, dim, index):
    return torch.stack([select(matrix, dim, one) for one in index.tolist()])


if first == "torch_geometric last":
    import torch_geometric

matrix, results = Diagonal(3, 5.0), []
for call in (lambda: torch.select(matrix, 0, 1), lambda: torch.index_select(matrix, 0, torch.tensor([2]))):
    try:
        results.append(call().tolist())
    except TypeError as error:
        results.append("TypeError: " + str(error).split(":")[0])
listed = torch.overrides.get_testing_overrides()
print(f"{first}: torch.select is of {torch.select.__module__ or 'torch'};", *results, sep="\n    ")
print("    Tensor.select is listed as a function to override:", torch.Tensor.select in listed)
right = [[0.0, 5.0, 0.0], [[0.0, 0.0, 5.0]]]
if first == "torch_geometric first":
    assert torch.select.__module__ == torch.index_select.__module__ == "torch_geometric.hash_tensor"
    assert all(str(result).startswith("TypeError") for result in results)
    assert torch.Tensor.select not in listed
else:
    assert results == right
    assert (torch.Tensor.select in listed) == (first == "without torch_geometric")
PYTHON
for first in "without torch_geometric" "torch_geometric last" "torch_geometric first"; do
  "$work/venv/bin/python" -P "$work/order.py" "$first" 2>&1 | grep -v Warning
done
PYTHONWARNINGS=ignore "$work/venv/bin/python" -P -c 'import torch_geometric, torch; print(torch_geometric.__version__, torch.__version__)'
