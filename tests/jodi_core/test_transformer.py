"""The transformer against a loop oracle, and the laws it must keep."""

import copy
import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from jodi_pack.jodi_core.model import blocks
from jodi_pack.jodi_core.model.attention import read_weight
from jodi_pack.jodi_core.model.config import JODI_1600M
from jodi_pack.jodi_core.model.context import merge_equal_tokens
from jodi_pack.jodi_core.model.transformer import JodiTransformer, init_weights
from jodi_pack.jodi_core.roles import Role
from jodi_pack.kit.errors import RoleError, ShapeError, TextError
from jodi_pack.tests.helpers import (
    TINY,
    TINY_PATCH2,
    HostOperations,
    randn,
    relative_rms,
    tiny_transformer,
)
from jodi_pack.tests.jodi_core.transformer_oracle import published_velocity

G, C, X = Role.GENERATE, Role.CONDITION, Role.IGNORE
JOINT = (G,) * 8
PERCEIVE = (C, X, X, G, X, X, G, X)
CONTROL = (G, C, X, C, X, X, X, X)
ANY = (X, G, C, X, X, G, X, C)
PICTURE = (G, X, X, X, X, X, X, X)


class Job:
    """Random inputs of one evaluation; text masks differ per row and are no prefixes."""

    def __init__(self, config, roles, grid, *, seed=0, dtype=torch.float64):
        batch, length = len(roles), config.caption_length
        shape = (batch, config.num_domains, config.latent_channels, *grid)
        self.role = torch.tensor(roles)
        self.x = randn(*shape, seed=seed, dtype=dtype)
        self.clean_x = randn(*shape, seed=seed + 1, dtype=dtype)
        self.caption = randn(batch, 1, length, config.caption_channels, seed=seed + 2, dtype=dtype)
        self.caption_mask = (randn(batch, length, seed=seed + 3) > -0.3).long()
        self.caption_mask[:, 1] = 1
        self.timestep = torch.linspace(3.7, 999.6, batch, dtype=torch.float64)

    def inputs(self) -> dict:
        return vars(self)

    def rows(self, index) -> dict:
        return {k: v[index] for k, v in vars(self).items()}


def generated(role):
    return role == G


@pytest.fixture(params=["recorded", "whole", "in parts"], autouse=True)
def way(request, monkeypatch):
    """The ways a block goes through its domains: for gradients, all at once, one at a time."""
    if request.param == "in parts":
        monkeypatch.setattr(blocks, "CPU_PART_BYTES", 1)
    with torch.set_grad_enabled(request.param == "recorded"):
        yield request.param


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "roles", "grid", "null_rows"),
    [
        pytest.param(TINY, [JOINT], (2, 3), True, id="joint"),
        pytest.param(TINY, [PERCEIVE], (3, 5), True, id="perception-odd-grid"),
        pytest.param(TINY, [PERCEIVE], (1, 4), False, id="null-text-of-distinct-rows"),
        pytest.param(TINY, [CONTROL, PICTURE, ANY, PERCEIVE], (2, 3), True, id="mixed-batch"),
        pytest.param(TINY, [PICTURE], (1, 1), True, id="one-token"),
        pytest.param(TINY_PATCH2, [(G, C, X, G), (C, G, X, X)], (4, 6), True, id="patch2"),
        pytest.param(
            dataclasses.replace(TINY, depth=1, num_labels=1), [(G, C)], (3, 2), True, id="depth1"
        ),
    ],
)
def test_equals_the_published_network_with_every_domain_computed(config, roles, grid, null_rows):
    # The oracle computes ignored domains and masks their keys; ours leaves them out: the same.
    model = tiny_transformer(config, dtype=torch.float64, null_rows=null_rows)
    job = Job(config, roles, grid)
    ours = model(**job.inputs())
    expected = published_velocity(
        model.state_dict(), config, job.x, job.timestep, job.caption, job.caption_mask, job.role,
        job.clean_x,
    )  # fmt: skip
    slots = generated(job.role)
    assert relative_rms(ours[slots], expected[slots]) < 1e-11
    assert not ours[~slots].any()


@pytest.fixture(scope="module")
def model():
    return tiny_transformer(dtype=torch.float64)


