"""Products of a sparse adjacency and a dense matrix on `propagate`, for any LightGCN-type model without changing it::

    with mmssl_fast.dropin.sparse.accelerated():
        train(model)
    print(mmssl_fast.dropin.sparse.report())

``mmssl_fast.dropin.sparse.enable()`` does the same for the rest of the program, and `mm` takes the place of a single
``torch.sparse.mm``. Products that are not supported are left to torch, with one warning for each reason. Products that
would be slower are left to torch too, without a warning; the report counts them, and `mmssl_fast.dropin.sparse.cost`
has the rule.
"""

from .adjacency import Adjacency
from .context import accelerated, disable, enable
from .decide import mm, prepared, report, reset_report

__all__ = ["Adjacency", "accelerated", "disable", "enable", "mm", "prepared", "report", "reset_report"]
