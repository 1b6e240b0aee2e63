"""The functions that the nodes use of ComfyUI. Only this folder touches its internals.

Wires: LATENT samples and the clean latents in CONDITIONING are (B, z, L, h, w), unscaled; the
model scales them by its latent format. The core wants the domains second, (B, L, z, h, w).
Shapes: B rows, L domains, z latent channels, h w latent grid, S text tokens, Cc text channels.
"""

import itertools

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ...jodi_core.model.facts import ModelFacts, VAEFacts
from ...kit.errors import JodiError
from ...kit.sampling import SAMPLERS, StepInfo, make_flow_sigmas
from .dcae import JodiVAE
from .flow import find_flow_shift
from .jodi_model import JodiHostModel

# From here on a schedule begins at pure noise: the published one stops 0.001 short of it.
PURE_NOISE = 0.9989
# Samplers take logarithms of 1 - sigma; other schedules begin at 1.
ALMOST_ONE = 1 - 1e-6


def read_model_facts(model) -> ModelFacts:
    """Facts of a MODEL wire; the shift is the file's, even where a node between changed it.

    Raises: JodiError, naming the loader, when the MODEL is not Jodi.
    """
    return _jodi_model(model).facts


def read_model_shift(model) -> float:
    """The flow shift of a MODEL wire, as nodes between set it.

    Raises: JodiError for a sampling that the published schedule does not fit, and as
    `read_model_facts`.
    """
    _jodi_model(model)
    return find_flow_shift(model.get_model_object("model_sampling"))


def make_null_text(model) -> list:
    """CONDITIONING of the empty prompt, from the model's own null text: what perception needs."""
    text, mask = _jodi_model(model).null_text()
    return [[text.cpu(), {"pooled_output": None, "attention_mask": mask.cpu()}]]


def read_vae_facts(vae) -> VAEFacts:
    """Facts of a VAE wire.

    Raises: JodiError, naming the loader, when the VAE is not a DC-AE.
    """
    return VAEFacts.of(_jodi_vae(vae).config)


def encode_domain(vae, x: Tensor, *, tile: int | None = None) -> Tensor:
    """One domain's pictures (B, 3, H, W) in [-1, 1] (`labels.preprocess`) -> (B, z, h, w) unscaled.

    Float32 on the host's intermediate device. tile: pixels per side; None tiles when memory runs
    out. Results of recent calls are kept (by content), so an unchanged picture costs nothing.
    Raises: ShapeError for sides that are no multiple of the factor; JodiError as `read_vae_facts`.
    """
    return _jodi_vae(vae).encode_domain(x, tile=tile)


def decode_domain(vae, samples: Tensor, index: int, *, tile: int | None = None) -> Tensor:
    """One domain of LATENT samples (B, z, L, h, w) -> decoder output (B, H, W, 3).

    Float32, about [-1, 1], neither clamped nor post-processed: `labels.postprocess` wants it so.
    Raises: ShapeError for samples of other channels, or an index outside L; JodiError as
    `read_vae_facts`.
    """
    return _jodi_vae(vae).decode_domain(samples, index, tile=tile)


def make_jodi_sigmas(steps: int, shift: float = 3.0, start: float = 1.0) -> Tensor:
    """SIGMAS of the published schedule: (steps + 1,) float32, descending to 0."""
    return torch.tensor(make_flow_sigmas(steps, shift, start=start), dtype=torch.float32)


def make_jodi_sampler(name: str = "dpmpp_2m"):
    """A SAMPLER that runs the core's sampler `name` (a key of `SAMPLERS`) inside the host.

    With `make_jodi_sigmas` it gives the published results in SamplerCustom: it starts from the
    noise itself where the schedule starts at its top, as the published code does.
    """
    if name not in SAMPLERS:
        raise JodiError(f"sampler {name!r} is unknown; use {' or '.join(SAMPLERS)}")
    return comfy.samplers.KSAMPLER(_SAMPLER_FUNCTIONS[name])


def run_sampler(
    model,
    positive: list,
    negative: list,
    latent: dict,
    *,
    noise: Tensor,
    sampler,
    sigmas: Tensor,
    guidance: float,
    seed: int = 0,
    callback=None,
) -> Tensor:
    """Sample as SamplerCustom does: progress, previews, masks, memory and Cancel are the host's.

    latent: a LATENT; noise as its samples -> samples (B, z, L, h, w), unscaled, float32 on the
    host's intermediate device. Slots of conditions come back as given, ignored ones as zeros.
    callback: one of `make_sampling_progress`, for a job in several runs.
    """
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    return comfy.sample.sample_custom(
        model,
        noise,
        guidance,
        sampler,
        sigmas,
        positive,
        negative,
        samples,
        noise_mask=latent.get("noise_mask"),
        callback=callback or latent_preview.prepare_callback(model, sigmas.shape[-1] - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )


def make_sampling_progress(model, steps: int, runs: int = 1) -> list:
    """A callback for each of `runs` runs of `steps` steps: one progress bar, with live previews."""
    report = latent_preview.prepare_callback(model, steps * runs)

    def callback(run: int):
        return lambda step, x0, x, _: report(run * steps + step, x0, x, steps * runs)

    return [callback(run) for run in range(runs)]


def check_cancel() -> None:
    """Raise the host's interrupt when the user pressed Cancel. Call it once per chunk of work."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def progress(total: int):
    """A progress bar of the running node: call `.update(1)` on it; it heeds Cancel too."""
    return comfy.utils.ProgressBar(total)


def _jodi_model(model) -> JodiHostModel:
    inner = getattr(model, "model", None)
    if isinstance(inner, JodiHostModel):
        return inner
    raise JodiError(
        f"expected a Jodi MODEL, got {type(inner).__name__}; connect Load Jodi or Load Jodi Model"
    )


def _jodi_vae(vae) -> JodiVAE:
    if isinstance(vae, JodiVAE):
        return vae
    raise JodiError(
        f"expected the DC-AE as VAE, got {type(vae).__name__}, another autoencoder; connect Load "
        "Jodi or Load Jodi VAE"
    )


def _sampler_function(name: str):
    run = SAMPLERS[name]

    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None, **_):
        find_flow_shift(
            model.inner_model.inner_model.model_sampling
        )  # refuses levels of another kind
        levels = [min(float(s), ALMOST_ONE) for s in sigmas]
        if any(s <= t for s, t in itertools.pairwise(levels)):
            raise JodiError(
                "Jodi's sampler needs SIGMAS that descend, got "
                f"{', '.join(f'{s:.4g}' for s in levels[:6])}; use Jodi Scheduler, or another "
                "sampler such as euler"
            )
        if levels[0] >= PURE_NOISE:
            x = getattr(model, "noise", x).to(x)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            return model(x, x.new_full((len(x),), sigma), **(extra_args or {}))

        def report(step: StepInfo) -> None:
            if callback is not None:
                state = {"i": step.step - 1, "x": step.x, "denoised": step.denoised}
                callback({**state, "sigma": step.sigma, "sigma_hat": step.sigma})

        return run(denoise, x, levels, report)

    return sample


_SAMPLER_FUNCTIONS = {name: _sampler_function(name) for name in SAMPLERS}


def block_output(message: str) -> ExecutionBlocker:
    """A result that stops the nodes that use it, with a message, and no other node."""
    return ExecutionBlocker(message)
