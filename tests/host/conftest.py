"""One running server for each ComfyUI, kept for the session."""

import pytest
from jodi_pack.tests import hosts
from jodi_pack.tests.host.server import Server


@pytest.fixture(scope="session", params=hosts.host_params())
def server(request, tmp_path_factory):
    running = Server(hosts.present(request.param), tmp_path_factory.mktemp("comfyui"))
    try:
        yield running.start()
    finally:
        running.stop()
