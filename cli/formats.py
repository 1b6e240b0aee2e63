"""Files for other programs: all maps of a picture as layers of one EXR, or its depth as points."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..jodi_core.domains import find_domain
from ..jodi_core.exits.depth import check_range, find_distances, read_depth_plane
from ..jodi_core.exits.geometry import make_intrinsics, unproject
from ..jodi_core.exits.layers import LayerOptions, make_layers
from ..jodi_core.exits.ply import encode_cloud
from ..jodi_core.job.restore import restore_map
from ..jodi_core.labels.maps import postprocess
from ..jodi_core.labels.segmentation import find_class_id, find_classes
from ..kit.errors import ImageError
from ..kit.files import replace_file
from ..kit.pictures.exr import check_installed, write_exr
from ..kit.pictures.files import load_image
from ..kit.pictures.frame import Frame
from .options import UsageError

FORMATS = ("png", "exr", "ply")
Z_WAYS = ("near-high", "far-high", "distance")


def add_format_options(parser) -> None:
    """What the results are written as."""
    group = parser.add_argument_group("files for other programs")
    group.add_argument(
        "--format",
        choices=FORMATS,
        default="png",
        help="png: a file for each label. exr: PICTURE.exr, the picture and all labels as float "
        "layers, classes as Cryptomatte (needs the extra [exr]). ply: PICTURE.ply, the depth as a "
        "cloud of coloured points",
    )
    group.add_argument(
        "--z",
        choices=Z_WAYS,
        default=Z_WAYS[0],
        help="layer Z of exr: the relative depth with near 1 or far 1, or distances",
    )
    group.add_argument(
        "--distances",
        nargs=2,
        type=float,
        default=(1.0, 10.0),
        metavar=("NEAR", "FAR"),
        help="how far the nearest and the farthest point are, for ply and --z distance; the depth "
        "has no unit of its own. FAR 0: infinitely far (sky) (default: 1 10)",
    )
    group.add_argument(
        "--fov",
        type=float,
        default=55.0,
        metavar="DEGREES",
        help="horizontal field of view of the camera, for ply (default: 55)",
    )


def check_format(args, labels) -> None:
    """Pass when the chosen files can be written. Raises: UsageError, JodiError saying why not."""
    if args.format == "exr":
        check_installed()
    if args.format == "ply":
        make_intrinsics(args.fov, 1, 1)
        if "depth" not in [find_domain(name).name for name in labels]:
            raise UsageError("--format ply needs depth; put it into --labels, or leave that out")
    if args.format == "ply" or args.z == "distance":
        check_range(*args.distances)


def list_format_endings(args) -> list[str] | None:
    """What is put behind a picture's name; None for a file for each label."""
    return None if args.format == "png" else [f".{args.format}"]


def save_formatted(
    raw: Mapping[str, Tensor], picture: Tensor | Path, frame: Frame | None, start: Path, args
) -> Path:
    """Write `<start>.exr` or `<start>.ply` and return it.

    raw: label -> (1, 3, H, W) decoder output. picture: the one they were made of, as a file or
    (1, 3, H, W). frame: of the original to lay them back into, or None.
    Raises: ImageError when it cannot be written.
    """
    restored = {
        name: x if frame is None else restore_map(find_domain(name), x, [frame])
        for name, x in raw.items()
    }
    path = start.with_name(f"{start.name}.{args.format}")
    shown = load_image(picture)[0] if isinstance(picture, Path) else picture
    if args.format == "exr":
        maps = {name: postprocess(name, x)[0] for name, x in restored.items()}
        normals = "jodi" if args.normals == "model" else args.normals
        options = LayerOptions(normals, args.z.replace("-", " "), *args.distances)
        write_exr(path, *make_layers({"image": shown[0], **maps}, options))
        return path
    distance = find_distances(
        read_depth_plane(postprocess("depth", restored["depth"])), *args.distances
    )
    keep = torch.isfinite(distance[0])
    if "segmentation" in restored:
        keep &= find_classes(restored["segmentation"])[0] != find_class_id("sky")
    _write(path, encode_cloud(unproject(distance, args.fov)[0], keep, shown[0].movedim(0, -1)))
    return path


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write(data)
    except OSError as error:
        raise ImageError(f"could not write {path}: {error.strerror or error}") from error
