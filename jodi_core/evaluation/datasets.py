"""Folders of real pictures with true labels, in the layouts of three public data sets.

nyuv2   rgb/NAME.png with depth/NAME.png (16-bit, millimetres, 0 = missing) or depth/NAME.npy
        (metres), normal/NAME.npy ((H, W, 3), OpenGL axes) or normal/NAME.png (OpenGL colours),
        and mask/NAME.png (white = valid); each of the three may be missing
bsds    images/NAME.jpg with groundTruth/NAME/*.png, one picture for each annotator, white or 1
        on boundaries; or groundTruth/NAME.npy (annotators, H, W)
ade20k  images/NAME.jpg with annotations/NAME.png, class numbers 0..150, 0 = not labelled

Source of ranges and crops: github prs-eth/Marigold, src/dataset; github pdollar/edges; the ADE20K
benchmark's SceneParsing files.
"""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...kit.errors import ImageError, JodiError
from ...kit.pictures.files import load_image
from ...kit.pictures.numbers import load_numbers
from ..labels.segmentation import IGNORED, convert_class_numbers

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
DARK = 1e-6


@dataclass(frozen=True)
class Protocol:
    """How a data set is scored.

    labels: domains it has the truth of. depth_range: metres outside of which truth is not valid,
    and to which an aligned depth is clipped. crop: rows and columns that are scored in pictures of
    `crop_of` (height, width).
    """

    name: str
    labels: tuple[str, ...]
    picture_folder: str
    depth_range: tuple[float, float] = (1e-3, 10.0)
    crop: tuple[slice, slice] | None = None
    crop_of: tuple[int, int] | None = None


PROTOCOLS = {
    # The crop is Eigen's, as every depth paper since 2014 scores NYUv2.
    "nyuv2": Protocol(
        "nyuv2", ("depth", "normal"), "rgb", (1e-3, 10.0), (slice(45, 471), slice(41, 601)),
        (480, 640),
    ),
    "bsds": Protocol("bsds", ("edge",), "images"),
    "ade20k": Protocol("ade20k", ("segmentation",), "images"),
}  # fmt: skip


@dataclass(frozen=True)
class RealSample:
    """One picture and what is known of it.

    image: (1, 3, H, W) in [0, 1]. truth, by domain: depth (H, W) metres; normal (3, H, W) unit,
    OpenGL axes; edge (A, H, W) bool, one plane for each annotator; segmentation (H, W) uint8 of
    Jodi's classes. valid, by domain: (H, W) bool, what is scored.
    """

    name: str
    image: Tensor
    truth: dict[str, Tensor] = field(default_factory=dict)
    valid: dict[str, Tensor] = field(default_factory=dict)


def list_samples(folder: Path, protocol: Protocol) -> list[str]:
    """Names of the pictures in a data set's folder, sorted.

    Raises: JodiError where the folder is not of this layout.
    """
    pictures = folder / protocol.picture_folder
    names = sorted(p.stem for p in _files(pictures) if p.suffix.lower() in PICTURES)
    if not names:
        raise JodiError(
            f"{folder} has no pictures in {protocol.picture_folder}/, where the layout of "
            f"{protocol.name} has them; docs/evaluation.md shows the layout"
        )
    return names


def load_sample(folder: Path, name: str, protocol: Protocol) -> RealSample:
    """A picture with its truth. A label whose file is missing is left out.

    Raises: ImageError for a file that cannot be read or has another size than its picture;
    JodiError when the picture has no label at all.
    """
    image, _ = load_image(_find(folder / protocol.picture_folder, name) or folder / name)
    sample = RealSample(name, image)
    _LOADERS[protocol.name](folder, sample, protocol)
    if not sample.truth:
        raise JodiError(
            f"{folder}: {name} has none of the labels {', '.join(protocol.labels)}; "
            "docs/evaluation.md shows the layout"
        )
    size = (image.shape[-2], image.shape[-1])
    for label, truth in sample.truth.items():
        if tuple(truth.shape[-2:]) != size:
            raise ImageError(
                f"{folder}: the {label} of {name} has {truth.shape[-1]} x {truth.shape[-2]} pixels "
                f"and its picture {size[1]} x {size[0]}; they must be the same"
            )
        sample.valid[label] &= _scored_area(size, protocol)
    return sample