class TestInvariants:
    def test_slots_that_are_not_generated_are_never_read(self, model):
        job = Job(TINY, [CONTROL, ANY], (2, 3))
        before = model(**job.inputs())
        job.x[job.role != G] = float("nan")
        job.clean_x[job.role != C] = float("nan")
        assert torch.equal(model(**job.inputs()), before)

    def test_text_has_no_effect_where_the_image_is_given(self, model):
        job = Job(TINY, [PERCEIVE, CONTROL], (2, 3))
        before = model(**job.inputs())
        job.caption += 1
        after = model(**job.inputs())
        assert torch.equal(before[0], after[0])
        assert not torch.equal(before[1], after[1])

    def test_no_text_is_needed_where_the_image_is_given(self, model):
        job = Job(TINY, [PERCEIVE], (2, 3))
        with_text = model(**job.inputs())
        job.caption = job.caption_mask = None
        assert torch.equal(model(**job.inputs()), with_text)

    @pytest.mark.long
    def test_rows_do_not_see_one_another(self, model):
        job = Job(TINY, [CONTROL, PERCEIVE, CONTROL, ANY], (2, 3))
        together = model(**job.inputs())
        for b in range(4):
            alone = model(**job.rows(slice(b, b + 1)))
            assert relative_rms(together[b : b + 1], alone) < 1e-13

    @pytest.mark.long
    def test_order_of_rows_does_not_matter(self, model):
        job = Job(TINY, [CONTROL, PERCEIVE, CONTROL, ANY], (2, 3))
        order = torch.tensor([3, 2, 0, 1])
        shuffled = model(**job.rows(order))
        assert relative_rms(shuffled, model(**job.inputs())[order]) < 1e-13

    def test_conditions_and_time_do_have_an_effect(self, model):
        job = Job(TINY, [CONTROL], (2, 3))
        before = model(**job.inputs())
        for name in ("clean_x", "timestep"):
            changed = {**job.inputs(), name: getattr(job, name) * 0.9}
            assert relative_rms(model(**changed), before) > 1e-3


