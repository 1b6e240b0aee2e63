"""The given pictures of a job: as the model draws them, at one size, and what is odd about them.

Shapes: B rows, H W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ...kit.pictures.frame import Frame, fit
from ..domains import DOMAIN_NAMES, find_model_domain
from ..labels.checks import check_picture
from ..labels.segmentation import colorize, read_classes
from .plausible import Doubt, find_doubt
from .size import DEFAULT_SIZE, choose_size

FILLED = 0.02
"""Depth that comes this near to both 0 and 1 fills its range."""

ONE_TONE = 1.5 / 255
"""Depth that spans less is one step of 8 bits: there is nothing to stretch."""

NOTED_CROP = 0.03
"""Share of a picture that may be cut off without a warning."""

SAME_PROPORTIONS = 0.02


@dataclass(frozen=True)
class Given:
    """Pictures of one job and how they meet its size.

    pictures: (1 or B, 3, H, W) in [0, 1] by domain, of any sizes. size: (height, width) of the job.
    mode: "crop" or "pad". frames: how each is fitted. doubts: what people should know.
    """

    pictures: Mapping[str, Tensor]
    size: tuple[int, int]
    mode: str = "crop"
    names: Sequence[str] = DOMAIN_NAMES
    frames: Mapping[str, Frame] = field(default_factory=dict)
    doubts: tuple[Doubt, ...] = ()

    @property
    def frame(self) -> Frame | None:
        """Frame of the first picture: results are laid back into it."""
        return next(iter(self.frames.values()), None)

    def fitted(self, name: str, rows: slice = slice(None)) -> Tensor:
        """The picture of a domain as the model draws it, (B, 3, height, width) float32 in [0, 1].

        rows: which of them, so that long videos fit into memory.
        Raises: ImageError for values that are no picture's, ShapeError for an unknown mode.
        """
        picture, kind = self.pictures[name], self._kind(name)
        if kind == "palette":
            picture = colorize(read_classes(picture[rows]))
        elif kind == "depth":
            picture = _stretched(picture, rows)
        else:
            picture = check_picture(picture[rows], name)
        return fit(picture, self.size, self.mode, palette=kind == "palette")[0]

    def _kind(self, name: str) -> str:
        return find_model_domain(name, list(self.names).index(name)).kind


def prepare(
    pictures: Mapping[str, Tensor],
    choice: str = DEFAULT_SIZE,
    *,
    factor: int,
    native: tuple[int, int],
    explicit: tuple[int, int] = (0, 0),
    mode: str = "crop",
    names: Sequence[str] = DOMAIN_NAMES,
) -> Given:
    """The given pictures of a job, at the size that `choose_size` finds for the first of them.

    pictures: (1 or B, 3, H, W) in [0, 1] by domain, in any order; the first of `names` decides.
    Depth that does not fill its range is stretched to it, a batch (a video) as one. Class maps come
    in the model's colours or as class numbers (`read_classes`).
    Raises: JodiError, ShapeError as `choose_size`; ImageError for what is no picture.
    """
    pictures = {name: pictures[name] for name in names if name in pictures}
    for name, picture in pictures.items():
        check_picture(picture[:1], name)
    sizes = {name: (p.shape[-2], p.shape[-1]) for name, p in pictures.items()}
    first = next(iter(sizes.values()), None)
    size = choose_size(choice, first, factor=factor, native=native, explicit=explicit)
    frames = {name: Frame.fitting(shape, size, mode) for name, shape in sizes.items()}
    doubts = [*_cut_off(frames, choice), *_not_over_each_other(frames)]
    doubts += [odd for name, picture in pictures.items() if (odd := find_doubt(name, picture))]
    return Given(pictures, size, mode, tuple(names), frames, tuple(doubts))


def differ_in_proportions(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes differ in their ratio by more than rounding."""
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) > SAME_PROPORTIONS


def _cut_off(frames: Mapping[str, Frame], choice: str) -> list[Doubt]:
    """A warning when much of the first picture is cut off."""
    for name, frame in list(frames.items())[:1]:
        lost = 1 - frame.height * frame.width / (frame.resized_h * frame.resized_w)
        if frame.mode == "crop" and lost > NOTED_CROP:
            text = (
                f"{name} of {frame.original_w} x {frame.original_h}: {round(100 * lost)} % of it "
                f"lies outside {frame.width} x {frame.height} and is not seen; fit pad keeps all"
            )
            if choice != DEFAULT_SIZE:
                text += f", size {DEFAULT_SIZE} keeps its proportions"
            return [Doubt(name, "cut off", text)]
    return []


def _not_over_each_other(frames: Mapping[str, Frame]) -> list[Doubt]:
    """A warning for every picture whose proportions differ from the first picture's."""
    doubts = []
    for name, frame in frames.items():
        first, reference = next(iter(frames.items()))
        size = (frame.original_h, frame.original_w)
        if differ_in_proportions(size, (reference.original_h, reference.original_w)):
            done = "cropped" if frame.mode == "crop" else "padded"
            text = (
                f"{name} of {size[1]} x {size[0]} is {done}; it may not lie over {first} of "
                f"{reference.original_w} x {reference.original_h}: crop both to the same view first"
            )
            doubts.append(Doubt(name, "proportions", text))
    return doubts


def _stretched(picture: Tensor, rows: slice) -> Tensor:
    """Depth (B, 3, H, W) of the rows, from 0 to 1 over the whole batch unless it is flat."""
    low, high = (float(v) for v in picture.aminmax())
    part = check_picture(picture[rows], "depth")
    if high - low < ONE_TONE or (low <= FILLED and high >= 1 - FILLED):
        return part
    return ((part - low) / (high - low)).clamp_(0, 1)
