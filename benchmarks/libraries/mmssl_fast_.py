"""mmssl_fast: systems with the settings that they have by themselves. The time is without that of the validation."""

from protocol import Driver, K

driver = Driver("mmssl_fast", "torch")

import torch  # noqa: E402

torch.set_num_threads(1)
from mmssl_trainer import configure, fit, load_data, recommend  # noqa: E402
from mmssl_trainer.training.loop import Validation  # noqa: E402

validate = Validation.metrics


def validate_apart(*arguments):
    with driver.left_out():
        return validate(*arguments)


Validation.metrics = validate_apart

data = driver.data
catalogue = load_data(data.folder)


def model(system):
    def lists():
        with driver.fitted():
            made = fit(catalogue, configure({"model.system": system, "train.threads": 1}))
        users = data.user_ids[data.test_users].tolist()
        found = recommend(made, users, K)
        for user in users:
            yield user, found.item[found.user == user].tolist()

    return lists


systems = ("popularity", "svd", "itemknn", "ease", "mf", "vbpr", "lightgcn", "mmssl")
driver.run({name: model(name) for name in systems})
