"""The nodes in a real ComfyUI: each check of the checks_*.py files beside this, in each host."""

from pathlib import Path

import pytest
from jodi_pack.tests import hosts

NEEDS = {"checks_reference": "reference_dir"}  # fixtures that a file of checks cannot do without
FILES = sorted(Path(__file__).parent.glob("checks_*.py"))
CHECKS = [
    pytest.param(file, name, id=f"{file.stem[7:]}-{name[6:]}")
    for file in FILES
    for name in hosts.check_names(file)
]


@pytest.mark.comfyui
@pytest.mark.parametrize("host", hosts.host_params())
@pytest.mark.parametrize(("file", "name"), CHECKS)
def test_nodes(host, file, name, request):
    if file.stem in NEEDS:
        request.getfixturevalue(NEEDS[file.stem])
    failure = hosts.run_checks(hosts.present(host), file)[name]
    assert failure is None, failure
