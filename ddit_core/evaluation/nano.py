"""How well ddit-nano answers, captions and paints scenes that training never used."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...kit.reader.claims import Claims
from ...kit.scenes.questions import KINDS, SceneQuestion, draw_questions
from ...kit.scenes.render import check_evaluation_seeds, list_scene_things, render_scenes
from ...kit.scenes.things import Thing
from ..pipeline import DDiTPipeline
from ..text.draft import draft_caption, draft_question
from ..text.sampler import TextOptions, draw_uniforms
from ..text.schedule import count_published_evaluations, draw_reveal_steps
from .claims import read_claims, score_captions

Read = Callable[[Tensor], Sequence[Claims]]
Progress = Callable[[int, int], None]

CAPTION_OPTIONS = TextOptions(steps=11, temperature=0.0, words_only=True)
ANSWER_OPTIONS = TextOptions(steps=1, temperature=0.0, words_only=True)
CAPTION_STEPS, ANSWER_STEPS = 64, 32  # of the published sampler
QUESTIONS = 4  # a kind has one question for so many scenes
SEARCHED = 8  # scenes looked at to fill the kinds, as a multiple of those evaluated
BATCH = 32
COUNTED_SEEDS = 200


@dataclass
class NanoReport:
    """values: flat, by name. answers: (kind, question, right answer, answer) of every question.

    captions: each with the reference caption. evaluations: of the network, for each text. interval:
    of what is found in pictures above chance.
    """

    values: dict[str, float] = field(default_factory=dict)
    answers: list[tuple[str, str, str, str]] = field(default_factory=list)
    captions: list[tuple[str, str]] = field(default_factory=list)
    evaluations: dict[str, list[float]] = field(
        default_factory=lambda: {"caption": [], "answer": []}
    )
    interval: tuple[float, float] = (math.nan, math.nan)

    def summary(self) -> str:
        """The values as lines of text."""
        width = max(map(len, self.values))
        lines = [f"{name:{width}}  {value:.3f}" for name, value in self.values.items()]
        low, high = self.interval
        if not math.isnan(low):
            lines.append(f"{'imagine.found above chance, 95 %':{width}}  {low:.3f} to {high:.3f}")
        return "\n".join(lines)


def evaluate_nano(
    pipeline: DDiTPipeline,
    read: Read | None,
    *,
    scenes: int = 512,
    first_seed: int,
    progress: Progress | None = None,
) -> NanoReport:
    """Answers, captions, and pictures from captions, on scenes of evaluation seeds.

    read: says what pictures show, independently; None leaves pictures out. Questions come from as
    many scenes as it takes to fill the five kinds equally, one question of a kind from a scene.
    Raises: JodiError for seeds that training may use.
    """
    report = NanoReport()
    steps = _Steps(progress, 3)
    facts = _facts(check_evaluation_seeds(first_seed, scenes * SEARCHED))
    known: list[list[Thing]] = []
    questions = draw_questions(_kept(facts, known), max(1, scenes // QUESTIONS))
    while len(known) < scenes:
        known.append(next(facts))
    latents = _Latents(pipeline, first_seed)
    _answer(pipeline, latents, questions, report, steps)
    references = _caption(pipeline, latents, known[:scenes], report, steps)
    if read is not None:
        _imagine(pipeline, read, references, first_seed, report, steps)
    for name, evaluations in report.evaluations.items():
        report.values[f"evaluations.{name}.model"] = _mean(evaluations)
        report.values[f"evaluations.{name}.published"] = _published(pipeline, name)
    return report


class _Steps:
    """Progress through some parts of equal length."""

    def __init__(self, progress: Progress | None, parts: int):
        self._progress, self._parts, self._part = progress, parts, 0

    def __call__(self, done: int, total: int) -> None:
        if self._progress:
            per = 1000 // self._parts
            self._progress(per * self._part + per * done // max(total, 1), 1000)
        if done >= total:
            self._part += 1


def _facts(seeds: Sequence[int]) -> Iterator[list[Thing]]:
    return (list_scene_things(seed)[1] for seed in seeds)


def _kept(facts: Iterator[list[Thing]], kept: list[list[Thing]]) -> Iterator[list[Thing]]:
    for things in facts:
        kept.append(things)
        yield things


class _Latents:
    """Latents and captions of scenes by number, rendered once."""

    def __init__(self, pipeline: DDiTPipeline, first_seed: int):
        self._pipeline, self._first = pipeline, first_seed
        self._made: dict[int, tuple[Tensor, str]] = {}

    def __call__(self, numbers: Sequence[int]) -> tuple[Tensor, list[str]]:
        missing = [n for n in dict.fromkeys(numbers) if n not in self._made]
        if missing:
            size = self._pipeline.facts.native_size
            batch = render_scenes([self._first + n for n in missing], size)
            assert self._pipeline.vae_encode is not None
            raw = self._pipeline.vae_encode(batch.pictures[:, 0])
            latents = self._pipeline.facts.scale_latents(raw)
            for n, latent, caption in zip(missing, latents, batch.captions, strict=True):
                self._made[n] = (latent, caption)
        made = [self._made[n] for n in numbers]
        return torch.stack([latent for latent, _ in made]), [caption for _, caption in made]


def _answer(
    pipeline: DDiTPipeline,
    latents: _Latents,
    questions: list[tuple[int, SceneQuestion]],
    report: NanoReport,
    steps: _Steps,
) -> None:
    for start in range(0, len(questions), BATCH):
        part = questions[start : start + BATCH]
        pictures, _ = latents([number for number, _ in part])
        drafts = [draft_question(q.text, pipeline.length, pipeline.tokenizer) for _, q in part]
        said = pipeline.write_from_latents(pictures, drafts, options=ANSWER_OPTIONS)
        report.evaluations["answer"] += said.evaluations
        for (_, q), answer in zip(part, said.texts, strict=True):
            report.answers.append((q.kind, q.text, q.answer, answer))
        steps(start + len(part), len(questions))
    right = {"model": 0, "constant": 0}
    for kind in KINDS:
        own = [(wanted, answer) for k, _, wanted, answer in report.answers if k == kind]
        most = max(Counter(wanted for wanted, _ in own).values(), default=0)
        counts = {"model": sum(w == a for w, a in own), "constant": most}
        for who, count in counts.items():
            right[who] += count
            report.values[f"vqa.{kind}.accuracy.{who}"] = _ratio(count, len(own))
    for who, count in right.items():
        report.values[f"vqa.accuracy.{who}"] = _ratio(count, len(report.answers))


def _caption(
    pipeline: DDiTPipeline,
    latents: _Latents,
    scenes: list[list[Thing]],
    report: NanoReport,
    steps: _Steps,
) -> list[str]:
    """Captions of the first scenes; the reference captions are returned."""
    references: list[str] = []
    draft = draft_caption(pipeline.length, pipeline.tokenizer)
    for start in range(0, len(scenes), BATCH):
        numbers = range(start, min(start + BATCH, len(scenes)))
        pictures, due = latents(numbers)
        said = pipeline.write_from_latents(pictures, [draft], options=CAPTION_OPTIONS)
        report.evaluations["caption"] += said.evaluations
        references += due
        report.captions += zip(said.texts, due, strict=True)
        steps(numbers.stop, len(scenes))
    precision, recall = score_captions([c for c, _ in report.captions], references, scenes)
    report.values["caption.precision.model"] = precision
    report.values["caption.recall.model"] = recall
    return references


def _imagine(
    pipeline: DDiTPipeline,
    read: Read,
    prompts: list[str],
    first_seed: int,
    report: NanoReport,
    steps: _Steps,
) -> None:
    """Pictures of the prompts, read by another network; by chance: those of other prompts."""
    claims: list[Claims] = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        claims += read(pipeline.generate(part, seed=first_seed + start))
        steps(start + len(part), len(prompts))
    found = [_found(p, c) for p, c in zip(prompts, claims, strict=True)]
    # Every prompt's picture against the prompt half a round further on.
    shift = max(1, len(prompts) // 2)
    other = claims[shift:] + claims[:shift]
    chance = [_found(p, c) for p, c in zip(prompts, other, strict=True)]
    report.values["imagine.found.model"] = _mean(found)
    report.values["imagine.found.chance"] = _mean(chance)
    report.interval = _bootstrap([a - b for a, b in zip(found, chance, strict=True)])


def _found(prompt: str, seen: Claims) -> float:
    """Share of the prompt's objects and colours that a picture shows."""
    due = [claim for claim in read_claims(prompt) if claim[0] in ("object", "color")]
    there = [
        claim[1] in seen.classes if claim[0] == "object" else claim[1:] in seen.colors
        for claim in due
    ]
    return _ratio(sum(there), len(there))


def _bootstrap(differences: list[float], draws: int = 1000) -> tuple[float, float]:
    """The 95 % interval of a mean, over prompts drawn again."""
    values = torch.tensor([d for d in differences if not math.isnan(d)], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(values), (draws, len(values)), generator=generator)
    low, high = values[picks].mean(1).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return low, high


def _published(pipeline: DDiTPipeline, name: str) -> float:
    """Mean network evaluations of the published sampler for a text of this model's length."""
    length, words = pipeline.length, pipeline.tokenizer
    if name == "caption":
        draft, grid = draft_caption(length, words), CAPTION_STEPS
    else:
        draft, grid = draft_question("what color is the sofa", length, words), ANSWER_STEPS
    masked = torch.tensor([i == words.vocabulary.mask for i in draft.ids])
    plans = (draw_reveal_steps(draw_uniforms(s, length)[0], grid) for s in range(COUNTED_SEEDS))
    return _mean([count_published_evaluations(plan[masked], grid) for plan in plans])


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _mean(values: Sequence[float]) -> float:
    kept = [v for v in values if not math.isnan(v)]
    return _ratio(sum(kept), len(kept))
