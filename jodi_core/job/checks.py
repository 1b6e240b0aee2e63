"""Whether the parts of one job fit each other: its pictures, its size, its number of rows."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from ...kit.errors import RoleError, ShapeError
from ..roles import RolePlan
from ..text import TextFeatures

Text = str | Sequence[str] | TextFeatures | None


def check_pictures(plan: RolePlan, names: Sequence[str], pictures: Mapping[str, Tensor]) -> None:
    """Pass when the plan is over `names` and has one picture per condition.

    Raises: RoleError with what is missing and what is too much.
    """
    if plan.names != tuple(names):
        raise RoleError(
            f"the plan is for {', '.join(plan.names)}; the model has {', '.join(names)}"
        )
    expected, given = set(plan.condition_names), set(pictures)
    if expected != given:
        missing = ", ".join(sorted(expected - given)) or "none"
        extra = ", ".join(sorted(given - expected)) or "none"
        raise RoleError(
            f"the plan ({plan.text()}) and the pictures differ: missing {missing}; not asked for "
            f"{extra}. Give one picture for every condition"
        )


def count_rows(pictures: Mapping[str, Tensor], texts: Mapping[str, Text], batch: int | None) -> int:
    """Rows of a job of these pictures and texts; as `agree_on_rows`."""
    counts = {name: len(picture) for name, picture in pictures.items()}
    for name, text in texts.items():
        if isinstance(text, TextFeatures):
            counts[name] = len(text.mask)
        elif text is not None:
            counts[name] = 1 if isinstance(text, str) else len(text)
    return agree_on_rows(counts, batch)


def agree_on_rows(counts: Mapping[str, int], batch: int | None = None) -> int:
    """The number of rows of a job: `batch`, or that of its largest part. Every part has 1 row or
    all rows.

    counts: rows of each part by its name. Raises: ShapeError naming the parts that differ.
    """
    rows = max(counts.values(), default=1) if batch is None else batch
    if rows < 1:
        raise ShapeError(f"a batch needs at least 1 row, got {rows}")
    wrong = [f"{name} has {n}" for name, n in counts.items() if n not in (1, rows)]
    if wrong:
        largest = ["batch"] if batch is not None else [n for n, k in counts.items() if k == rows]
        asking = " and ".join(largest)
        raise ShapeError(f"{asking} asks for {rows} rows, but {', '.join(wrong)}; give 1 or {rows}")
    return rows


def agree_on_size(
    pictures: Mapping[str, Tensor],
    size: tuple[int, int] | None,
    *,
    default: tuple[int, int],
    factor: int,
) -> tuple[int, int]:
    """(H, W) of the job in pixels: `size`, or that of the pictures, or else `default`.

    Raises: ShapeError when they differ, or a side is no positive multiple of `factor`.
    """
    sizes = {tuple(p.shape[-2:]) for p in pictures.values()} | ({tuple(size)} if size else set())
    if len(sizes) > 1:
        listed = ", ".join(f"{h}x{w}" for h, w in sorted(sizes))
        raise ShapeError(f"all pictures of one job need one size, got {listed}; fit them first")
    height, width = sizes.pop() if sizes else default
    if height % factor or width % factor or min(height, width) <= 0:
        raise ShapeError(
            f"sides must be positive multiples of {factor}, got {height}x{width}; fit the pictures "
            "first"
        )
    return height, width
