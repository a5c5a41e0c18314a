"""Arguments of other kinds, as somebody passes them who is new to the drop-in: one line says what to do."""

from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from dropin_clients import released

from mmssl_fast.dropin import hkuds, lightgcn_pytorch, mmrec, pyg, recbole, sparse

DENSE, ARRAY = torch.ones(4, 3), np.ones((2, 2))
TRAINER = SimpleNamespace(model=0, optimizer=0, evaluate=0, eval_collector=0)


class NoMethods:
    pass


CALLS = {
    "a number": (lambda: hkuds.accelerate(42), "pass the class Trainer or the module that defines it, got int"),
    "an object": (lambda: hkuds.accelerate(TRAINER), "the class Trainer or the module .*, got SimpleNamespace"),
    "a module without it": (lambda: hkuds.accelerate(ModuleType("mine")), "the class Trainer .*, got module mine"),
    "a class of no methods": (lambda: hkuds.accelerate(NoMethods), "NoMethods defines no methods"),
    "a text": (lambda: hkuds.accelerate(released.Trainer, "bpr_loss"), r"a list of names, got 'bpr_loss'; pass \['bpr"),
    "an unknown part": (lambda: hkuds.accelerate(released.Trainer, ["bpr"]), "parts must be among .*, got bpr$"),
    "another precision": (
        lambda: hkuds.accelerate(released.Trainer, gemm=torch.float16),
        "gemm must be None or torch.bfloat16, got torch.float16",
    ),
    "no lengths": (
        lambda: hkuds.evaluate(DENSE, DENSE, [0], {0: [1]}, {0: [2]}, []),
        r"evaluate: ks must .*, got \[\]",
    ),
    "dense interactions": (lambda: hkuds.noisy_rows(ARRAY, 1, 0.1), "a SciPy sparse matrix, got ndarray"),
    "a model for MMRec's Trainer": (
        lambda: mmrec.accelerate(torch.nn.Linear(2, 2), None, None),
        "trainer must be MMRec's Trainer, got Linear, which has no attribute 'model'",
    ),
    "no loader of MMRec": (lambda: mmrec.accelerate(TRAINER, None, None), "train_data must be .*, got NoneType"),
    "no Trainer of RecBole": (lambda: recbole.accelerate(None, []), "trainer must be RecBole's Trainer, got NoneType"),
    "modules in another order": (
        lambda: lightgcn_pytorch.accelerate(torch.nn.Linear(2, 2), ModuleType("Procedure"), None, None),
        "procedure must be the module Procedure, got Linear",
    ),
    "no module of PyG": (lambda: pyg.accelerate(None), "model must be a torch.nn.Module, got NoneType"),
    "a dense matrix": (lambda: sparse.Adjacency.from_torch(DENSE), "a sparse COO, CSR or CSC tensor is needed, got"),
    "an array": (lambda: sparse.Adjacency.from_torch(ARRAY), "a sparse COO, CSR or CSC tensor is needed, got ndarray"),
    "an array for SciPy": (lambda: sparse.Adjacency.from_scipy(ARRAY), "a SciPy sparse matrix is needed, got ndarray"),
    "nothing to prepare": (
        lambda: sparse.prepared(DENSE),
        "a sparse COO, CSR or CSC tensor is needed, got torch.strided",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_one_line_says_what_is_wrong(name):
    call, message = CALLS[name]
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
