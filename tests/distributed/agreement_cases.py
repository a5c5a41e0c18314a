"""A difference or an error on one rank is an error on all ranks, with the number of that rank."""

from __future__ import annotations

import torch
from driver import Check
from mmssl_trainer import configure, load_data
from mmssl_trainer.errors import InputError
from mmssl_trainer.training import ranks as together
from mmssl_trainer.training import sharded_state


def message(call, kind=InputError) -> str:
    try:
        call()
    except kind as error:
        return str(error)
    return ""


def case_other_settings(ranks, check: Check):
    last = ranks.size - 1
    data = load_data()
    config = configure({"train.batch": 100 + (ranks.rank == last > 0), "train.threads": 1})
    said = message(lambda: together.refuse_differences(config, data))
    expected = f"train.batch is '101' on rank {last} and '100' on rank 0" if last else ""
    check.true(said.startswith(expected) and bool(said) == bool(last), said)
    together.refuse_differences(together.one_config(config), data)
    check.true(together.one_config(config).train.batch == 100, "the first rank's configuration holds for all")


def case_error_on_one_rank(ranks, check: Check):
    last = ranks.size - 1

    def work():
        if ranks.rank == last:
            raise InputError("x: cannot be written (No space left on device)")
        return ranks.rank

    said = message(lambda: sharded_state._agree(work))
    check.true(said == f"{f'rank {last}: ' if last else ''}x: cannot be written (No space left on device)", said)
    check.true(sharded_state._agree(lambda: ranks.rank) == list(range(ranks.size)), "all results in order")


def case_other_losses(ranks, check: Check):
    losses = torch.ones(3, dtype=torch.float64)
    together.refuse_different_results(losses, "the losses")
    losses[1] += 1e-15 * (ranks.rank == ranks.size - 1)
    said = message(lambda: together.refuse_different_results(losses, "the losses"), RuntimeError)
    check.true(said.startswith(f"the losses of rank {ranks.size - 1} differ") or ranks.size == 1, said)


def case_signal_and_decision(ranks, check: Check):
    last = ranks.size - 1
    check.true(together.agreed(15 if ranks.rank == last else None) == (15, False), "a signal of one")
    check.true(together.agreed(None, ranks.rank == 0) == (None, True), "a checkpoint that the first finds due")
    check.true(together.first_ranks(lambda: [ranks.rank]) == [0], "the first rank decides")
