"""Who answers a call: the seam between torch and Triton."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jodi_pack.kernels import dispatch, reference, selection
from jodi_pack.kernels.selection import KernelError
from jodi_pack.tests.helpers import randn

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def from_the_start(monkeypatch):
    """No choice made, no variable set, and afterwards as it was."""
    monkeypatch.delenv(selection.ENVIRONMENT, raising=False)
    before = selection._mode
    selection.choose(None)
    yield
    selection._mode = before


def norm_arguments(dtype=torch.float32):
    return randn(1, 2, 3, 8, dtype=dtype), *(randn(1, 2, 8, seed=s, dtype=dtype) for s in (1, 2))


def test_by_default_torch_answers():
    assert selection.chosen() == "auto"
    x, shift, scale = norm_arguments()
    ours = dispatch.layer_norm_modulate(x, shift, scale, 1e-6)
    assert torch.equal(ours, reference.layer_norm_modulate(x, shift, scale, 1e-6))


@pytest.mark.parametrize("mode", selection.MODES)
def test_the_environment_chooses(monkeypatch, mode):
    monkeypatch.setenv("JODI_KERNELS", mode)
    assert selection.chosen() == mode
    with selection.use("reference"):
        assert selection.chosen() == "reference"
    assert selection.chosen() == mode


def test_an_unknown_choice_is_refused(monkeypatch):
    with pytest.raises(KernelError, match="auto, reference, triton; got 'cuda'"):
        selection.choose("cuda")
    monkeypatch.setenv("JODI_KERNELS", "fast")
    with pytest.raises(KernelError, match=r"\$JODI_KERNELS must be one of .* got 'fast'"):
        dispatch.layer_norm_modulate(*norm_arguments(), 1e-6)


def test_use_restores_after_an_error():
    with pytest.raises(ZeroDivisionError), selection.use("reference"):
        raise ZeroDivisionError
    assert selection.chosen() == "auto"


class TestTritonDemanded:
    @pytest.fixture(autouse=True)
    def demanded(self):
        with selection.use("triton"):
            yield

    @pytest.mark.usefixtures("device")
    def test_other_dtypes_are_refused_by_name(self):
        with pytest.raises(KernelError, match=r"not for torch\.float64.*JODI_KERNELS=auto"):
            dispatch.layer_norm_modulate(*norm_arguments(torch.float64), 1e-6)

    @pytest.mark.usefixtures("device")
    def test_mixed_dtypes_are_refused(self):
        x, shift, scale = norm_arguments()
        with pytest.raises(KernelError, match="share dtype and device"):
            dispatch.layer_norm_modulate(x, shift.half(), scale, 1e-6)

    @pytest.mark.usefixtures("device")
    def test_heads_too_wide_are_refused(self):
        q = randn(1, 2, 1, 129)
        with pytest.raises(KernelError, match="at most 128 channels, and these have 129"):
            dispatch.relu_linear_attention(q, q, q, 1e-8)

    def test_a_missing_triton_is_named(self, monkeypatch):
        monkeypatch.setitem(selection._missing, "triton", "Triton is not installed")
        with pytest.raises(KernelError, match="Triton is not installed"):
            dispatch.layer_norm_modulate(*norm_arguments(), 1e-6)

    @pytest.mark.parametrize(
        ("version", "fits"),
        [("3.1.0", False), ("3.2.0", True), ("3.10.0+git1", True), ("2.3", False)],
    )
    def test_an_old_triton_is_named(self, monkeypatch, version, fits):
        monkeypatch.setattr("importlib.metadata.version", lambda name: version)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
        monkeypatch.setattr(selection, "_missing", {})
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        reason = selection.obstacle("cpu")
        assert (reason is None) == fits
        if not fits:
            assert f"Triton 3.2, which comes with torch 2.6, or newer; this is {version}" in reason

    @pytest.mark.parametrize(("card", "fits"), [((7, 5), False), ((8, 0), True), ((10, 0), True)])
    def test_an_old_card_is_named(self, monkeypatch, card, fits):
        monkeypatch.setitem(selection._missing, "triton", None)
        monkeypatch.setattr(selection, "_capabilities", {})
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: card)
        monkeypatch.setattr("torch.version.hip", None)
        reason = selection.obstacle("cuda:0")
        assert (reason is None) if fits else "compute capability 8.0 or above" in reason

    def test_a_cpu_is_no_place_for_kernels(self, monkeypatch):
        monkeypatch.setitem(selection._missing, "triton", None)
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        with pytest.raises(KernelError, match="tensors are on cpu and kernels run on CUDA"):
            dispatch.layer_norm_modulate(*norm_arguments(), 1e-6)

    def test_training_goes_through_torch(self, monkeypatch):
        """Kernels have no backward pass. Where none could run, it shows that none was asked."""
        monkeypatch.setitem(selection._missing, "triton", "Triton is not installed")
        x, shift, scale = norm_arguments()
        x.requires_grad_()
        dispatch.layer_norm_modulate(x, shift, scale, 1e-6).sum().backward()
        assert x.grad is not None
        with torch.no_grad(), pytest.raises(KernelError):
            dispatch.layer_norm_modulate(x, shift, scale, 1e-6)


@pytest.mark.slow
def test_calls_by_default_do_not_load_triton():
    """In a process of its own: the seam answers through torch and Triton stays out."""
    code = f"""
import importlib.util, sys, torch
torch.zeros(1).sum()
known = "triton" in sys.modules
spec = importlib.util.spec_from_file_location(
    "p", {str(ROOT / "__init__.py")!r}, submodule_search_locations=[{str(ROOT)!r}])
module = importlib.util.module_from_spec(spec); sys.modules["p"] = module
spec.loader.exec_module(module)
from p.kernels import dispatch
x = torch.ones(1, 2, 3, 8)
dispatch.layer_norm_modulate(x, x[:, :, 0], x[:, :, 0], 1e-6)
assert known or "triton" not in sys.modules, "the seam loaded Triton"
"""
    environment = {k: v for k, v in os.environ.items() if k != selection.ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
