"""PureSVD (Cremonesi et al., RecSys 2010) of the degree-normalised interactions, with a power of the spectrum and
optional features. Nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import svds
from torch import Tensor

from mmssl_fast import InteractionGraph, propagate
from mmssl_fast.ops.unit_rows import unit_rows

from ..data import Dataset
from ..errors import InputError
from .features import features_of, present_of
from .inference import Inference, Known, Tensors, bag, blocks, starting_with
from .untrained import UntrainedSystem

if TYPE_CHECKING:
    from ..config.sections import Config

NOISE = 1e-12  # entries of a (unit-length) singular vector below this are rounding errors of the solver
BLOCK = 4096  # users processed at once
FLAT = 1e-6  # a spread of scores below this, relative to the vector lengths, is rounding error


class SVDInference(Inference):
    """The embedding of a user is exactly that of training: P = Â Q Σ⁻¹, for one more row of Â, with weights of 1. The
    degrees of the items do not change. The content of an item is [f_i/‖f_i‖ of every modality], as in SVDSystem for a
    missing one."""

    no_users = ""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.no_items = "" if config.svd.content else "svd.content is 0, so it does not use features"

    def weights(self, parameters: Tensors) -> Tensors:
        return starting_with(parameters, "unit_means")

    def content(self, weights: Tensors, features: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        means = weights["unit_means"].split([x.shape[1] for x in features])
        parts = zip(features, present, means, strict=True)
        filled = torch.cat([torch.where(there > 0, unit_rows(x), mean) for x, there, mean in parts], 1)
        return filled * torch.cat(list(present), 1).amax(1, keepdim=True)

    def cold(self, weights: Tensors, content: Tensor) -> Tensor:
        return torch.cat([content.new_zeros(len(content), self.config.model.dim), content], 1)

    def by_modality(self, weights: Tensors, content: Tensor, widths: Sequence[int]) -> list[Tensor]:
        return [self.cold(weights, part) for part in blocks(content, widths)]

    def tables(self, known: Known) -> Tensors:
        settings, values = self.config.svd, known.parameters["values"].double()
        right, features = known.items[:, : len(values)], known.items[:, len(values) :]
        degrees = known.parameters.get("item_weights", known.graph.item_degree.clamp(min=1).double())
        by_item = degrees**-settings.item_exponent
        power = (values / values.max()) ** (2 * settings.power + 1)
        inverse = torch.where(values > NOISE * values.max(), 1 / values, 0)
        tables = {"sums": by_item[:, None] * right.double() * (inverse * power)}
        if settings.content:
            tables["widths"] = known.parameters["widths"]
            parts = features.split(tables["widths"].tolist(), 1)
            present = known.parameters.get("present", torch.ones(len(features), len(parts)))
            masked = [part * present[:, m, None] for m, part in enumerate(parts)]
            tables["features"] = torch.cat(masked, 1)
            there = ((str(m), part[present[:, m] > 0]) for m, part in enumerate(parts))
            for name, items in (("right", right), *there):
                tables[f"covariance.{name}"], tables[f"largest.{name}"] = _spread(items)
        return tables

    def users(self, tables: Tensors, crow: Tensor, col: Tensor) -> Tensor:
        settings, degree = self.config.svd, crow.diff().clamp(min=1)[:, None]
        users = bag(tables["sums"], crow, col) * degree.double() ** -settings.user_exponent
        users = torch.where(users.abs() < NOISE, 0, users)
        largest = users.abs().amax(1, keepdim=True)
        users = (users / torch.where(largest > 0, largest, 1)).float()
        if not settings.content:
            return users
        profiles = bag(tables["features"], crow, col) / degree
        parts = [_scaled(users, tables["covariance.right"], tables["largest.right"])]
        for m, profile in enumerate(profiles.split(tables["widths"].tolist(), 1)):
            parts.append(settings.content * _scaled(profile, tables[f"covariance.{m}"], tables[f"largest.{m}"]))
        return torch.cat(parts, 1)


class SVDSystem(UntrainedSystem):
    """score = P Σ^(2p+1) Qᵀ up to a factor per user, where P Σ Qᵀ is the best rank-d approximation of
    Â = D_u^−a A D_i^−b.

    At full rank this equals (Â Âᵀ)^p Â: the total weight of all walks of 2p + 1 steps from the user to the item. d
    (model.dim) keeps the d largest singular values. a = svd.user_exponent, b = svd.item_exponent, p = svd.power. p = 0
    is PureSVD of the normalised matrix. b < ½ favours popular items, more so with a larger p. Not in the MMSSL paper.

    If the interactions have weights, these are the entries of A, degrees are their sums, and means over the user's
    items are weighted.

    With svd.content = w > 0, every modality adds w times its own score: the mean cosine similarity of the item's
    features and those of the user's items. Each score is first divided by its standard deviation over the items, per
    user. If a user's scores do not vary in one of them, that part is 0.

    An item of which a modality is missing is left out of the profiles of its users, and its own features are the mean
    of the other unit rows, so that it gets the mean of the score of the modality. As a cold item without any features,
    it is 0.
    """

    inference = SVDInference
    uses_weights = True

    def build(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        rank, settings = config.model.dim, config.svd
        most = min(graph.n_users, graph.n_items) - 1
        if rank > most:
            heads = config.model.heads
            advice = f"set model.dim to {most - most % heads} or less, a multiple of model.heads = {heads}"
            if most < heads:
                few = "there must be at least two of each"
                advice = f"set model.dim to {most} and model.heads to 1" if most else few
            raise InputError(
                f"{dataset.name}: --system svd with model.dim = {rank} and {graph.n_users} users, {graph.n_items} "
                f"items: {advice}"
            )
        matrix = dataset.weighted.astype(np.float64)
        degrees = [np.where(total > 0, total, 1.0) for total in (matrix.sum(axis) for axis in (1, 0))]
        exponents = settings.user_exponent, settings.item_exponent
        scale = [sp.diags_array(side**-exponent) for side, exponent in zip(degrees, exponents, strict=True)]
        self.item_weights = None if dataset.weights is None else torch.from_numpy(degrees[1])
        left, values, right = svds(scale[0] @ matrix @ scale[1], rank, random_state=config.train.seed % 2**32)
        left, right = (np.where(np.abs(side) < NOISE, 0.0, side) for side in (left, right.T))
        users = left * (values / values.max()) ** (2 * settings.power + 1)
        # A factor per user does not change the ranking. Without it, users who have only small singular values would
        # underflow in float32.
        largest = np.abs(users).max(1, keepdims=True)
        users /= np.where(largest > 0, largest, 1.0)
        self.users = torch.from_numpy(users.astype(np.float32)).to(graph.device)
        self.items = torch.from_numpy(right.astype(np.float32)).to(graph.device)
        self.rank = self.items.shape[1]  # the columns before the features
        self.values = torch.from_numpy(values.copy())
        self.widths, self.means = torch.tensor([], dtype=torch.int64), torch.tensor([])
        self.present: Tensor | None = None  # [I, M] if a row is missing
        if settings.content:
            features = [unit_rows(raw.to(graph.device)) for raw in features_of(dataset, config)]
            self.widths = torch.tensor([x.shape[1] for x in features])
            present = torch.cat(present_of(dataset), 1).to(graph.device)
            self.present = None if present.all() else present
            profiles = _profiles(dataset, graph, degrees[0], features)
            known = [items[there] for items, there in zip(features, present.mT > 0, strict=True)]
            scaled = [settings.content * _by_spread(users, items) for users, items in zip(profiles, known, strict=True)]
            means = [items.double().mean(0).float() for items in known]
            self.means = torch.cat(means)
            filled = [
                torch.where(there[:, None], items, mean)
                for items, there, mean in zip(features, present.mT > 0, means, strict=True)
            ]
            self.users = torch.cat([_by_spread(self.users, self.items), *scaled], 1)
            self.items = torch.cat([self.items, *filled], 1)

    def parameters(self) -> dict[str, Tensor]:
        """What embedding new users and items needs besides the items: the singular values, the widths of the
        modalities and the means of their unit rows, which items have features, and the sum of the weights of every
        item."""
        optional = {"present": self.present, "item_weights": self.item_weights}
        there = {name: tensor for name, tensor in optional.items() if tensor is not None}
        return {"values": self.values, "widths": self.widths, "unit_means": self.means, **there}

    def cold_items(self) -> Tensor | None:
        """The features of the items, with 0 in place of the singular vectors; None without svd.content."""
        if self.rank == self.items.shape[1]:
            return None
        content = self.items[:, self.rank :]
        if self.present is not None:
            content = content * self.present.amax(1, keepdim=True)
        return torch.cat([torch.zeros_like(self.items[:, : self.rank]), content], 1)


def _profiles(
    dataset: Dataset, graph: InteractionGraph, degrees: np.ndarray, features: Sequence[Tensor]
) -> list[Tensor]:
    """The weighted mean of the features of the user's items, [U, d_m] of each. degrees: sum of weights, float64 [U]."""
    if dataset.weights is not None:
        graph = InteractionGraph.from_scipy(dataset.weighted, weights=True).to(graph.device)
    counts = torch.from_numpy(degrees).to(graph.device, torch.float32)[:, None]
    return [propagate(graph, items, "users", norm="none") / counts for items in features]


def _by_spread(users: Tensor, items: Tensor) -> Tensor:
    """users [U, d], each row divided by the standard deviation of its scores over the items [I, d]."""
    return _scaled(users, *_spread(items))


def _spread(items: Tensor) -> tuple[Tensor, Tensor]:
    """(covariance C [d, d] of the items, largest length of an item)."""
    centred = items.double() - items.double().mean(0)
    return centred.mT @ centred / len(items), items.norm(dim=1).amax()


def _scaled(users: Tensor, covariance: Tensor, largest: Tensor) -> Tensor:
    """The variance of the scores of a user is uᵀ C u, so that no [U, I] matrix is formed."""
    blocks = []
    for block in users.split(BLOCK):
        block = block.double()
        spread = ((block @ covariance) * block).sum(1, keepdim=True).clamp(min=0).sqrt()
        threshold = FLAT * block.norm(dim=1, keepdim=True) * largest
        blocks.append(torch.where(spread > threshold, block / spread, 0.0).to(users.dtype))
    return torch.cat(blocks)
