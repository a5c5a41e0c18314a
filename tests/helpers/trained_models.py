"""Models after one epoch, for tests of what they compute for other users and items."""

import torch
from mmssl_trainer import configure, load, save
from mmssl_trainer.embeddings import on_cpu
from mmssl_trainer.runs.saved_model import Model
from mmssl_trainer.systems import create
from mmssl_trainer.training import loop

USER_TABLES = ("users", "user_embedding", "preferences.")


def trained(data, system, **values):
    """(System, Model) after one epoch. All values that only training gives a user are 0."""
    settings = {"model.system": system, "model.dim": 8, "model.heads": 2, "train.epochs": 1, "train.batch": 300}
    config = configure(settings | {"train.threads": 1} | {name.replace("__", "."): one for name, one in values.items()})
    instance = create(system)
    fit = loop.fit(data, config, system=instance)
    fit.parameters = {
        name: torch.zeros_like(tensor) if name.startswith(USER_TABLES) else tensor
        for name, tensor in fit.parameters.items()
    }
    instance.load_parameters(fit.parameters)
    if system == "mmssl":  # otherwise those of the initial projections
        instance.model.refresh_neighbours()
        fit.parameters = {name: tensor.clone() for name, tensor in instance.parameters().items()}
    fit.users, fit.items = map(on_cpu, instance.embeddings())
    return instance, Model.of(fit, data, config)


def written(model, path):
    save(model, path / "model.safetensors")
    return load(path / "model.safetensors")


def histories(data, users):
    return [data.original_items(data.train[[user]].indices).tolist() for user in users]
