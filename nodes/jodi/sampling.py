"""Sampling: one node with good defaults, and its parts for SamplerCustom graphs."""

import logging

import torch
from comfy_api.latest import io
from torch import Tensor

from ...jodi_core.model.facts import PERCEPTION_STEPS, STEPS
from ...jodi_core.roles import Role
from ...kit.errors import RoleError
from ...kit.sampling import SAMPLERS, draw_noise
from ..host.sampler import (
    check_cancel,
    make_jodi_sampler,
    make_jodi_sigmas,
    make_sampling_progress,
    read_model_facts,
    read_model_shift,
    run_sampler,
)
from ..wires.agreement import check_together
from ..wires.job import LatentJob, read_job
from ..wires.places import check_pasted
from ..wires.rows import (
    find_row_numbers,
    make_row_seeds,
    read_roles,
    take_conditioning_rows,
    take_latent_rows,
)

log = logging.getLogger("jodi")

MAX_STEPS = 1000
SAMPLER_NAMES = list(SAMPLERS)
DENOISE_TIP = (
    "1 starts from pure noise. Below 1, sampling starts part of the way from the pictures "
    "connected to generated domains, and stays closer to them the smaller it is."
)


class JodiSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiSampler",
            display_name="Jodi Sampler",
            category="Jodi",
            description=(
                "Samples what Jodi Roles set up, with the published sampler and settings that "
                "suit the task. KSampler works too; this node gives the published results."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The Jodi model, with or without LoRAs."),
                io.Conditioning.Input("positive", tooltip="positive of Jodi Roles."),
                io.Conditioning.Input("negative", tooltip="negative of Jodi Roles."),
                io.Latent.Input("latent_image", tooltip="latent of Jodi Roles."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Row i of a batch uses seed + i, so a row is the same in any batch. "
                    "A seed means the same whatever is connected.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=MAX_STEPS,
                    tooltip=f"0 is automatic: {PERCEPTION_STEPS} when the image is given, "
                    f"{STEPS} otherwise.",
                ),
                io.Float.Input(
                    "cfg",
                    default=0.0,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How strongly the prompt is followed. 0 is automatic: 1 when the "
                    "image is given (it has no effect then), otherwise the model's own value "
                    "(4.5 for the released one). 1 ignores the negative prompt and is twice as "
                    "fast.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=SAMPLER_NAMES,
                    default=SAMPLER_NAMES[0],
                    optional=True,
                    tooltip=(
                        "dpmpp_2m is the published sampler; euler is simpler and needs more steps."
                    ),
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip=DENOISE_TIP,
                ),
                io.Int.Input(
                    "chunk",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    tooltip="Rows sampled at a time, for long batches and video; 0 is all at "
                    "once. It bounds the memory and does not change the result.",
                ),
                io.Boolean.Input(
                    "fixed_noise",
                    default=False,
                    optional=True,
                    tooltip="Every row starts from the same noise. Steadies the labels of a video.",
                ),
            ],
            hidden=[io.Hidden.prompt],
            outputs=[
                io.Latent.Output(
                    "latent", "latent", tooltip="To Jodi Decode Label or Jodi Decode All."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        latent_image,
        seed,
        steps,
        cfg,
        sampler_name=SAMPLER_NAMES[0],
        denoise=1.0,
        chunk=0,
        fixed_noise=False,
    ):
        facts = read_model_facts(model)
        job, roles = read_job(latent_image), read_roles(positive)
        check_pasted(latent_image["samples"], cls.hidden)
        uses_text = bool((roles[:, 0] != Role.CONDITION).any())
        steps = steps or (STEPS if uses_text else facts.perception_steps)
        # the network reads no text when the image is given: both halves would be equal
        guidance = (cfg or facts.guidance) if uses_text else 1.0
        samples = latent_image["samples"]
        seeds = make_row_seeds(latent_image, seed, fixed_noise)
        numbers = find_row_numbers(latent_image, positive, negative)
        check_together(latent_image, job, numbers, positive=positive, negative=negative)
        if denoise < 1:
            _check_start(job, roles, latent_image["samples"], denoise)
        sigmas = make_jodi_sigmas(steps, read_model_shift(model), denoise)
        sampler = make_jodi_sampler(sampler_name)
        results = []
        size = chunk or len(samples)
        starts = range(0, len(samples), size)
        callbacks = make_sampling_progress(model, steps, len(starts))
        for start, callback in zip(starts, callbacks, strict=True):
            check_cancel()
            stop = min(start + size, len(samples))
            part = take_latent_rows(latent_image, start, stop)
            batch, channels, domains, h, w = part["samples"].shape
            noise = draw_noise((batch, domains, channels, h, w), seeds[start:stop])
            result = run_sampler(
                model,
                take_conditioning_rows(positive, numbers[start:stop]),
                take_conditioning_rows(negative, numbers[start:stop]),
                part,
                noise=noise.transpose(1, 2).contiguous(),
                sampler=sampler,
                sigmas=sigmas,
                guidance=guidance,
                seed=seed,
                callback=callback,
            )
            results.append(result)
        return io.NodeOutput({**latent_image, "samples": torch.cat(results)})


def _check_start(job: LatentJob, roles: Tensor, samples: Tensor, denoise: float) -> None:
    """Pass unless denoise is below 1 and there is no picture to start from. Raises: RoleError."""
    made = [n for n, role in enumerate(roles.T) if (role == Role.GENERATE).any()]
    empty = [job.names[n] for n in made if not samples[:, :, n].any()]
    if not empty:
        return
    if len(empty) == len(made):
        raise RoleError(
            f"denoise is {denoise:g}, but there is no picture of {', '.join(empty)} to start from; "
            "set denoise to 1, or connect the picture to Jodi Roles and set its role to generate"
        )
    log.warning("denoise is %g, but nothing is connected to start %s from", denoise, empty)


class JodiSamplerSelect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiSamplerSelect",
            display_name="Jodi Sampler Select",
            category="Jodi",
            description=(
                "The published sampler for SamplerCustom and SamplerCustomAdvanced. Use it with "
                "Jodi Scheduler: the host's dpmpp_2m and simple schedule give other results."
            ),
            inputs=[
                io.Combo.Input(
                    "sampler_name",
                    options=SAMPLER_NAMES,
                    default=SAMPLER_NAMES[0],
                    tooltip=(
                        "dpmpp_2m is the published sampler; euler is simpler and needs more steps."
                    ),
                )
            ],
            outputs=[io.Sampler.Output("sampler", "sampler", tooltip="To SamplerCustom.")],
        )

    @classmethod
    def execute(cls, sampler_name):
        return io.NodeOutput(make_jodi_sampler(sampler_name))


class JodiScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiScheduler",
            display_name="Jodi Scheduler",
            category="Jodi",
            description="The published noise schedule for SamplerCustom and SamplerCustomAdvanced.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The Jodi model; its flow shift (3 if not changed) is used."
                ),
                io.Int.Input(
                    "steps",
                    default=STEPS,
                    min=1,
                    max=MAX_STEPS,
                    tooltip=f"{STEPS} as published; {PERCEPTION_STEPS} are enough when the image "
                    "is given.",
                ),
                io.Float.Input(
                    "denoise", default=1.0, min=0.01, max=1.0, step=0.01, tooltip=DENOISE_TIP
                ),
            ],
            outputs=[io.Sigmas.Output("sigmas", "sigmas", tooltip="To SamplerCustom.")],
        )

    @classmethod
    def execute(cls, model, steps, denoise):
        return io.NodeOutput(make_jodi_sigmas(steps, read_model_shift(model), denoise))


NODES = [JodiSampler, JodiSamplerSelect, JodiScheduler]
