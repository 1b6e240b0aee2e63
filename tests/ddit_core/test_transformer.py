"""The network equals the published one, and its two short ways equal the network."""

import math

import pytest
import torch
from jodi_pack.ddit_core.model.config import DDIT_SD3, DDiTConfig
from jodi_pack.ddit_core.model.transformer import DDiTTransformer
from jodi_pack.kit.errors import JodiError, ShapeError
from jodi_pack.tests.ddit_core.small import PATCH_1, SMALL, published, small_model
from jodi_pack.tests.helpers import randn

EXACT = {"rtol": 0, "atol": 1e-11}


def inputs(config, batch=2, grid=(4, 6), length=7, seed=0):
    x = randn(batch, config.latent_channels, *grid, seed=seed, dtype=torch.float64)
    text = randn(batch, length, config.context_channels, seed=seed + 1, dtype=torch.float64)
    return x, text


@pytest.fixture(scope="module", params=[SMALL, PATCH_1], ids=["patch 2, depth 3", "patch 1"])
def model(request):
    return small_model(request.param, dtype=torch.float64)


def test_equals_the_published_formulas(model):
    x, text = inputs(model.config)
    time = torch.tensor([12.5, 860.0])
    for ours, theirs in zip(model(x, time, text), published(model, x, time, text), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)  # sines of float32 times


def test_every_weight_but_the_unused_counts(model):
    x, text = inputs(model.config)
    model = small_model(model.config, dtype=torch.float64).requires_grad_(True)
    velocity, logits = model(x, torch.tensor([3.0, 500.0]), text)
    (velocity.square().sum() + logits.square().sum()).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # Keys add one number to all scores of a query, which the softmax takes out again.
    assert [n for n in dead if not n.endswith(("k_proj.bias", "to_k.bias"))] == ["null_image_embd"]


