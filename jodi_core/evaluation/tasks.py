"""The tasks of an evaluation, chunk by chunk: what is made of scenes, and which tally scores it."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from ...kit.reader.reader import load_reader
from ...kit.scenes.render import SceneBatch, render_scenes
from ..domains import DOMAIN_NAMES, find_domain_index
from ..labels.maps import postprocess
from ..pipeline import JodiPipeline
from . import joint
from .baselines import BaselineBoard
from .examples import Example, pick_places
from .geneval import GenevalTally
from .reading import ReadingTally
from .real import Infer
from .reextraction import make_error_tally
from .report import Strip, Value
from .runs import RunBoard
from .scores import RANKED, Tally, make_tally

LABELS = DOMAIN_NAMES[1:]
ONE_AT_A_TIME = "one at a time: labels from the picture, the picture from all labels"

Patterns = tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
"""Tasks without text: what is made, and from what."""

ANY_TO_ANY: Patterns = (
    (("depth",), ("normal",)),
    (("normal",), ("depth",)),
    (("image", "segmentation"), ("depth", "normal")),
)
"""The released model was not trained on these."""

PATTERNS: Patterns = (
    (("image",), ("depth",)),
    (("image",), ("depth", "segmentation")),
    (("depth", "normal"), ("image",)),
    (("normal",), ("image", "depth")),
    (("segmentation",), ("image", "depth")),
    (("depth",), ("edge",)),
    (("image", "normal"), ("depth",)),
)
"""The first three are of the released training, the others are not."""


class Evaluation:
    """The state of one evaluation: tallies by key, what runs took, a few pictures to show.

    steps: of perception; control_steps, guidance: where text or labels are given. show: scenes
    whose pictures are kept. extractor: reads labels back, before the reader.
    """

    def __init__(
        self,
        pipeline: JodiPipeline,
        size: tuple[int, int],
        *,
        steps: int,
        control_steps: int,
        guidance: float | None,
        show: int,
        extractor: Infer | None = None,
    ):
        self.pipeline, self.size, self.show = pipeline, size, show
        self.steps, self.control_steps, self.guidance = steps, control_steps, guidance
        self.extractor, self.runs = extractor, RunBoard(pipeline)
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
            "any": lambda truth, seeds: self._label_to_label(truth, seeds, ANY_TO_ANY),
            "joint": self._together,
            "reextraction": self._control_by_each,
            "patterns": lambda truth, seeds: self._label_to_label(truth, seeds, PATTERNS),
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
        self._add_geneval("labels", true["image"], truth.captions)
        self._add_geneval("ceiling", back["image"], truth.captions)
        if len(seeds) > 1:
            captions = [*truth.captions[1:], truth.captions[0]]
            self._add_joint("shuffled", joint.shuffle_scenes(true), captions)
            self._read("shuffled", true["image"], captions)

    def _perceive_each(self, truth: SceneBatch, seeds: list[int]) -> None:
        """Each label alone from the picture."""
        made = {}
        for name in self.labels:
            made[name] = self.perceive(truth, name, seeds)
            self._score(name, name, "model", made[name], truth)
        self._keep(ONE_AT_A_TIME, made)

    def _control(self, truth: SceneBatch, seeds: list[int]) -> None:
        """The picture from all labels and the caption."""
        picture = self.draw_from(self.labels, truth, seeds, "control")
        self._score("control", "image", "model", picture, truth)
        self._keep(ONE_AT_A_TIME, {"image": picture})

    def perceive(self, truth: SceneBatch, name: str, seeds: list[int]) -> Tensor:
        """One label alone from the picture."""
        options = {"steps": self.steps, "guidance": 1.0}
        result = self.runs.do(
            name,
            len(seeds),
            lambda: self.pipeline.perceive(truth.pictures[:, 0], [name], seed=seeds, **options),
            **options,
        )
        return result.pictures[name]

    def draw_from(
        self, labels: Sequence[str], truth: SceneBatch, seeds: list[int], task: str
    ) -> Tensor:
        """The picture from some labels and the caption."""
        given = {name: truth.pictures[:, find_domain_index(name)] for name in labels}
        options = {"steps": self.control_steps, "guidance": self.guidance}
        prompts = self._prompts(truth)
        result = self.runs.do(
            task,
            len(seeds),
            lambda: self.pipeline.control(given, prompts, seed=seeds, **options),
            **options,
        )
        return result.pictures["image"]

    def _control_by_each(self, truth: SceneBatch, seeds: list[int]) -> None:
        """The picture from one label and the caption, and the label read back from it."""
        image = truth.pictures[:, 0]
        for name in self.labels:
            key = f"control.{name}"
            asked = [make_error_tally(name, self.reader, self.extractor) for _ in range(3)]
            if asked[0] is None:
                continue
            picture = self.draw_from([name], truth, seeds, key)
            shown = {"model": picture, "floor": image}
            if len(seeds) > 1:
                shown["chance"] = image.roll(1, 0)
            for (whose, pictures), fresh in zip(shown.items(), asked, strict=False):
                assert fresh is not None
                self.tallies.setdefault((key, whose), fresh).add(pictures, truth)

    def _label_to_label(self, truth: SceneBatch, seeds: list[int], patterns: Patterns) -> None:
        """Labels, or picture and labels, from other maps without text."""
        for generate, condition in patterns:
            if not {*generate, *condition} <= set(self.names):
                continue
            given = {name: truth.pictures[:, find_domain_index(name)] for name in condition}
            key = f"any.{'_'.join(generate)}_from_{'_'.join(condition)}"
            options = {"steps": self.control_steps, "guidance": 1.0}
            job = partial(self.pipeline.control, given, "", generate, seed=seeds, **options)
            result = self.runs.do(key, len(seeds), job, **options)
            for name in generate:
                own = key if len(generate) == 1 else f"{key}.{name}"
                self._score(own, name, "model", result.pictures[name], truth)
                self.same_baseline[own] = name

    def _together(self, truth: SceneBatch, seeds: list[int]) -> None:
        """All labels of the picture at once, and picture and labels from the caption alone."""
        image, options = truth.pictures[:, 0], {"steps": self.steps, "guidance": 1.0}
        result = self.runs.do(
            "all",
            len(seeds),
            lambda: self.pipeline.perceive(image, self.labels, seed=seeds, **options),
            **options,
        )
        for name in self.labels:
            self._score(f"all.{name}", name, "model", result.pictures[name], truth)
        self._keep("all labels at once from the picture", result.pictures)
        self._add_joint("perceived", result.pictures, truth.captions)
        if self.pipeline.text_encoder is None:
            return
        made = self._generate("joint", self.labels, truth.captions, seeds)
        self._keep("everything from the caption", made)
        self._add_joint("model", made, truth.captions)
        self._read("model", made["image"], truth.captions)
        self._add_geneval("joint", made["image"], truth.captions)
        alone = self._generate("text", (), truth.captions, seeds)["image"]
        self._add_geneval("model", alone, truth.captions)
        if len(seeds) > 1:
            self._add_geneval("chance", alone.roll(1, 0), truth.captions)

    def _generate(self, task: str, labels, captions: list[str], seeds: list[int]):
        """The picture, and some labels, from captions."""
        options = {"steps": self.control_steps, "guidance": self.guidance}
        result = self.runs.do(
            task,
            len(seeds),
            lambda: self.pipeline.generate(captions, labels, size=self.size, seed=seeds, **options),
            **options,
        )
        return result.pictures

    def values(self, resamples: int) -> dict[str, Value]:
        """All measures by key; None where nothing could be measured."""
        values: dict[str, Value] = {}
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
        return dict(sorted((values | self.runs.values()).items()))

    def examples(self, first_seed: int) -> list[Example]:
        """The best, the middle and the worst scene of each label made alone, and of the picture
        made from all labels, made once more. first_seed: of the scenes, in their order."""
        found = []
        for name in self.names:
            tally = self.tallies.get((_key(name), "model"))
            if tally is None:
                continue
            measure, higher = RANKED[name]
            scores = tally.each()[measure].tolist()
            for place, index in pick_places(scores, higher).items():
                seed = first_seed + index
                truth = render_scenes([seed], self.size)
                made = self._again(name, truth, [seed])
                cells = [("picture", truth.pictures[0, 0])]
                if name != "image":
                    cells.append(("truth", truth.pictures[0, find_domain_index(name)]))
                cells.append(("made", made[0].detach().float().cpu()))
                caption = truth.captions[0]
                about = (name, place, str(seed), caption, measure, scores[index])
                found.append(Example(*about, cells))
        return found

    def _again(self, name: str, truth: SceneBatch, seeds: list[int]) -> Tensor:
        if name == "image":
            return self.draw_from(self.labels, truth, seeds, "control")
        return self.perceive(truth, name, seeds)

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

    def _add_geneval(self, whose: str, pictures: Tensor, captions: list[str]) -> None:
        tally = self.tallies.setdefault(("geneval", whose), GenevalTally(self.reader))
        assert isinstance(tally, GenevalTally)
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
