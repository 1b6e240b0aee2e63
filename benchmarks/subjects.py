"""The two things that are compared, on the same random weights, and what each does for a case.

Shapes: L domains, z latent channels, h w latent grid, S text tokens.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..jodi_core.model.checkpoint import TRANSFORMER
from ..jodi_core.model.denoiser import prepare_denoiser
from ..jodi_core.pipeline import JodiPipeline
from ..jodi_core.roles import RolePlan
from ..jodi_core.text import TextFeatures
from ..kit.autoencoder.checkpoint import AUTOENCODER
from ..kit.sampling import make_flow_sigmas
from ..kit.weights.loading import load_state
from .baseline_autoencoder import BaselineAutoencoder
from .baseline_pipeline import BaselinePipeline
from .baseline_transformer import BaselineTransformer
from .cases import DTYPES, MODELS, TASK_STEPS, TASKS, Case

SIDES = ("ours", "baseline")
NOISE_LENGTH = 4_000_037  # a prime: no matrix gets equal rows
TEXT_TOKENS = 0.4  # share of the text window that a prompt fills


@dataclass(frozen=True)
class Inputs:
    """What one repetition works on. No other repetition of any case has the same: no picture and
    no text of it was met before, so no cache can answer."""

    x: Tensor  # (1, L, z, h, w) noisy latents
    clean: Tensor  # (1, L, z, h, w)
    pictures: dict[str, Tensor]  # (1, 3, H, W) in [0, 1], of the conditions
    text: TextFeatures
    negative: TextFeatures
    sigma: float
    seed: int  # of the noise a request starts from


class Subject:
    """Ours and the baseline for one set of weights. sides: leave one out to save its memory."""

    def __init__(self, model: str, dtype: str, device: str, sides=SIDES, depth: int | None = None):
        """depth: blocks of the network, in place of the model's own."""
        self.config, self.vae_config = MODELS[model]
        if depth:
            self.config = dataclasses.replace(self.config, depth=depth)
        self.dtype, self.device = DTYPES[dtype], torch.device(device)
        made = {"device": "meta", "dtype": self.dtype}
        transformer = BaselineTransformer(self.config, **made)
        autoencoder = BaselineAutoencoder(self.vae_config, **made)
        states = [random_state(part, self.device) for part in (transformer, autoencoder)]
        if "ours" in sides:
            options = {"dtype": self.dtype, "device": self.device}
            self.ours = JodiPipeline(
                load_state(states[0], TRANSFORMER, config=self.config, **options),
                load_state(states[1], AUTOENCODER, config=self.vae_config, **options),
            )
        if "baseline" in sides:
            transformer.load_state_dict(states[0], assign=True)
            autoencoder.load_state_dict(states[1], assign=True)
            self.baseline = BaselinePipeline(transformer, autoencoder)

    @property
    def rounded(self) -> bool:
        """Whether ours rounds time to bfloat16. The published code, and so the baseline, does; ours
        would for the released model alone, and then another function were timed at other sizes."""
        return self.dtype == torch.bfloat16

    def inputs(self, case: Case, repetition: int) -> Inputs:
        """Drawn from the case's key and the repetition; the noise level is the repetition's."""
        seed = zlib.crc32(f"{case.key} {repetition}".encode())
        generator = torch.Generator().manual_seed(seed)
        factor, channels = self.vae_config.factor, self.vae_config.latent_channels
        domains, length = self.config.num_domains, self.config.caption_length
        grid = (case.size // factor, case.size // factor)

        def normal(*shape) -> Tensor:
            return torch.randn(shape, generator=generator).to(self.device, self.dtype)

        plan = TASKS.get(case.task)
        names = plan.condition_names if plan else ("image",)
        filled = max(1, int(TEXT_TOKENS * length))
        mask = (torch.arange(length) < filled).long()[None].to(self.device)
        steps = TASK_STEPS.get(case.task, 10)
        return Inputs(
            x=normal(1, domains, channels, *grid),
            clean=normal(1, domains, channels, *grid),
            pictures={
                n: torch.rand(1, 3, case.size, case.size, generator=generator) for n in names
            },
            text=TextFeatures(normal(1, 1, length, self.config.caption_channels), mask),
            negative=TextFeatures(normal(1, 1, length, self.config.caption_channels), mask),
            sigma=make_flow_sigmas(steps)[repetition % steps],
            seed=seed,
        )

    def work(self, case: Case, side: str) -> Callable[[Inputs], Callable[[], Tensor]]:
        """A function that readies one repetition and returns what is to be timed.

        What is timed returns a tensor, so that both sides can be compared; of a request what the
        decoder made, because the finished maps have jumps (classes) that rounding may cross.
        """
        if case.kind in ("decode", "encode"):
            return getattr(self, f"_{case.kind}_{side}")
        plan = TASKS[case.task]
        how = "step" if case.kind.startswith("step") else "request"
        make = getattr(self, f"_{how}_{side}")
        return lambda inputs: make(inputs, plan, case)

    def _step_ours(self, inputs: Inputs, plan: RolePlan, case: Case):
        role = plan.as_tensor(1).to(self.device)
        sigmas = make_flow_sigmas(TASK_STEPS[case.task])
        model = self.ours.transformer
        with torch.inference_mode():
            if case.guidance != 1:
                denoise = prepare_denoiser(
                    model,
                    role,
                    inputs.clean,
                    inputs.text,
                    inputs.negative,
                    sigmas=sigmas,
                    guidance=case.guidance,
                    round_timestep=self.rounded,
                )
                return lambda: denoise(inputs.x, inputs.sigma)
            context = model.prepare(
                role,
                inputs.text.caption,
                inputs.text.mask,
                inputs.clean,
                like=inputs.x,
                sigmas=sigmas[:-1],
                round_timestep=self.rounded,
            )
        return lambda: model.velocity(inputs.x, inputs.sigma, context)

    def _step_baseline(self, inputs: Inputs, plan: RolePlan, case: Case):
        role = plan.as_tensor(1).to(self.device)
        texts = (inputs.text, inputs.negative)

        def step() -> Tensor:
            x, clean = inputs.x, inputs.clean
            velocity = self.baseline.velocity(x, inputs.sigma, clean, role, *texts, case.guidance)
            return velocity if case.guidance == 1 else x - inputs.sigma * velocity

        return step

    def _request_ours(self, inputs: Inputs, plan: RolePlan, case: Case):
        size = None if inputs.pictures else (case.size, case.size)
        run = functools.partial(self.ours.run, round_timestep=self.rounded)
        return lambda: self._request(run, inputs, plan, case, size)

    def _request_baseline(self, inputs: Inputs, plan: RolePlan, case: Case):
        size = (case.size, case.size)
        return lambda: self._request(self.baseline.run, inputs, plan, case, size)

    def _request(self, run, inputs: Inputs, plan: RolePlan, case: Case, size) -> Tensor:
        result = run(
            plan,
            conditions=inputs.pictures,
            text=inputs.text,
            negative_text=inputs.negative,
            size=size,
            steps=TASK_STEPS[case.task],
            guidance=case.guidance,
            seed=inputs.seed,
        )
        return torch.cat([result.raw[name] for name in plan.generated_names])

    def _decode_ours(self, inputs: Inputs):
        return lambda: self.ours.decode(inputs.clean, ("image",))["image"]

    def _decode_baseline(self, inputs: Inputs):
        decode = self.baseline.autoencoder.decode
        return lambda: decode(inputs.clean[:, 0]).float().cpu()

    def _encode_ours(self, inputs: Inputs):
        return lambda: self.ours.encode_picture("image", inputs.pictures["image"])

    def _encode_baseline(self, inputs: Inputs):
        name = "image"
        return lambda: self.baseline.encode_one(name, inputs.pictures[name])


def random_state(model: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Random weights for a network on the meta device, scaled so that activations stay finite.

    All are cut from one piece of noise, which takes seconds at 1.6 billion weights. All rows of
    the null text but the first are equal, as is expected of the released model.
    """
    generator = torch.Generator(device).manual_seed(0)
    noise = torch.randn(NOISE_LENGTH, generator=generator, device=device)
    state, start = {}, 0
    for name, meta in model.state_dict().items():
        tensor = torch.empty(meta.shape, dtype=meta.dtype, device=device)
        flat = tensor.view(-1)
        at = 0
        while at < len(flat):
            piece = noise[start : start + len(flat) - at]
            flat[at : at + len(piece)] = piece * _spread(name, meta)
            at += len(piece)
            start = (start + len(piece)) % NOISE_LENGTH
        if meta.dim() == 1 and name.endswith("weight"):  # of a norm
            tensor.add_(1)
        if name.endswith("y_embedding"):
            tensor[2:] = tensor[1]
        state[name] = tensor
    return state


def _spread(name: str, tensor: Tensor) -> float:
    if tensor.dim() == 1 or "table" in name:
        return 0.1
    if "embedding" in name or "embedder.weight" in name:
        return 1.0
    return float(tensor[0].numel()) ** -0.5