class TestText:
    def test_tokens_left_out_equal_tokens_cut_off(self, model):
        job = Job(TINY, [CONTROL], (2, 3))
        keep = job.caption_mask[0].bool()
        masked = model(**job.inputs())
        job.caption, job.caption_mask = job.caption[:, :, keep], None
        assert relative_rms(model(**job.inputs()), masked) < 1e-13

    def test_what_a_masked_token_holds_does_not_matter(self, model):
        job = Job(TINY, [CONTROL, PICTURE], (2, 3))
        assert (job.caption_mask[0] != job.caption_mask[1]).any()
        before = model(**job.inputs())
        job.caption[job.caption_mask.unsqueeze(1) == 0] = 1e4
        assert relative_rms(model(**job.inputs()), before) < 1e-13

    @pytest.mark.long
    @pytest.mark.parametrize("axes", [4, 3])
    @pytest.mark.parametrize("mask_rows", [1, 3])
    def test_one_text_serves_all_rows(self, model, axes, mask_rows):
        job = Job(TINY, [CONTROL, PICTURE, CONTROL], (2, 3))
        caption = job.caption[:1]
        job.caption = caption.expand(3, -1, -1, -1)
        job.caption_mask = job.caption_mask[:1].expand(3, -1)
        repeated = model(**job.inputs())
        job.caption = caption if axes == 4 else caption[:, 0]
        job.caption_mask = job.caption_mask[:mask_rows]
        assert relative_rms(model(**job.inputs()), repeated) < 1e-13

    def test_equal_tokens_are_read_as_one_and_its_weight(self):
        features = randn(2, 7, 24, dtype=torch.float64)
        features[:, 2:] = features[:, 1:2]
        keep = torch.ones(2, 7, dtype=torch.bool)
        keep[1, 4:] = False
        merged, bias = merge_equal_tokens(features, keep)
        assert torch.equal(merged, features[:, :2])
        assert torch.allclose(bias.exp().flatten(1), torch.tensor([[1.0, 6], [1, 3]]).double())

    @pytest.mark.long
    @pytest.mark.parametrize("kept", [10, 6, 2])
    def test_text_of_equal_tokens_gives_what_all_of_them_give(self, model, kept):
        job = Job(TINY, [CONTROL, PICTURE], (2, 3))
        job.caption[:, :, 2:] = job.caption[:, :, 1:2]
        job.caption_mask = torch.zeros(2, 10)
        job.caption_mask[:, :kept] = 1
        folded = model(**job.inputs())
        with torch.enable_grad():  # attention as it stands, over two keys
            plain = model(**job.inputs())
        job.caption[:, :, kept - 1] += 1e-12  # not equal any more: attention over all keys
        assert relative_rms(folded, plain) < 1e-13
        assert relative_rms(folded, model(**job.inputs())) < 1e-10

    def test_gradients_through_a_folded_text_are_those_of_attention(self, model):
        """Where the image is given all rows read one null text, folded in training too."""
        trained = copy.deepcopy(model).requires_grad_(True)
        null = trained.y_embedder.y_embedding
        with torch.no_grad():
            null[2:] = null[1]
        job = Job(TINY, [PERCEIVE, PERCEIVE], (2, 3))
        gradients = []
        for nudge in (0.0, 1e-12):  # not equal any more: attention over all keys
            with torch.no_grad():
                null[-1] += nudge
            trained.zero_grad(set_to_none=True)
            with torch.enable_grad():
                trained(**job.inputs()).square().sum().backward()
            gradients.append({name: p.grad for name, p in trained.named_parameters()})
        compared = 0
        for name, gradient in gradients[0].items():
            if gradient is not None and "y_embedding" not in name:
                # Both are small where a bias of the keys moves all scores alike.
                gap = (gradient - gradients[1][name]).norm()
                assert gap < 1e-9 * (1 + gradients[1][name].norm()), name
                compared += 1
        assert compared > 40

    def test_folding_asks_a_layer_of_another_class_what_its_weights_are(self):
        class Halved(torch.nn.Linear):
            def forward(self, x):
                return F.linear(x, self.weight / 2, self.bias)

        layer = Halved(12, 8).double()
        weight, bias = read_weight(layer, randn(1, dtype=torch.float64))
        assert relative_rms(weight, layer.weight.T / 2) < 1e-12
        assert torch.equal(bias, layer.bias)
        low = layer.bfloat16()
        weight, _ = read_weight(low, randn(1, dtype=torch.bfloat16))
        assert relative_rms(weight, low.weight.T.float() / 2) < 2**-8

    def test_rows_that_read_the_same_text_share_its_keys(self, model):
        job = Job(TINY, [PICTURE] * 3, (2, 3))
        job.caption_mask[:, :4] = 1  # more than two tokens: not folded

        def rows_of_keys():
            context = model.prepare(job.role, job.caption, job.caption_mask, None, like=job.x)
            return {len(text.keys) for (text,) in context.groups[0].texts}

        assert rows_of_keys() == {3}
        job.caption = job.caption[:1].repeat(3, 1, 1, 1)
        assert rows_of_keys() == {3}  # the masks still differ
        job.caption_mask = job.caption_mask[:1].repeat(3, 1)
        assert rows_of_keys() == {1}

    def test_folding_stays_within_what_8_bit_layers_read(self):
        class Clamped(torch.nn.Linear):  # as ComfyUI's do, for float8_e4m3fn
            def forward(self, x):
                return F.linear(x.clamp(-448, 448), self.weight, self.bias)

        layer = Clamped(12, 8).double()
        weight, _ = read_weight(layer, randn(1, dtype=torch.float64))
        assert relative_rms(weight, layer.weight.T) < 1e-12

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"caption": None}, TextError, "no text was given"),
            ({"caption_mask": torch.zeros(2, 10)}, TextError, "keeps no token"),
            ({"caption_mask": torch.ones(2, 9)}, ShapeError, "covers 9 tokens"),
            ({"caption_mask": torch.ones(10)}, ShapeError, "their mask"),
            ({"caption_mask": torch.ones(3, 10)}, ShapeError, "3 rows for a batch of 2"),
            ({"caption": torch.ones(3, 1, 10, 24)}, ShapeError, "3 rows for a batch of 2"),
            ({"caption": torch.ones(2, 2, 10, 24)}, ShapeError, "text features must be"),
            ({"caption": torch.ones(10, 24), "caption_mask": None}, ShapeError, "text features"),
            ({"caption": torch.ones(2, 1, 10, 23)}, ShapeError, "23 channels, this model reads 24"),
        ],
    )  # fmt: skip
    def test_text_that_does_not_fit_is_refused(self, model, change, error, words):
        job = Job(TINY, [CONTROL, PICTURE], (2, 3))
        with pytest.raises(error, match=words):
            model(**{**job.inputs(), **change})


