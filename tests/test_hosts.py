"""How tests find a ComfyUI, and that its absence is not passed over when it is asked for."""

import os
import sys

import pytest
from jodi_pack.tests import hosts


def comfyui(folder, version="1.2.3", environment=None):
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    if environment:
        python = folder / environment / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.touch()
    return folder


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A home without ComfyUI, and nothing named."""
    for name in ("COMFYUI_PATH", "COMFYUI_PYTHON", "JODI_REQUIRE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hosts.Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(hosts, "ROOT", tmp_path / "somewhere" / "pack")
    return tmp_path


def test_several_can_be_named(nowhere, monkeypatch):
    first = comfyui(nowhere / "a", environment=".venv")
    second = comfyui(nowhere / "b", "0.33.0", environment="venv")
    monkeypatch.setenv("COMFYUI_PATH", os.pathsep.join(map(str, (first, second))))
    found = hosts.find_hosts()
    assert [str(host) for host in found] == ["a-1.2.3", "b-0.33.0"]
    assert [host.python for host in found] == [
        str(first / ".venv/bin/python"),
        str(second / "venv/bin/python"),
    ]
    monkeypatch.setenv("COMFYUI_PYTHON", "/some/python")
    assert {host.python for host in hosts.find_hosts()} == {"/some/python"}


def test_a_name_that_is_no_comfyui_is_an_error(nowhere, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(nowhere / "missing"))
    with pytest.raises(FileNotFoundError, match="missing holds no ComfyUI"):
        hosts.find_hosts()


def test_the_one_around_the_pack_comes_before_the_one_at_home(nowhere, monkeypatch):
    home = comfyui(nowhere / "home" / "ComfyUI")
    assert [host.path for host in hosts.find_hosts()] == [home]
    assert hosts.find_hosts()[0].python == sys.executable
    around = comfyui(nowhere / "around")
    monkeypatch.setattr(hosts, "ROOT", around / "custom_nodes" / "jodi")
    assert [host.path for host in hosts.find_hosts()] == [around]


def test_absence_skips_or_fails_as_asked(nowhere, monkeypatch):
    assert hosts.find_hosts() == []
    (parameter,) = hosts.host_params()
    with pytest.raises(pytest.skip.Exception, match="COMFYUI_PATH"):
        hosts.present(parameter.values[0])
    monkeypatch.setenv("JODI_REQUIRE", "gpu,comfyui")
    with pytest.raises(pytest.fail.Exception, match="JODI_REQUIRE"):
        hosts.present(parameter.values[0])


def test_checks_are_found_without_importing(tmp_path):
    file = tmp_path / "checks_x.py"
    file.write_text(
        "import nothing_here\ndef check_a(): ...\ndef helper(): ...\ndef check_b(f): ..."
    )
    assert hosts.check_names(file) == ["check_a", "check_b"]
