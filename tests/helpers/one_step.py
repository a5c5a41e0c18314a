"""A small catalogue with a model and a discriminator, one training step of them, and a watcher for waits."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmssl_fast.graph import InteractionGraph
from mmssl_fast.nn import MMSSL, Discriminator

# What a GPU can only answer when it has come to that point: the host would wait.
WAITS = {
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::repeat_interleave",
    "aten::bincount",
}


class NoWaiting(TorchDispatchMode):
    """Raises at an operation for which the host would wait for a GPU; looks into the ops that are written in Python."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name in WAITS and not (name == "aten::repeat_interleave" and (kwargs or {}).get("output_size")):
            raise AssertionError(f"{name} waits for the device")
        if name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        ):
            raise AssertionError(f"{name} by a mask waits for the device")
        written_in_python = torch._library.custom_ops.OPDEFS.get(name)
        if written_in_python is not None:
            with self:
                return written_in_python._init_fn(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def parts(seed=0):
    random = torch.Generator().manual_seed(seed)
    users, items = torch.randint(60, (900,), generator=random), torch.randint(400, (900,), generator=random)
    graph = InteractionGraph.from_pairs(users, items, 60, 400)
    features = {"visual": torch.randn(400, 12, generator=random), "acoustic": torch.randn(400, 9, generator=random)}
    torch.manual_seed(1)
    model = MMSSL(graph, features, dim=16, heads=2, neighbours=5, dropout=0.0)
    discriminator = Discriminator(400, hidden=(32, 16), dropout=(0.0, 0.0))
    model()  # makes the graphs of semantic neighbours, once until they are refreshed
    return graph, model, discriminator


def learner(model, objective, discriminator_optimiser, model_optimiser):
    """step(users, positives, negatives, offset) → every loss term by name: D's step, then the generator's."""

    def learn(users, positives, negatives, offset):
        encoded = model()
        of_d = objective.discriminator_terms(encoded, users, offset)
        discriminator_optimiser.zero_grad()
        of_d["total"].backward()
        discriminator_optimiser.step()
        of_g = objective.generator_terms(encoded, users, positives, negatives)
        model_optimiser.zero_grad()
        of_g["total"].backward()
        model_optimiser.step()
        return {f"D {name}": value for name, value in of_d.items()} | of_g

    return learn