class TestPreparedContext:
    def prepared(self, model, job, **options):
        return model.prepare(
            job.role, job.caption, job.caption_mask, job.clean_x, like=job.x, **options
        )

    @pytest.mark.long
    def test_velocity_over_a_schedule_equals_single_calls(self, model):
        job = Job(TINY, [CONTROL, PERCEIVE], (2, 3))
        sigmas = [0.99966639, 0.5, 0.1]
        context = self.prepared(model, job, sigmas=sigmas)
        for sigma in sigmas:
            job.timestep = torch.full((2,), 1000 * sigma, dtype=torch.float64)
            assert (
                relative_rms(model.velocity(job.x, sigma, context), model(**job.inputs())) < 1e-12
            )

    def test_a_level_outside_the_schedule_is_computed(self, model):
        job = Job(TINY, [CONTROL], (2, 3))
        known, unknown = self.prepared(model, job, sigmas=[0.37]), self.prepared(model, job)
        assert set(known.times) == {0.37} and not unknown.times
        pair = (model.velocity(job.x, 0.37, context) for context in (known, unknown))
        assert relative_rms(*pair) < 1e-13
        assert not unknown.times

    @pytest.mark.long
    @pytest.mark.parametrize("roles", [[CONTROL, CONTROL], [CONTROL, ANY]])
    def test_each_row_may_have_its_own_level(self, model, roles):
        job = Job(TINY, roles, (2, 3))
        context = self.prepared(model, job)
        ours = model.velocity(job.x, torch.tensor([0.2, 0.9], dtype=torch.float64), context)
        for b, sigma in enumerate((0.2, 0.9)):
            assert relative_rms(ours[b], model.velocity(job.x, sigma, context)[b]) < 1e-13

    def test_time_is_rounded_on_request_only(self, model):
        job = Job(TINY, [CONTROL], (2, 3))
        exact, rounded = self.prepared(model, job), self.prepared(model, job, round_timestep=True)
        # 785.34 is 784 in bfloat16
        assert (
            relative_rms(
                model.velocity(job.x, 0.78534, rounded), model.velocity(job.x, 0.784, exact)
            )
            < 1e-13
        )
        assert (
            relative_rms(
                model.velocity(job.x, 0.78534, rounded), model.velocity(job.x, 0.78534, exact)
            )
            > 1e-6
        )

    def test_a_context_serves_its_own_shape_only(self, model):
        job = Job(TINY, [CONTROL, CONTROL], (2, 3))
        context = self.prepared(model, job)
        for other in (job.x[:1], job.x[..., :2], job.x.transpose(-1, -2)):
            with pytest.raises(ShapeError, match="prepared for latents"):
                model.velocity(other, 0.5, context)
        with pytest.raises(ShapeError, match="3 noise levels came for 2 rows"):
            model.velocity(job.x, torch.full((3,), 0.5), context)

    def test_inputs_are_left_as_they_are(self, model):
        job = Job(TINY, [CONTROL, ANY], (2, 3))
        before = {k: v.clone() for k, v in job.inputs().items()}
        model(**job.inputs())
        assert all(torch.equal(v, before[k]) for k, v in job.inputs().items())


class TestBlock:
    def test_pruned_last_block_equals_the_whole_one(self, model):
        job = Job(TINY, [CONTROL], (2, 3))
        seen = {}

        def remember(_, inputs, options):
            seen.update(inputs=(inputs[0].clone(), *inputs[1:]), **options)

        block = model.blocks[-1]
        handle = block.register_forward_pre_hook(remember, with_kwargs=True)
        model(**job.inputs())
        handle.remove()
        x, *inputs = seen["inputs"]
        assert seen["keep"] == 1 and x.shape[1] == 3
        pruned, whole = block(x.clone(), *inputs, keep=1), block(x, *inputs)
        assert pruned.shape[1] == 1
        assert relative_rms(pruned, whole[:, :1]) < 1e-14


@pytest.mark.long
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)]
)
def test_low_precision_stays_close_to_float64(dtype, bound):
    # Measured 3.3e-6 (half of it the time's own float32), 7e-4 and 6e-3 over three seeds.
    model = tiny_transformer(dtype=dtype)
    exact = tiny_transformer(dtype=torch.float64)
    exact.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    job = Job(TINY, [CONTROL, PERCEIVE, JOINT], (3, 5), dtype=dtype)
    ours = model(**job.inputs())
    assert ours.dtype == dtype
    for name in ("x", "clean_x", "caption"):
        setattr(job, name, getattr(job, name).double())
    assert relative_rms(ours, exact(**job.inputs())) < bound


def test_forward_leaves_nothing_on_any_module(model):
    def attributes():
        return {
            (name, key): id(value)
            for name, module in model.named_modules()
            for key, value in vars(module).items()
        } | {
            (name, key): (id(value), value._version)
            for name, module in model.named_modules()
            for key, value in [*module._parameters.items(), *module._buffers.items()]
            if value is not None
        }

    before = attributes()
    model(**Job(TINY, [CONTROL, PERCEIVE], (4, 5)).inputs())
    assert attributes() == before


