"""A model of the shop with two modalities, and what its page needs."""

import csv

import numpy as np
from mmssl_trainer import fit, load_data, save
from mmssl_trainer.serving.catalogue import Catalogue
from mmssl_trainer.serving.page.content import Content, PageOptions
from shop import KINDS, items, png, write_shop
from training_cases import configured

N_ITEMS, COLD = 120, 60


def shop_data(folder):
    """The data with a modality for the kind and one for the price, so that cold items can be recommended."""
    write_shop(folder, cold=COLD)
    ids, _, kinds, prices = items(N_ITEMS)
    kind = np.array([[one == name for name in KINDS] for one in kinds], np.float32)
    price = np.array(prices, np.float32)[:, None] * np.array([[0.01, -0.02]], np.float32)
    for name, values in (("kind", kind + 0.1), ("price", price)):
        np.savez(folder / f"{name}_feat.npz", ids=np.array(ids), features=values)
    return load_data(folder)


def trained(data, system="svd", **values):
    if system == "svd":
        values.setdefault("svd__content", 0.5)
    return fit(data, configured(system, train__epochs=1, **values))


def write_model(folder, system="svd"):
    """The file of a model."""
    save(trained(shop_data(folder / "shop"), system), folder / "model.safetensors")
    return folder / "model.safetensors"


def write_table(folder, missing=()):
    """items.csv with titles, kinds, prices and pictures, and the folder of these. missing: items without a file."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    with open(folder / "items.csv", "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["item", "title", "kind", "price", "picture"])
        for n, (item, title, kind, price) in enumerate(zip(*items(N_ITEMS), strict=True)):
            name = f"{item}.png" if n % 3 else ""
            out.writerow([item, title, f"{kind}|home", price, name])
            if name and item not in missing:
                (folder / "pictures" / name).write_bytes(png(40 * (n % 6), 90, 30 * (n % 8)))
    return folder / "items.csv"


def page_of(model, options=None):
    """A catalogue with its page."""
    catalogue = Catalogue(model)
    catalogue.page = Content(catalogue, options or PageOptions())
    return catalogue
