"""One call for each task, from pictures and words to pictures.

Shapes: B rows, L domains, z latent channels, h w latent grid, H W pixels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor

from ..kit.autoencoder import checkpoint as dcae
from ..kit.precision import measure_bfloat16_gain
from ..kit.sampling import StepCallback
from ..kit.weights.loading import load
from .embedded import AUTOENCODER, TRANSFORMER, load_text_encoder
from .job.checks import agree_on_size, check_pictures, count_rows
from .job.given import Given, prepare
from .job.size import DEFAULT_SIZE
from .labels.maps import postprocess
from .model import checkpoint
from .model.compilation import CompiledBlocks
from .model.config import JODI_1600M, TransformerConfig
from .model.facts import STEPS
from .roles import RolePlan
from .stages import Pictures, Stages
from .text import TextFeatures

WORTH_IT = 1.3
"""A CPU that gains less by bfloat16 computes in float32: that is not worth eight digits less."""


@dataclass(frozen=True)
class Result:
    """What one job made.

    raw: (B, 3, H, W) float32 decoder output, about [-1, 1], of generated domains. pictures: the
    same post-processed to [0, 1], and the given pictures of conditions. latents: (B, L, z, h, w).
    settings: everything needed to run it again, as plain values. given: how the pictures were
    fitted and what is odd about them, for a job whose size was named.
    """

    plan: RolePlan
    latents: Tensor
    raw: dict[str, Tensor]
    pictures: dict[str, Tensor]
    settings: dict = field(default_factory=dict)
    given: Given | None = None


class JodiPipeline(Stages):
    """Loads the parts, and runs whole jobs with them."""

    @classmethod
    def embedded(cls, device: str = "cpu", dtype: torch.dtype | None = None) -> "JodiPipeline":
        """The built-in jodi-nano. dtype: float32 unless said."""
        return cls.from_files(device=device, dtype=dtype)

    @classmethod
    def from_files(
        cls,
        model: str | Path | None = None,
        vae: str | Path | None = None,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> "JodiPipeline":
        """A pipeline from weight files; None takes the embedded part.

        dtype: None is bfloat16, on a CPU only for the released model and where that is faster; else
        float32. A model file has no text encoder of its own: prompts for it come as stored
        features.
        Raises: CheckpointError for a file that does not fit, ShapeError for parts that do not
        belong together.
        """
        if dtype is None and torch.device(device).type != "cpu":
            dtype = torch.bfloat16
        source = TRANSFORMER if model is None else model
        loaded = load(source, checkpoint.TRANSFORMER, device=device, dtype=dtype)
        transformer = loaded.model
        if dtype is None:
            dtype = choose_cpu_dtype(transformer.config)
            transformer = transformer.to(dtype)
        latents = AUTOENCODER if vae is None else vae
        autoencoder = load(latents, dcae.AUTOENCODER, device=device, dtype=dtype).model
        text_encoder = load_text_encoder().to(device) if model is None else None
        return cls(transformer, autoencoder, text_encoder, loaded.metadata, str(source))

    def compile(self, **options) -> "JodiPipeline":
        """Compile the network's blocks from the next run on; options: see `CompiledBlocks`.

        Meant for GPUs: on a CPU nearly all time is in matrix products already
        (docs/performance.md).
        """
        self._compiled = CompiledBlocks(self.transformer, **options)
        return self

    def perceive(self, image: Tensor, labels: Iterable[str] | None = None, **options) -> Result:
        """Image (B, 3, H, W) in [0, 1] -> labels (all of them by default). Text has no effect."""
        wanted = self.names[1:] if labels is None else labels
        return self.run(self.plan(wanted, ["image"]), conditions={"image": image}, **options)

    def control(
        self,
        conditions: Pictures,
        prompt: str | Sequence[str] = "",
        generate: Iterable[str] = ("image",),
        **options,
    ) -> Result:
        """Label pictures (B, 3, H, W) in [0, 1] -> the image, or the domains in `generate`."""
        plan = self.plan(generate, conditions)
        return self.run(plan, conditions=conditions, prompt=prompt, **options)

    def generate(
        self, prompt: str | Sequence[str], labels: Iterable[str] = (), **options
    ) -> Result:
        """A prompt -> the image and the named labels, made together."""
        return self.run(self.plan(["image", *labels]), prompt=prompt, **options)

    def prepare(
        self,
        pictures: Pictures,
        size: str = DEFAULT_SIZE,
        *,
        fit: str = "crop",
        explicit: tuple[int, int] = (0, 0),
    ) -> Given:
        """Pictures of any sizes, by domain, as the rules of a job fit them to this model.

        size: one of `SIZE_CHOICES`; explicit: (H, W) for "width and height". Raises: as
        `job.given.prepare`.
        """
        about = {"factor": self.factor, "native": self.native_size, "names": self.names}
        return prepare(pictures, size, explicit=explicit, mode=fit, **about)

    @torch.inference_mode()
    def run(
        self,
        plan: RolePlan,
        *,
        conditions: Pictures | None = None,
        prompt: str | Sequence[str] = "",
        negative: str | Sequence[str] = "",
        text: TextFeatures | None = None,
        negative_text: TextFeatures | None = None,
        size: tuple[int, int] | str | None = None,
        fit: str = "crop",
        batch: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | Sequence[int] = 0,
        sampler: str = "dpmpp_2m",
        callback: StepCallback | None = None,
        tile: int | None = None,
        **options,
    ) -> Result:
        """Any role plan from pictures and text to pictures.

        conditions: one picture (B or 1, 3, H, W) in [0, 1] for every domain whose role is
        condition, all of one size, sides multiples of `factor`. size (H, W) and batch: taken from
        the conditions and prompts when not given. A size by name, such as "picture ratio", takes
        pictures of any sizes: they are fitted as `prepare` does, and `Result.given` says how. Row
        i uses seed + i, or its own of a list. steps and guidance: the model's own (10) and 1 for
        perception, 20 and its own otherwise. text, negative_text: stored features in place of
        prompts. callback: see `sampling.StepInfo`. tile: see `DCAE.encode`. options: see `sample`.
        Raises: RoleError, ShapeError or TextError for input that does not fit; Interrupted when
        the callback stopped it.
        """
        conditions = dict(conditions or {})
        texts = {"prompt": prompt, "negative prompt": negative}
        texts |= {"text features": text, "negative text features": negative_text}
        check_pictures(plan, self.names, conditions)
        batch = count_rows(conditions, texts, batch)
        given = None
        if isinstance(size, str):
            given = self.prepare(conditions, size, fit=fit)
            conditions, size = {name: given.fitted(name) for name in given.pictures}, given.size
        size = agree_on_size(conditions, size, default=self.native_size, factor=self.factor)
        clean = self.encode_conditions(plan, conditions, size, batch, tile=tile)
        if steps is None:
            steps = STEPS if plan.uses_text else self.facts.perception_steps
        guidance = self.default_guidance(plan) if guidance is None else guidance
        if plan.uses_text:
            text = text or self.encode_text(prompt)
            if guidance != 1 and negative_text is None:
                negative_text = self.encode_text(negative, like=text)
        latents = self.sample(
            plan,
            clean,
            text,
            negative_text,
            steps=steps,
            guidance=guidance,
            seed=seed,
            sampler=sampler,
            callback=callback,
            **options,
        )
        raw = self.decode(latents, plan.generated_names, tile=tile)
        pictures = {name: postprocess(self.domain(name), x) for name, x in raw.items()}
        for name in plan.condition_names:
            pictures[name] = conditions[name].float().cpu().expand(batch, 3, -1, -1)
        settings = {
            "roles": plan.text(),
            "task": plan.task,
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "negative": negative if isinstance(negative, str) else list(negative),
            "seed": int(seed) if isinstance(seed, (int, Integral)) else [int(s) for s in seed],
            "steps": steps,
            "guidance": guidance,
            "sampler": sampler,
            "size": list(size),
            "batch": batch,
            "model": self.facts.title,
            "dtype": str(self.dtype).removeprefix("torch."),
            **{k: v for k, v in options.items() if isinstance(v, (bool, int, float, str))},
        }
        return Result(plan, latents, raw, pictures, settings, given)

    def default_guidance(self, plan: RolePlan) -> float:
        """1 when the image is given (guidance has no effect then), else the model's own value."""
        return self.facts.guidance if plan.uses_text else 1.0


def choose_cpu_dtype(config: TransformerConfig) -> torch.dtype:
    """bfloat16, as published, for the released sizes where this CPU gains by it; else float32."""
    pays = config == JODI_1600M and measure_bfloat16_gain() >= WORTH_IT
    return torch.bfloat16 if pays else torch.float32