def test_training_works_at_a_grid_first_seen_in_inference_mode():
    model = tiny_transformer(dtype=torch.float64).requires_grad_(True)
    job = Job(TINY, [PERCEIVE], (5, 7))
    with torch.inference_mode():
        expected = model(**job.inputs())
    with torch.enable_grad():
        out = model(**job.inputs())
        assert relative_rms(out, expected) < 1e-13
        out.square().sum().backward()
    touched = {i for i in range(8) if model.final_layers[i].linear.weight.grad is not None}
    embedded = {i for i in range(8) if model.x_embedders[i].proj.weight.grad is not None}
    assert (touched, embedded) == ({3, 6}, {0, 3, 6})
    assert all(p.grad is not None for p in model.blocks.parameters())


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"role": torch.tensor([[0] * 7] * 2)}, RoleError, "7 domains, the model has 8"),
            ({"role": torch.tensor([CONTROL] * 3)}, RoleError, "do not fit a batch of 2"),
            ({"role": torch.tensor([CONTROL, (X,) * 8])}, RoleError, "generate at least one"),
            ({"role": torch.tensor([CONTROL, (0, 3, *CONTROL[2:])])}, RoleError, "a role is 0"),
            ({"role": torch.tensor([CONTROL, (0, -1, *CONTROL[2:])])}, RoleError, "a role is 0"),
            ({"clean_x": None}, RoleError, "no clean latent"),
            ({"clean_x": torch.zeros(2, 8, 5, 3, 2)}, ShapeError, "must have the shape"),
            ({"x": torch.zeros(2, 8, 4, 2, 3)}, ShapeError, "latents must be"),
            ({"x": torch.zeros(8, 5, 2, 3)}, ShapeError, "latents must be"),
            ({"timestep": torch.zeros(3)}, ShapeError, "3 noise levels"),
        ],
    )
    def test_input_that_does_not_fit_is_refused(self, model, change, error, words):
        job = Job(TINY, [CONTROL, PICTURE], (2, 3))
        with pytest.raises(error, match=words):
            model(**{**job.inputs(), **change})

    def test_grid_must_hold_whole_patches(self):
        model = tiny_transformer(TINY_PATCH2)
        with pytest.raises(ShapeError, match="multiple of the patch size 2"):
            model(**Job(TINY_PATCH2, [(G, C, X, X)], (3, 4), dtype=torch.float32).inputs())

    def test_one_row_of_roles_serves_the_batch(self, model):
        job = Job(TINY, [CONTROL, CONTROL], (2, 3))
        expected = model(**job.inputs())
        job.role = job.role[0]
        assert torch.equal(model(**job.inputs()), expected)


class TestHostOperations:
    @pytest.mark.parametrize("namespace", [HostOperations, SimpleNamespace(**vars(HostOperations))])
    def test_every_layer_with_a_matrix_is_the_host_s(self, namespace):
        model = JodiTransformer(TINY, operations=namespace, dtype=torch.float16)
        assert HostOperations.foreign_layers(model) == []
        assert (
            len([m for m in model.modules() if isinstance(m, HostOperations.Conv2d)]) == 8 + 2 * 3
        )

    def test_weights_in_another_dtype_are_cast_by_the_host(self):
        stored = tiny_transformer(dtype=torch.float16)
        hosted = JodiTransformer(TINY, operations=HostOperations, dtype=torch.float16).eval()
        hosted.load_state_dict(stored.state_dict())
        job = Job(TINY, [CONTROL, PERCEIVE], (2, 3), dtype=torch.float32)
        assert relative_rms(hosted(**job.inputs()), stored.float()(**job.inputs())) < 1e-6
        assert all(p.dtype == torch.float16 for p in hosted.parameters())


class TestFreshWeights:
    def test_every_parameter_is_set_and_seeded(self):
        models = [JodiTransformer(TINY) for _ in range(3)]
        for model, seed in zip(models, (1, 1, 2), strict=True):
            for p in model.parameters():
                torch.nn.init.constant_(p, float("nan"))
            init_weights(model, seed)
        for (name, a), b, c in zip(
            models[0].named_parameters(),
            models[1].parameters(),
            models[2].parameters(),
            strict=True,
        ):
            assert a.isfinite().all(), name
            assert torch.equal(a, b), name
            assert not a.any() or a.unique().numel() == 1 or not torch.equal(a, c), name

    def test_a_fresh_model_predicts_zero(self):
        model = JodiTransformer(TINY)
        init_weights(model, 0)
        assert not model(**Job(TINY, [JOINT], (2, 3), dtype=torch.float32).inputs()).any()


@pytest.mark.slow
@pytest.mark.reference
def test_full_size_tensors_are_those_of_the_release(reference_dir):
    manifest = json.loads((reference_dir / "jodi" / "jodi_1600m_manifest.json").read_text())
    model = JodiTransformer(JODI_1600M, device="meta")
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == manifest
