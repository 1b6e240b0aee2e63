"""The whole evaluation: how well a pipeline does each task on scenes it has never seen.

Every label is perceived alone from the picture (one sample each, no averaging), the picture is made
from all labels, labels are made from labels, and whole sets of maps are made at once. Scenes come
in chunks and only sums are kept, so memory does not grow with their number.
"""

import logging
import time
from collections.abc import Callable, Iterable

from torch import Tensor

from ...kit.errors import JodiError, ShapeError
from ...kit.reader.reader import load_reader
from ...kit.scenes.render import TRAIN_SEED_END, SceneBatch, check_evaluation_seeds, render_scenes
from ..domains import DOMAIN_NAMES, find_domain_index
from ..labels.maps import postprocess
from ..model.facts import STEPS
from ..pipeline import JodiPipeline
from . import joint
from .baselines import BaselineBoard, average_training_scenes
from .reading import ReadingTally
from .report import Report, Strip
from .scores import Tally, make_tally

logger = logging.getLogger("jodi")

PARTS = ("perception", "control", "any", "joint")
LABELS = DOMAIN_NAMES[1:]
ONE_AT_A_TIME = "one at a time: labels from the picture, the picture from all labels"

ANY_TO_ANY: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("depth",), ("normal",)),
    (("normal",), ("depth",)),
    (("image", "segmentation"), ("depth", "normal")),
)
"""Tasks without text: what is made, and from what. The released model was not trained on them."""

Progress = Callable[[int, int, str], None]


