"""Faster products of a sparse adjacency and a dense matrix, for any LightGCN-type model without changing it::

    with mmssl_fast.dropin.sparse.accelerated():
        train(model)
    print(mmssl_fast.dropin.sparse.report())

``mmssl_fast.dropin.sparse.enable()`` does the same for the rest of the program, and `mm` replaces a single
``torch.sparse.mm``. torch computes the products that are not supported, with one warning for each reason. It also
computes products that would be slower here, without a warning. The report counts them, and
`mmssl_fast.dropin.sparse.cost` documents the rule.
"""

from .adjacency import Adjacency
from .context import accelerated, disable, enable
from .decide import mm, prepared, report, reset_report

__all__ = ["Adjacency", "accelerated", "disable", "enable", "mm", "prepared", "report", "reset_report"]
