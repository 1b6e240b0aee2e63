"""Whole networks with kernels chosen, against the same networks in plain torch."""

import pytest
import torch
from jodi_pack.jodi_core.roles import RolePlan
from jodi_pack.kernels import dispatch, selection
from jodi_pack.tests.helpers import TINY, randn, relative_rms, tiny_autoencoder, tiny_transformer

TRANSFORMER = {
    "relu_linear_attention",
    "layer_norm_modulate",
    "gated_residual_norm_modulate",
    "depthwise_conv3x3_glu",
}


@pytest.fixture
def answered(device, monkeypatch):
    """Names of the kernels that answered, so that torch cannot have stood in for one."""
    from jodi_pack.kernels import (
        triton_depthwise,
        triton_layer_norm,
        triton_linear_attention,
        triton_rms_norm,
    )

    names = []

    def watch(module, name):
        original = getattr(module, name)

        def call(*args):
            names.append(name)
            return original(*args)

        monkeypatch.setattr(module, name, call)

    watch(triton_linear_attention, "relu_linear_attention")
    watch(triton_layer_norm, "layer_norm_modulate")
    watch(triton_layer_norm, "gated_residual_norm_modulate")
    watch(triton_depthwise, "depthwise_conv3x3_glu")
    watch(triton_rms_norm, "rms_norm_channels")
    return names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("roles", "grid"),
    [
        ("image=condition, depth=generate, albedo=generate", (2, 3)),
        ("image=generate", (1, 3)),
    ],
)
def test_the_transformer_is_the_same(answered, device, roles, grid):
    model = tiny_transformer(seed=3).to(device)
    x = randn(2, 8, TINY.latent_channels, *grid).to(device)
    clean = randn(*x.shape, seed=1).to(device)
    caption = randn(2, 1, TINY.caption_length, TINY.caption_channels, seed=2).to(device)
    mask = torch.ones(2, TINY.caption_length, device=device)
    role = RolePlan.parse(roles).as_tensor(2).to(device)
    time = torch.tensor([300.0, 800.0], device=device)
    arguments = (x, time, caption, mask, role, clean)
    with torch.inference_mode():
        with selection.use("reference"):
            expected = model(*arguments)
        assert not answered
        with selection.use("triton"):
            ours = model(*arguments)
    assert set(answered) == TRANSFORMER
    assert answered.count("relu_linear_attention") == TINY.depth
    assert relative_rms(ours.cpu(), expected.cpu()) < 1e-5


@pytest.mark.slow
def test_the_autoencoder_is_the_same(answered, device):
    model = tiny_autoencoder().to(device)
    picture = randn(1, 3, 8, 12, seed=5).to(device)
    with torch.inference_mode():
        with selection.use("reference"):
            expected = model(picture)
        with selection.use("triton"):
            ours = model(picture)
    assert set(answered) == {"relu_linear_attention", "depthwise_conv3x3_glu", "rms_norm_channels"}
    assert relative_rms(ours.cpu(), expected.cpu()) < 1e-5


def test_every_operation_survives_a_compiler(answered, device):
    """torch.compile sees one opaque operation, in one graph, of the shape that the fake gave."""
    x, update = randn(1, 2, 6, 16).to(device), randn(1, 2, 6, 16, seed=1).to(device)
    gate, shift, scale = (randn(1, 2, 16, seed=s).to(device) for s in (2, 3, 4))
    qkv = randn(1, 12, 48, seed=5).to(device)
    weight, bias = randn(16, 1, 3, 3, seed=6).to(device), randn(16, seed=7).to(device)
    keep = torch.arange(12, device=device)[None] % 3 > 0

    def everything(x, update, gate, shift, scale, qkv, weight, bias, keep):
        q, k, v = (part.unflatten(-1, (2, 8)) for part in qkv.chunk(3, dim=-1))
        x, z = dispatch.gated_residual_norm_modulate(x, update, gate, shift, scale, 1e-6)
        z = z + dispatch.layer_norm_modulate(x, shift, scale, 1e-6)
        z = z + dispatch.relu_linear_attention(q, k, v, 1e-8, keep).reshape(z.shape)
        g = dispatch.depthwise_conv3x3_glu(z, weight, bias, (2, 3))
        image = g.view(2, 2, 3, 8).permute(0, 3, 1, 2)
        return dispatch.rms_norm_channels(image, bias[:8], bias[8:], 1e-5, image, "relu")

    arguments = (x, update, gate, shift, scale, qkv, weight, bias, keep)
    compiled = torch.compile(everything, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        with selection.use("reference"):
            expected = everything(*arguments)
        with selection.use("triton"):
            ours = compiled(*arguments)
    assert relative_rms(ours.cpu(), expected.cpu()) < 1e-5


def test_what_a_compiler_is_told_is_true(device):
    """Schema and fake of each operation agree with what it does: shapes, strides, aliasing."""
    from jodi_pack.kernels import (
        triton_depthwise,
        triton_layer_norm,
        triton_linear_attention,
        triton_rms_norm,
    )

    assert triton_depthwise and triton_layer_norm and triton_linear_attention and triton_rms_norm
    x, vector = randn(1, 2, 3, 8).to(device), randn(1, 2, 8, seed=1).to(device)
    weight, bias = randn(8, 1, 3, 3, seed=2).to(device), randn(8, seed=3).to(device)
    keep = torch.tensor([[True, False]], device=device)
    image = randn(1, 8, 2, 3, seed=4).to(device)
    calls = {
        "relu_linear_attention": (x, x, x, 1e-8, keep),
        "layer_norm_modulate": (x, vector, vector, 1e-6),
        "gated_residual_norm_modulate": (x, x, None, vector, vector, 1e-6),
        "depthwise_conv3x3_glu": (x, weight, bias, [1, 3]),
        "rms_norm_channels": (image, bias, bias, 1e-5, image, "silu"),
    }
    for name, arguments in calls.items():
        torch.library.opcheck(
            getattr(torch.ops.jodi, name).default,
            arguments,
            test_utils=("test_schema", "test_faketensor"),
        )


@pytest.mark.gpu
def test_a_step_is_captured_as_a_graph(gpu):
    """No launch waits for the device or allocates outside the graph's pool."""
    model = tiny_transformer(seed=3).to(gpu, torch.bfloat16)
    x = randn(1, 8, TINY.latent_channels, 4, 4, dtype=torch.bfloat16).to(gpu)
    caption = randn(1, 1, TINY.caption_length, TINY.caption_channels, dtype=x.dtype).to(gpu)
    plan = RolePlan.from_names(generate=("image", "depth")).as_tensor(1).to(gpu)
    mask = torch.ones(1, TINY.caption_length, device=gpu)
    with torch.inference_mode(), selection.use("triton"):
        context = model.prepare(plan, caption, mask, None, like=x, sigmas=[0.5])
        expected = model.velocity(x, 0.5, context)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                ours = model.velocity(x, 0.5, context)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        ours.zero_()
        graph.replay()
    assert torch.equal(ours, expected)