def evaluate(
    pipeline: JodiPipeline,
    *,
    scenes: int = 512,
    first_seed: int = TRAIN_SEED_END,
    size: int | tuple[int, int] | None = None,
    steps: int | None = None,
    control_steps: int = STEPS,
    guidance: float | None = None,
    batch: int = 32,
    parts: Iterable[str] = PARTS,
    training_scenes: int = 256,
    resamples: int = 1000,
    show: int = 8,
    progress: Progress | None = None,
) -> Report:
    """Measure a pipeline on scenes of evaluation seeds.

    scenes, first_seed: seeds first_seed.. are used, at least 2^24. size: (height, width) or one
    number; the pipeline's own by default. steps: of single-label perception and of all labels at
    once, always without guidance. control_steps, guidance: of the tasks that read text. Steps and
    guidance that are None are the pipeline's own. batch: scenes in memory at a time. parts: which
    of `PARTS` to do.
    training_scenes: how many the baselines are averaged over. resamples: of the bootstrap. show:
    scenes whose pictures are kept for the report. progress(done, total, what) after every run.
    Row i of a run uses its scene's seed as noise seed, so that results do not depend on `batch`.

    Returns: a `Report`, whose values are flat: "<what>.<measure>.<whose>".
    Raises: JodiError for training seeds, counts or parts that make no sense; ShapeError for a size
    that the pipeline cannot do.
    """
    seeds = check_evaluation_seeds(first_seed, scenes)
    height, width = _checked_size(pipeline, size)
    wanted = _checked_parts(parts)
    steps = pipeline.facts.perception_steps if steps is None else steps
    if min(batch, steps, control_steps, training_scenes) < 1:
        raise JodiError(
            "batch, steps, control_steps and training_scenes must be at least 1, got "
            f"{batch}, {steps}, {control_steps} and {training_scenes}"
        )
    begun = time.perf_counter()
    run = _Evaluation(pipeline, (height, width), steps, control_steps, guidance, show)
    statistics = average_training_scenes((height, width), training_scenes)
    run.baselines = {name: BaselineBoard(name, statistics) for name in run.names}
    total, done = -(-scenes // batch) * len(wanted), 0
    for start in range(0, scenes, batch):
        chunk = list(seeds[start : start + batch])
        truth = render_scenes(chunk, (height, width))
        run.begin(truth, chunk)
        for part in wanted:
            run.tasks[part](truth, chunk)
            done += 1
            if progress:
                progress(done, total, f"{part}, scene {start + len(chunk)} of {scenes}")
    values: dict[str, float | int | str | None] = dict(run.values(resamples))
    values |= {"scenes": scenes, "first_seed": first_seed, "size": height, "steps": steps}
    if height != width:
        values |= {"size": f"{height}x{width}"}
    values |= run.settings(wanted)
    values |= {"baseline.training_scenes": training_scenes, "batch": batch}
    values["seconds"] = round(time.perf_counter() - begun, 1)
    return Report(values, run.strips)


class _Evaluation:
    """The state of one evaluation: tallies by key, and a few pictures to show."""

    def __init__(self, pipeline, size, steps, control_steps, guidance, show):
        self.pipeline, self.size, self.show = pipeline, size, show
        self.steps, self.control_steps, self.guidance = steps, control_steps, guidance
        self.names = [n for n in DOMAIN_NAMES if n in pipeline.names]
        self.labels = [n for n in LABELS if n in pipeline.names]
        self.reader = load_reader()
        self.baselines: dict[str, BaselineBoard] = {}
        self.tallies: dict[tuple[str, str], Tally] = {}
        self.same_baseline: dict[str, str] = {}
        self.strips: list[Strip] = []
        self._fresh: list[Strip] = []
        self.tasks = {
            "perception": self._perceive_each,
            "control": self._control,
            "any": self._label_to_label,
            "joint": self._together,
        }

    def begin(self, truth: SceneBatch, seeds: list[int]) -> None:
        """What needs no sampling: baselines, the round trip, and the labels through the readers."""
        true = {name: truth.pictures[:, find_domain_index(name)] for name in self.names}
        back = self._round_trip(true)
        room = max(0, self.show - len(self.strips))
        self._fresh = [
            Strip(seed, caption, {})
            for seed, caption in list(zip(seeds, truth.captions, strict=True))[:room]
        ]
        self.strips += self._fresh
        self._keep("truth", true)
        self._keep("autoencoder round trip", back)
        for name in self.names:
            self._score(_key(name), name, "ceiling", back[name], truth)
            self._score(_key(name), name, "labels", true[name], truth)
            self.baselines[name].add(truth)
        self._add_joint("labels", true, truth.captions)
        self._add_joint("ceiling", back, truth.captions)
        self._read("labels", true["image"], truth.captions)
        self._read("ceiling", back["image"], truth.captions)
        if len(seeds) > 1:
            captions = [*truth.captions[1:], truth.captions[0]]
            self._add_joint("shuffled", joint.shuffle_scenes(true), captions)
            self._read("shuffled", true["image"], captions)

    def _perceive_each(self, truth: SceneBatch, seeds: list[int]) -> None:
        """Each label alone from the picture."""
        made = {}
        for name in self.labels:
            result = self.pipeline.perceive(
                truth.pictures[:, 0],
                [name],
                steps=self.steps,
                guidance=1.0,
                seed=seeds,
            )
            made[name] = result.pictures[name]
            self._score(name, name, "model", made[name], truth)
        self._keep(ONE_AT_A_TIME, made)

    def _control(self, truth: SceneBatch, seeds: list[int]) -> None:
        """The picture from all labels and the caption."""
        given = {name: truth.pictures[:, find_domain_index(name)] for name in self.labels}
        result = self.pipeline.control(
            given,
            self._prompts(truth),
            steps=self.control_steps,
            guidance=self.guidance,
            seed=seeds,
        )
        self._score("control", "image", "model", result.pictures["image"], truth)
        self._keep(ONE_AT_A_TIME, {"image": result.pictures["image"]})

    def _label_to_label(self, truth: SceneBatch, seeds: list[int]) -> None:
        """Labels, or picture and labels, from other labels without text."""
        for generate, condition in ANY_TO_ANY:
            if not {*generate, *condition} <= set(self.names):
                continue
            given = {name: truth.pictures[:, find_domain_index(name)] for name in condition}
            result = self.pipeline.control(
                given,
                "",
                generate,
                steps=self.control_steps,
                guidance=1.0,
                seed=seeds,
            )
            key = f"any.{'_'.join(generate)}_from_{'_'.join(condition)}"
            for name in generate:
                own = key if len(generate) == 1 else f"{key}.{name}"
                self._score(own, name, "model", result.pictures[name], truth)
                self.same_baseline[own] = name

    def _together(self, truth: SceneBatch, seeds: list[int]) -> None:
        """All labels of the picture at once, and picture and labels from the caption alone."""
        image = truth.pictures[:, 0]
        result = self.pipeline.perceive(image, self.labels, steps=self.steps, seed=seeds)
        for name in self.labels:
            self._score(f"all.{name}", name, "model", result.pictures[name], truth)
        self._keep("all labels at once from the picture", result.pictures)
        self._add_joint("perceived", result.pictures, truth.captions)
        if self.pipeline.text_encoder is None:
            return
        result = self.pipeline.generate(
            truth.captions,
            self.labels,
            size=self.size,
            steps=self.control_steps,
            guidance=self.guidance,
            seed=seeds,
        )
        self._keep("everything from the caption", result.pictures)
        self._add_joint("model", result.pictures, truth.captions)
        self._read("model", result.pictures["image"], truth.captions)

    def values(self, resamples: int) -> dict[str, float | None]:
        """All measures by key; None where nothing could be measured."""
        values: dict[str, float | None] = {}
        for (key, whose), tally in self.tallies.items():
            for measure, value in tally.values().items():
                values[f"{key}.{measure}.{whose}"] = _plain(value)
            if whose == "model" and resamples:
                bounds = tally.intervals(resamples)
                for measure in [m for m in tally.headline if m in bounds]:
                    low, high = bounds[measure]
                    values[f"{key}.{measure}.{whose}.ci95.low"] = _plain(low)
                    values[f"{key}.{measure}.{whose}.ci95.high"] = _plain(high)
        boards = {name: board.values() for name, board in self.baselines.items()}
        for name, board in boards.items():
            for whose, measures in board.items():
                for measure, value in measures.items():
                    values[f"{_key(name)}.{measure}.{whose}"] = _plain(value)
        for key, name in self.same_baseline.items():
            for measure, value in boards[name]["baseline"].items():
                values[f"{key}.{measure}.baseline"] = _plain(value)
        return dict(sorted(values.items()))

    def settings(self, parts: list[str]) -> dict[str, float | int | str]:
        """How the numbers were made."""
        plan = self.pipeline.plan(["image"])
        guidance = self.pipeline.default_guidance(plan) if self.guidance is None else self.guidance
        return {
            "control.steps": self.control_steps,
            "control.guidance": guidance,
            "control.prompt": "caption" if self.pipeline.text_encoder is not None else "none",
            "perception.guidance": 1.0,
            "parts": ",".join(parts),
            "model": self.pipeline.facts.title,
            "device": str(self.pipeline.device),
            "dtype": str(self.pipeline.dtype).removeprefix("torch."),
        }

    def _prompts(self, truth: SceneBatch) -> str | list[str]:
        return truth.captions if self.pipeline.text_encoder is not None else ""

    def _round_trip(self, true: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pictures after the autoencoder alone: the best its decoder can show of them."""
        back = {}
        for name, picture in true.items():
            latent = self.pipeline.encode_picture(name, picture)
            slots = latent.new_zeros(len(latent), len(self.pipeline.names), *latent.shape[1:])
            slots[:, self.pipeline.names.index(name)] = latent
            back[name] = postprocess(name, self.pipeline.decode(slots, [name])[name])
        return back

    def _score(self, key: str, name: str, whose: str, picture: Tensor, truth: SceneBatch) -> None:
        self.tallies.setdefault((key, whose), make_tally(name)).add(picture, truth)

    def _add_joint(self, whose: str, maps: dict[str, Tensor], captions: list[str]) -> None:
        if not set(joint.MAPS) <= set(maps):
            return
        tally = self.tallies.setdefault(("joint", whose), joint.ConsistencyTally())
        assert isinstance(tally, joint.ConsistencyTally)
        tally.add_maps(maps, captions)

    def _read(self, whose: str, pictures: Tensor, captions: list[str]) -> None:
        tally = self.tallies.setdefault(("joint.picture", whose), ReadingTally(self.reader))
        assert isinstance(tally, ReadingTally)
        tally.add_pictures(pictures, captions)

    def _keep(self, row: str, pictures: dict[str, Tensor]) -> None:
        for i, strip in enumerate(self._fresh):
            cells = strip.rows.setdefault(row, {})
            cells |= {name: p[i].detach().float().cpu() for name, p in pictures.items()}


def _key(name: str) -> str:
    """First part of a domain's keys: the picture is what the control task makes."""
    return "control" if name == "image" else name


def _plain(value: float) -> float | None:
    return round(value, 6) if value == value else None


def _checked_parts(parts: Iterable[str]) -> list[str]:
    parts = list(dict.fromkeys(parts))
    unknown = [p for p in parts if p not in PARTS]
    if unknown or not parts:
        raise JodiError(
            f"expected some of {', '.join(PARTS)} as parts of an evaluation, got "
            f"{', '.join(unknown) or 'none'}"
        )
    return parts


def _checked_size(pipeline: JodiPipeline, size: int | tuple[int, int] | None) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size or pipeline.native_size
    if height < 1 or width < 1 or height % pipeline.factor or width % pipeline.factor:
        raise ShapeError(
            f"sides must be positive multiples of {pipeline.factor} for this model, got "
            f"{height} x {width}"
        )
    return height, width