def _load_nyuv2(folder: Path, sample: RealSample, protocol: Protocol) -> None:
    height, width = sample.image.shape[-2:]
    mask = torch.ones(height, width, dtype=torch.bool)
    if path := _find(folder / "mask", sample.name):
        mask = _same_size(load_image(path)[0][0].mean(0) >= 0.5, sample, path)
    if path := _find(folder / "depth", sample.name, (".npy",)):
        depth = torch.from_numpy(_load_array(path, 2).astype(np.float64))
        _add_depth(sample, depth, mask, path, protocol)
    elif path := _find(folder / "depth", sample.name):
        numbers = load_numbers(path)
        if numbers is None or numbers.top is None:
            raise ImageError(f"{path}: expected 16-bit grey depth in millimetres, or a .npy")
        _add_depth(sample, numbers.values[0].double() / 1000, mask, path, protocol)
    normal = None
    if path := _find(folder / "normal", sample.name, (".npy",)):
        normal = torch.from_numpy(_load_array(path, 3).astype(np.float64)).permute(2, 0, 1)
    elif path := _find(folder / "normal", sample.name):
        normal = load_image(path)[0][0].double() * 2 - 1
    if normal is not None:
        length = normal.square().sum(0).sqrt()
        # a vector without a length is no truth; counted, it would be an error of 90 degrees
        sample.truth["normal"] = normal / length.clamp(min=DARK)
        sample.valid["normal"] = _same_size(length > 0.5, sample, path) & mask


def _add_depth(sample: RealSample, depth: Tensor, mask: Tensor, path, protocol: Protocol) -> None:
    near, far = protocol.depth_range
    known = torch.isfinite(depth) & (depth > near) & (depth < far)
    sample.truth["depth"] = torch.where(known, depth, 0.0)
    sample.valid["depth"] = _same_size(known, sample, path) & mask


def _load_bsds(folder: Path, sample: RealSample, protocol: Protocol) -> None:
    place = folder / "groundTruth"
    if (path := place / f"{sample.name}.npy").is_file():
        array = _load_array(path, 3)
    else:
        planes = [load_image(p)[0][0].mean(0) for p in _files(place / sample.name)]
        if not planes:
            return
        # annotators' files hold 0 and 255, or 0 and 1
        array = np.stack([(p > 0).numpy() for p in planes])
    sample.truth["edge"] = torch.from_numpy(np.asarray(array) > 0)
    sample.valid["edge"] = torch.ones(array.shape[-2:], dtype=torch.bool)


def _load_ade20k(folder: Path, sample: RealSample, protocol: Protocol) -> None:
    path = _find(folder / "annotations", sample.name)
    if path is None:
        return
    numbers = load_numbers(path)
    if numbers is None or numbers.top is None:
        raise ImageError(f"{path}: expected class numbers 0..150 in one channel")
    values = numbers.values
    sample.truth["segmentation"] = convert_class_numbers(values, "ade20k")[0]
    sample.valid["segmentation"] = (values[0] != 0) & ~torch.isin(
        values[0], torch.tensor(IGNORED).to(values)
    )


_LOADERS: dict[str, Callable[[Path, RealSample, Protocol], None]] = {
    "nyuv2": _load_nyuv2,
    "bsds": _load_bsds,
    "ade20k": _load_ade20k,
}


def _scored_area(size: tuple[int, int], protocol: Protocol) -> Tensor:
    area = torch.ones(size, dtype=torch.bool)
    if protocol.crop is not None and size == protocol.crop_of:
        area[:] = False
        area[protocol.crop] = True
    return area


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    except OSError:
        return []


def _find(folder: Path, name: str, endings: tuple[str, ...] = PICTURES) -> Path | None:
    paths = (folder / f"{name}{ending}" for ending in endings)
    return next((path for path in paths if path.is_file()), None)


def _load_array(path: Path, dims: int) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ImageError(f"{path} cannot be read as a NumPy array: {error}") from None
    if array.ndim != dims or array.dtype.kind not in "biuf" or 0 in array.shape:
        raise ImageError(
            f"{path}: expected an array of numbers with {dims} axes, got {array.dtype} of shape "
            f"{array.shape}"
        )
    return array


def _same_size(plane: Tensor, sample: RealSample, path) -> Tensor:
    if plane.shape != sample.image.shape[-2:]:
        raise ImageError(
            f"{path} has {plane.shape[-1]} x {plane.shape[-2]} pixels and its picture "
            f"{sample.image.shape[-1]} x {sample.image.shape[-2]}; they must be the same"
        )
    return plane