def test_the_last_modulation_of_the_text_is_in_the_order_of_the_others():
    """The host's converter swaps its halves, as is right for Stable Diffusion 3."""
    model = small_model(dtype=torch.float64)
    x, text = inputs(model.config)
    before = model(x, torch.zeros(2), text)[1]
    linear = model.transformer_blocks[-1].norm1_context.linear
    for part in (linear.weight, linear.bias):
        part.copy_(part.roll(len(part) // 2, 0))
    assert (model(x, torch.zeros(2), text)[1] - before).abs().max() > 0.01


class TestPictures:
    def test_the_velocity_equals_the_plain_network(self, model):
        x, text = inputs(model.config)
        plain = model(x, torch.tensor([250.0, 990.0]), text)[0]
        context = model.prepare_text(text)
        ours = model.velocity(x, torch.tensor([0.25, 0.99]), context)
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-6)

    def test_two_texts_in_one_pass_equal_two_passes(self, model):
        x, text = inputs(model.config)
        negative = inputs(model.config, batch=1, seed=5)[1]
        context = model.prepare_text(text, negative, sigmas=[0.9, 0.5])
        both = model.velocities(x, 0.5, context)
        for ours, one in zip(both, (text, negative.expand(2, -1, -1)), strict=True):
            plain = model(x, torch.full((2,), 500.0), one)[0]
            torch.testing.assert_close(ours, plain, rtol=0, atol=1e-6)

    def test_a_level_for_each_row_and_two_texts(self, model):
        x, text = inputs(model.config)
        context = model.prepare_text(text, -text)
        one, two = model.velocities(x, torch.tensor([0.25, 0.75], dtype=torch.float64), context)
        time = torch.tensor([250.0, 750.0])
        torch.testing.assert_close(one, model(x, time, text)[0], **EXACT)
        torch.testing.assert_close(two, model(x, time, -text)[0], **EXACT)

    def test_a_prepared_level_equals_an_unprepared_one(self, model):
        x, text = inputs(model.config)
        known = model.velocity(x, 0.5, model.prepare_text(text, sigmas=[0.5, 0.25]))
        torch.testing.assert_close(known, model.velocity(x, 0.5, model.prepare_text(text)), **EXACT)


class TestWords:
    def test_asked_places_equal_the_plain_network(self, model):
        x, text = inputs(model.config)
        plain = model(x, torch.zeros(2), text)[1]
        positions = torch.tensor([[6, 0, 3], [2, 2, 5]])
        ours = model.logits(text, model.prepare_picture(x), positions)
        for b in range(2):
            torch.testing.assert_close(ours[b], plain[b, positions[b]], **EXACT)

    def test_one_picture_for_many_texts(self, model):
        x, text = inputs(model.config)
        plain = model(x[:1].expand(2, -1, -1, -1), torch.zeros(2), text)[1]
        positions = torch.arange(7).expand(2, -1)
        ours = model.logits(text, model.prepare_picture(x[:1]), positions)
        torch.testing.assert_close(ours, plain, **EXACT)

    def test_rows_can_leave(self, model):
        x, text = inputs(model.config, batch=3)
        context = model.prepare_picture(x)
        positions = torch.arange(7).expand(3, -1)
        whole = model.logits(text, context, positions)
        some = torch.tensor([2, 0])
        ours = model.logits(text[some], context.select(some), positions[some])
        torch.testing.assert_close(ours, whole[some], **EXACT)

    def test_time_and_first_projections_are_computed_once(self):
        model, calls = small_model(), []
        first = model.transformer_blocks[0]
        watched = {
            "time": model.time_text_embed.timestep_embedder.linear_1,
            "modulation": first.norm1.linear,
            "patches": model.pos_embed.proj,
            "first": first.attn.to_q,
            "last queries": model.transformer_blocks[-1].attn.to_q,
            "last mlp": model.transformer_blocks[-1].ff.net[2],
            "image head": model.image_proj_out,
        }
        for name, module in watched.items():
            module.register_forward_hook(lambda *_, n=name: calls.append(n))
        x, text = (part.float() for part in inputs(SMALL))
        context = model.prepare_picture(x)
        for _ in range(3):
            model.logits(text, context, torch.zeros(2, 1, dtype=torch.long))
        assert sorted(calls) == ["first", "modulation", "patches", "time"]

    def test_the_head_sees_asked_places_only(self):
        model, seen = small_model(), []
        model.text_proj_out.register_forward_hook(lambda _, args, __: seen.append(args[0].shape))
        x, text = (part.float() for part in inputs(SMALL))
        model.logits(text, model.prepare_picture(x), torch.tensor([[1, 4], [0, 0]]))
        assert seen == [(2, 2, SMALL.hidden_size)]


class TestHalfPrecision:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_runs_without_autocast_and_stays_near(self, dtype):
        """The published code fails here: its sinusoid is float32 whatever the weights are."""
        exact, model = small_model(dtype=torch.float64), small_model(dtype=dtype)
        x, text = inputs(SMALL)
        plain = exact(x, torch.tensor([250.0, 990.0]), text)
        ours = model(x.to(dtype), torch.tensor([250.0, 990.0]), text.to(dtype))
        for one, other in zip(ours, plain, strict=True):
            assert one.dtype == dtype
            error = (one.double() - other).square().mean().sqrt() / other.square().mean().sqrt()
            assert error < 0.05

    def test_a_model_can_be_halved(self):
        assert small_model().half().context_embedder.weight.dtype == torch.float16


class TestErrors:
    @pytest.mark.parametrize(
        ("shape", "words"),
        [
            ((1, 4, 4, 4), "5 channels"),
            ((1, 5, 3, 4), "multiple of the patch size 2"),
            ((1, 5, 4, 20), "larger than the model's table of positions, 18x18"),
            ((5, 4, 4), "batch"),
            ((1, 5, 0, 4), "0x4"),
        ],
    )
    def test_latents_that_do_not_fit(self, shape, words):
        with pytest.raises(ShapeError, match=words):
            small_model().prepare_picture(torch.zeros(shape))

    def test_features_of_another_text_encoder(self):
        model = small_model()
        with pytest.raises(ShapeError, match="20 channels"):
            model.prepare_text(torch.zeros(1, 7, 768))

    def test_texts_of_two_lengths(self):
        with pytest.raises(ShapeError, match="one length"):
            small_model().prepare_text(torch.zeros(1, 7, 20), torch.zeros(1, 8, 20))

    def test_rows_that_do_not_match(self):
        model = small_model()
        context = model.prepare_text(torch.zeros(1, 7, 20), rows=2)
        with pytest.raises(ShapeError, match="2 rows, got 3"):
            model.velocity(torch.zeros(3, 5, 4, 4), 0.5, context)
        with pytest.raises(ShapeError, match="3 noise levels"):
            model.velocity(torch.zeros(2, 5, 4, 4), torch.zeros(3), context)
        picture = model.prepare_picture(torch.zeros(2, 5, 4, 4))
        with pytest.raises(ShapeError, match="3 texts"):
            model.logits(torch.zeros(3, 7, 20), picture, torch.zeros(3, 1, dtype=torch.long))

    def test_sizes_that_make_no_model(self):
        with pytest.raises(JodiError, match="divided among 5 heads"):
            DDiTConfig(**{**vars(SMALL), "num_heads": 5})
        with pytest.raises(JodiError, match="depth must be positive and finite, got 0"):
            DDiTConfig(**{**vars(SMALL), "depth": 0})


def expected_manifest():
    """Names and shapes of the released file, from its description."""
    d, vocabulary = 1536, 32100
    both = {
        "pos_embed.proj": (d, 16, 2, 2),
        "time_text_embed.timestep_embedder.linear_1": (d, 256),
        "time_text_embed.timestep_embedder.linear_2": (d, d),
        "context_embedder": (d, 4096),
        "image_norm_out.linear": (2 * d, d),
        "image_proj_out": (64, d),
        "text_proj_out": (vocabulary, d),
    }
    for i in range(24):
        block = f"transformer_blocks.{i}."
        for name in ("norm1.linear", "norm1_context.linear"):
            both[block + name] = (6 * d, d)
        for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj"):
            both[f"{block}attn.{name}"] = (d, d)
        both[f"{block}attn.to_add_out"] = (d, d)
        for name in ("ff", "ff_context"):
            both[f"{block}{name}.net.0.proj"] = (4 * d, d)
            both[f"{block}{name}.net.2"] = (d, 4 * d)
    shapes = {"null_image_embd": (1, 8, d), "pos_embed.pos_embed": (1, 192 * 192, d)}
    for name, shape in both.items():
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]
    return shapes


def test_the_full_size_has_the_released_tensors():
    model = DDiTTransformer(DDIT_SD3, device="meta")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert len(shapes) == 688 and shapes == expected_manifest()
    assert sum(p.numel() for p in model.parameters()) == 2_102_856_100
    assert sum(math.prod(shape) for shape in shapes.values()) == 2_159_479_204
