"""The nodes in a real ComfyUI: each check of the checks_*.py files beside this, in each host."""

from pathlib import Path

import pytest
from jodi_pack.tests import hosts

FILES = [
    Path(__file__).with_name(f"checks_{name}.py")
    for name in ("wires", "roles", "sampling", "decode", "labels")
]
CHECKS = [
    pytest.param(file, name, id=f"{file.stem[7:]}-{name[6:]}")
    for file in FILES
    for name in hosts.check_names(file)
]


@pytest.mark.comfyui
@pytest.mark.parametrize("host", hosts.host_params())
@pytest.mark.parametrize(("file", "name"), CHECKS)
def test_nodes(host, file, name):
    failure = hosts.run_checks(hosts.present(host), file)[name]
    assert failure is None, failure
