"""Any program that makes maps of a picture, scored on rendered scenes as Jodi's perception is.

The keys are those of `evaluate`: "<label>.<measure>.model" beside the same baselines, so that two
reports can be laid side by side.
"""

import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ...kit.errors import JodiError
from ...kit.memory import measure_peak_memory
from ...kit.scenes.render import TRAIN_SEED_END, check_evaluation_seeds, render_scenes
from ..domains import DOMAIN_NAMES, find_domain_index
from .baselines import BaselineBoard, average_training_scenes
from .examples import Example, pick_places
from .real import Infer, fit_map
from .report import Report, Strip, Value
from .scores import RANKED, Tally, make_tally
from .tasks import LABELS


def evaluate_maps(
    infer: Infer,
    title: str,
    *,
    scenes: int = 512,
    first_seed: int = TRAIN_SEED_END,
    size: int | tuple[int, int] = 64,
    labels: Iterable[str] = LABELS,
    training_scenes: int = 256,
    resamples: int = 1000,
    show: int = 8,
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Score what `infer` makes of scenes that training never uses.

    infer: see `real.Infer`; it may leave labels out, which are then not scored. title: names it in
    the report. size: (height, width) or one number. show: scenes whose pictures are kept; where
    it is not 0, `infer` makes the best, the middle and the worst scene of each label once more.
    Raises: JodiError for training seeds, counts that make no sense, and labels that come for some
    pictures only; ImageError for a map of no known shape.
    """
    height, width = (size, size) if isinstance(size, int) else size
    wanted = tuple(labels)
    seeds = check_evaluation_seeds(first_seed, scenes)
    boards: dict[str, BaselineBoard] = {}
    tallies: dict[str, Tally] = {}
    strips: list[Strip] = []
    begun, seconds = time.perf_counter(), 0.0
    for start in range(0, scenes, batch):
        chunk = list(seeds[start : start + batch])
        truth = render_scenes(chunk, (height, width))
        made: dict[str, list[Tensor]] = {}
        for picture in truth.pictures[:, 0]:
            before = time.perf_counter()
            maps = infer(picture[None], wanted)
            seconds += time.perf_counter() - before
            for name in wanted:
                if name in maps:
                    drawn = fit_map(maps[name], (height, width), name)
                    made.setdefault(name, []).append(drawn)
        if not boards:  # they take a while, and a faulty program is told before
            statistics = average_training_scenes((height, width), training_scenes)
            boards = {name: BaselineBoard(name, statistics) for name in wanted}
        for name, drawings in made.items():
            if len(drawings) != len(chunk):
                raise JodiError(
                    f"{title} made {name} of some pictures only; make it of all or none"
                )
            tallies.setdefault(name, make_tally(name)).add(torch.stack(drawings), truth)
            boards[name].add(truth)
        for i in range(min(len(chunk), max(0, show - len(strips)))):
            true = {n: truth.pictures[i, find_domain_index(n)] for n in DOMAIN_NAMES}
            rows = {"truth": true, title: {n: d[i] for n, d in made.items()}}
            strips.append(Strip(chunk[i], truth.captions[i], rows))
        if progress:
            progress(min(start + batch, scenes), scenes)
    values: dict[str, Value] = {}
    for name, tally in tallies.items():
        values |= {f"{name}.{k}.model": _plain(v) for k, v in tally.values().items()}
        for k, (low, high) in tally.intervals(resamples).items() if resamples else ():
            if k in tally.headline:
                values[f"{name}.{k}.model.ci95.low"] = _plain(low)
                values[f"{name}.{k}.model.ci95.high"] = _plain(high)
        for whose, measures in boards[name].values().items():
            values |= {f"{name}.{k}.{whose}": _plain(v) for k, v in measures.items()}
    values |= {"model": title, "scenes": scenes, "first_seed": first_seed, "size": height}
    if height != width:
        values["size"] = f"{height}x{width}"
    values |= {"steps": None, "control.prompt": "none", "parts": "perception"}
    values |= {"baseline.training_scenes": training_scenes}
    values["perception.seconds_per_picture"] = round(seconds / scenes, 5)
    values["peak_memory_mb"] = measure_peak_memory("cpu")
    values["seconds"] = round(time.perf_counter() - begun, 1)
    examples = _show_examples(infer, tallies, first_seed, (height, width)) if show else []
    return Report(dict(sorted(values.items())), strips, examples)


def _show_examples(infer: Infer, tallies, first_seed: int, size) -> list[Example]:
    """The best, the middle and the worst scene of each label."""
    found = []
    for name, tally in tallies.items():
        measure, higher = RANKED[name]
        scores = tally.each()[measure].tolist()
        for place, index in pick_places(scores, higher).items():
            truth = render_scenes([first_seed + index], size)
            picture, true = truth.pictures[0, 0], truth.pictures[0, find_domain_index(name)]
            drawn = fit_map(infer(picture[None], (name,))[name], size, name)
            cells = [("picture", picture), ("truth", true), ("made", drawn)]
            about = (name, place, str(first_seed + index), truth.captions[0])
            found.append(Example(*about, measure, scores[index], cells))
    return found


def _plain(value: float) -> float | None:
    return round(value, 6) if value == value else None
