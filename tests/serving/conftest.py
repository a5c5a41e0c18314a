"""A model in a file, and a service that answers in this process."""

import pytest
from mmssl_trainer import save
from mmssl_trainer.serving.app import make_app
from mmssl_trainer.serving.catalogue import Catalogue
from mmssl_trainer.serving.service import Service
from served_model import made
from starlette.testclient import TestClient


@pytest.fixture(params=["text", "numbers", "rows"])
def model(request):
    return made(request.param)


@pytest.fixture
def model_file(tmp_path):
    save(made(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def client_of():
    """client_of(model, limits) answers for a model, or for what a function loads."""
    open_clients = []

    def make(model, limits=None, exclude="train"):
        load = model if callable(model) else lambda: Catalogue(model, exclude)
        service = Service(load, limits)
        client = TestClient(make_app(service), raise_server_exceptions=False)
        client.__enter__()
        client.service = service
        open_clients.append(client)
        return client

    yield make
    for client in open_clients:
        client.__exit__(None, None, None)
