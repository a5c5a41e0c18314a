"""Python's garbage collector and the objects of the service that stay."""

import asyncio
import gc
import socket
import weakref

import pytest
import uvicorn
from mmssl_trainer.serving.app import make_app
from mmssl_trainer.serving.catalogue import Catalogue
from mmssl_trainer.serving.server import Server
from mmssl_trainer.serving.service import Service

FEW = 5000  # objects that starting or reloading may leave to the next collection


@pytest.fixture
def without_collections():
    """Only reference counts free objects, apart from collections that the code asks for itself."""
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def test_collections_leave_out_what_stays_and_an_earlier_model_is_freed(model_file, without_collections):
    """Otherwise each full collection stops the service for more than 100 ms, once a second under load."""
    service = Service(lambda: Catalogue.load(model_file))
    server = Server(uvicorn.Config(make_app(service), log_config=None, lifespan="off"), service)
    earlier = weakref.ref(service.catalogue)

    async def start_and_reload():
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            await server.startup([listening])
            assert len(gc.get_objects()) < FEW < 50_000 < gc.get_freeze_count()
            server._reload()
            while server._reloads:
                await asyncio.sleep(0.01)
            assert len(gc.get_objects()) < FEW
            await server.shutdown([listening])

    asyncio.run(start_and_reload())
    assert earlier() is None
    assert all(one is not service.catalogue for one in gc.get_objects())
