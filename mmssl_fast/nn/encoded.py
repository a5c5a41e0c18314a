"""The output of the encoder of MMSSL."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Encoded:
    """The output of `MMSSL.forward`. The lists have one tensor per modality, in the order of the features.

    Attributes:
        users, items: final embeddings h_u [U, d] and h_i [I, d] of equation 12. The score of the pair (u, i) is
            ``users[u] @ items[i]``.
        modal_users, modal_items: modality features f_u^m [U, d] and f_i^m [I, d] of equation 2, from which equation 3
            generates relation rows.
        view_users, view_items: modality-aware embeddings e_u^m [U, d] and e_i^m [I, d] of equation 8. Empty if they
            were neither requested nor needed.

    Example:
        >>> from mmssl_fast.nn import MMSSL
        >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3)
        >>> encoded = MMSSL(graph, {"image": torch.randn(3, 5)}, dim=8, neighbours=1)()
        >>> scores = encoded.users @ encoded.items.T
        >>> scores.shape, len(encoded.view_users)
        (torch.Size([2, 3]), 1)
    """

    users: Tensor
    items: Tensor
    modal_users: list[Tensor]
    modal_items: list[Tensor]
    view_users: list[Tensor]
    view_items: list[Tensor]

    def detach(self) -> Encoded:
        """The same values, detached from the autograd graph."""
        values = (getattr(self, field.name) for field in fields(self))
        detached: list[Any] = [[x.detach() for x in v] if isinstance(v, list) else v.detach() for v in values]
        return Encoded(*detached)


# Makes Encoded a pytree node for torch.export and torch.func.
torch.export.register_dataclass(Encoded, serialized_type_name="mmssl_fast.nn.Encoded")
