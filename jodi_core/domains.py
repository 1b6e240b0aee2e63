"""The eight domains of the model: one picture and seven labels. A domain exists here only."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..kit.errors import JodiError

KINDS = ("color", "gray", "depth", "normal", "palette", "pose")


@dataclass(frozen=True)
class Domain:
    """One domain.

    `index` is its place in every (B, L, ...) tensor. `kind` says how a decoded picture is read:
    color (as it is), gray (mean over RGB), depth (mean, stretched), normal (unit vectors),
    palette (nearest of the class colours), pose (a coloured skeleton, as it is).
    """

    name: str
    index: int
    title: str
    kind: str
    description: str
    aliases: tuple[str, ...] = ()


# Order, polarity and axes are those of the released model: github VIPL-GENUN/Jodi @ c21bdcb,
# configs/inference.yaml and the pictures in assets/.
DOMAINS: tuple[Domain, ...] = (
    Domain("image", 0, "Image", "color", "the picture itself", ("picture", "photo", "rgb")),
    Domain("lineart", 1, "Line art", "gray", "dark drawn lines on white", ("lines",)),
    Domain("edge", 2, "Edge", "gray", "soft bright edges on black", ("edges", "softedge", "hed")),
    Domain(
        "depth",
        3,
        "Depth",
        "depth",
        "grey, near is bright, stretched per picture",
        ("depth_map", "disparity"),
    ),
    Domain(
        "normal",
        4,
        "Normal",
        "normal",
        "surface directions: red high facing picture left, green up, blue towards the camera",
        ("normals", "normal_map"),
    ),
    Domain(
        "albedo",
        5,
        "Albedo",
        "color",
        "surface colours without light and shadow",
        ("base_color", "basecolor", "diffuse"),
    ),
    Domain(
        "segmentation",
        6,
        "Segmentation",
        "palette",
        "12 classes in fixed colours",
        ("seg", "semantic", "seg_12colors"),
    ),
    Domain(
        "openpose",
        7,
        "OpenPose",
        "pose",
        "coloured skeletons on black; all black means nobody is there",
        ("pose", "skeleton"),
    ),
)

DOMAIN_NAMES: tuple[str, ...] = tuple(d.name for d in DOMAINS)


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


_NAME_OF: dict[str, str] = {
    key: d.name for d in DOMAINS for key in (d.name, _plain(d.title), *d.aliases)
}


def find_domain(name_or_index: str | int) -> Domain:
    """The domain of that name, alias or index. Case, spaces and hyphens do not matter.

    Raises: JodiError, listing the names, when there is none.
    """
    return DOMAINS[find_domain_index(name_or_index)]


def find_domain_index(name_or_index: str | int, names: Sequence[str] = DOMAIN_NAMES) -> int:
    """Place of a domain among `names`, which may be fewer or more than the eight.

    Raises: JodiError, listing `names`, when there is none.
    """
    listing = f"the {len(names)} domains are {', '.join(names)}"
    if isinstance(name_or_index, str):
        places = {_plain(n): i for i, n in enumerate(names)}
        key = _plain(name_or_index)
        # an exact name wins: a model may call a domain of its own what is an alias here
        for candidate in (key, _NAME_OF.get(key)):
            if candidate in places:
                return places[candidate]
        raise JodiError(f"no domain is called {name_or_index!r}; {listing}")
    if isinstance(name_or_index, bool) or not isinstance(name_or_index, int):
        kind = type(name_or_index).__name__
        raise JodiError(f"a domain is named by a string or an index, got {kind}; {listing}")
    if not 0 <= name_or_index < len(names):
        raise JodiError(f"no domain has index {name_or_index}; {listing}")
    return name_or_index


def name_domains(count: int) -> tuple[str, ...]:
    """Names for a model that does not name its domains: the eight, then `domain 9` and so on."""
    return (
        *DOMAIN_NAMES[:count],
        *(f"domain {n}" for n in range(len(DOMAIN_NAMES) + 1, count + 1)),
    )


def find_model_domain(name: str, index: int) -> Domain:
    """The domain of that name; a domain that only an extended model has is read as plain colour."""
    if name in DOMAIN_NAMES:
        return find_domain(name)
    return Domain(name, index, name.replace("_", " ").capitalize(), "color", "")


def find_named_domain(name: str) -> Domain:
    """`find_model_domain` where the domain's place is not needed."""
    return find_model_domain(name, len(DOMAINS))
