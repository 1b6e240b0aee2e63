"""A pipeline as a maker of maps, for the evaluation on folders of real pictures."""

import torch
from torch import Tensor

from ..job.restore import restore_map
from ..job.size import DEFAULT_SIZE
from ..labels.ensemble import combine
from ..labels.maps import postprocess
from ..pipeline import JodiPipeline
from .real import Infer


def make_perceiver(
    pipeline: JodiPipeline,
    *,
    steps: int | None = None,
    samples: int = 1,
    together: bool = False,
    seed: int = 0,
) -> Infer:
    """Maps of a picture by perception, laid over the whole picture.

    The picture is fitted by padding, at its own proportions, so that nothing of it is left out.
    samples: more than one are combined as `labels.ensemble` does, from seeds seed, seed + 1, ...
    together: all labels in one run, instead of each alone.
    """

    def make_maps(image: Tensor, labels: tuple[str, ...]) -> dict[str, Tensor]:
        groups = [labels] if together else [(label,) for label in labels]
        return {
            label: drawn
            for group in groups
            for label, drawn in _perceive(pipeline, image, group, steps, samples, seed).items()
        }

    return make_maps


def _perceive(pipeline, image, labels, steps, samples, seed) -> dict[str, Tensor]:
    runs: dict[str, list[Tensor]] = {label: [] for label in labels}
    for number in range(samples):
        result = pipeline.perceive(
            image,
            labels,
            size=DEFAULT_SIZE,
            fit="pad",
            steps=steps,
            guidance=1.0,
            seed=seed + number,
        )
        frame = result.given.frame
        for label in labels:
            of = pipeline.domain(label)
            runs[label].append(postprocess(of, restore_map(of, result.raw[label], [frame]))[0])
    if samples == 1:
        return {label: run[0] for label, run in runs.items()}
    return {
        label: combine(pipeline.domain(label), torch.stack(run)).picture
        for label, run in runs.items()
    }
