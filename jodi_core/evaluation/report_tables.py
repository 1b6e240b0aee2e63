"""The tables of an evaluation, as rows of values: what a page and a Markdown file show alike."""

from dataclasses import dataclass

from ...kit.pictures.palettes import SEGMENTATION_CLASSES
from . import consistency, edges, metrics, pose

Value = float | int | str | None

HEADLINES: tuple[tuple[str, str, bool], ...] = (
    ("depth.absrel", "Depth, mean relative error", False),
    ("depth.delta1", "Depth, share within a factor of 1.25", True),
    ("normal.mean_deg", "Normals, mean angle (degrees)", False),
    ("normal.median_deg", "Normals, median angle (degrees)", False),
    ("albedo.psnr", "Albedo, PSNR (dB)", True),
    ("segmentation.miou", "Segmentation, mean IoU of 11 classes", True),
    ("edge.f", "Edges, F (ODS)", True),
    ("lineart.f", "Line art, F (ODS)", True),
    ("openpose.pck", "Joints, PCK", True),
    ("control.psnr", "Picture from all labels, PSNR (dB)", True),
)
"""Key, title, and whether higher is better."""

COLUMNS = ("model", "baseline", "ceiling", "labels")

JOINT_TITLES = {
    "normal_depth_deg": "Normals against the normals of the own depth (degrees, lower)",
    "picture_albedo_psnr": "Picture against albedo x fitted light (dB, higher)",
    "picture_albedo_gain": "... and what the albedo adds to light on plain grey (dB, higher)",
    "edge_segmentation_f": "Edges against the borders of the own segmentation (F, higher)",
    "caption_classes": "Classes of the caption found in the segmentation (share, higher)",
    "caption_colors": "Colours of the caption found in the albedo (share, higher)",
    "picture.classes": "Classes of the caption read in the picture (share, higher)",
    "picture.colors": "Colours of the caption read in the picture (share, higher)",
}
JOINT_COLUMNS = ("model", "perceived", "ceiling", "labels", "shuffled")

GENEVAL_TITLES = {
    "object": "Things of the prompt that are there",
    "count": "Numbers above one that are right",
    "color": "Colours that are on their things",
    "position": "Things above what they stand on, below the sky",
    "overall": "Mean of the four",
    "prompt": "Prompts of which everything is found",
}
GENEVAL_COLUMNS = ("model", "joint", "ceiling", "labels", "chance")

ERROR_TITLES = {
    "segmentation": "Segmentation: pixels of another class",
    "albedo": "Albedo: pixels of another colour word",
    "openpose": "Joints where no person is",
    "depth": "Depth",
    "normal": "Normals",
    "edge": "Edges",
    "lineart": "Line art",
}
ERROR_COLUMNS = ("model", "floor", "chance")
RUN_COLUMNS = ("roles", "trained", "published", "steps", "guidance", "seconds_per_scene",
               "peak_memory_mb")  # fmt: skip
SETTINGS = ("model", "scenes", "first_seed", "size", "steps", "control.steps", "control.guidance",
            "control.prompt", "device", "dtype", "seconds")  # fmt: skip


@dataclass(frozen=True)
class Table:
    """title, column heads, rows."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[Value, ...]]


def make_tables(v: dict[str, Value]) -> list[Table]:
    """Every table that the values fill, in the order they are shown."""
    tables = [
        Table("Settings", ("setting", "value"), [(name, v.get(name)) for name in SETTINGS]),
        _headline_table(v),
        _key_table("Other baselines", v, [k for k in v if k.rpartition(".")[2] in OTHERS]),
        _board(
            "Classes (IoU)", v, "segmentation.iou.{}.{}",
            {name: name for name in SEGMENTATION_CLASSES[1:]}, COLUMNS,
        ),
        _key_table(
            "Any to any, and all labels in one run", v,
            [k for k in v if k.startswith(("any.", "all.")) and _is_headline(k)],
        ),
        _board("Do the maps of one run fit each other?", v, "joint.{}.{}", JOINT_TITLES,
               JOINT_COLUMNS),
        _board("Does the picture show its prompt?", v, "geneval.{}.{}", GENEVAL_TITLES,
               GENEVAL_COLUMNS),
        _board("How closely the picture keeps to a label (error)", v, "control.{}.error.{}",
               ERROR_TITLES, ERROR_COLUMNS),
        _run_table(v),
    ]  # fmt: skip
    return [table for table in tables if table.rows]


OTHERS = (
    *("all_edges", "dots", "mean_map", "sobel", "mean_color", "input_copy", "albedo_copy"),
    "mean_pose",
)
_MEASURES = tuple(key.rpartition(".")[2] for key, _, _ in HEADLINES)


def _is_headline(key: str) -> bool:
    what, _, whose = key.rpartition(".")
    return what.rpartition(".")[2] in _MEASURES and whose in COLUMNS


def _headline_table(v: dict[str, Value]) -> Table:
    rows = []
    for key, title, higher in HEADLINES:
        better = "higher" if higher else "lower"
        model, *others = (v.get(f"{key}.{c}") for c in COLUMNS)
        between = _interval(v, f"{key}.model")
        rows.append((f"{title} ({better} is better)", model, between, *others))
    head = ("measure", "model", "95% interval", "baseline", "round trip", "exact labels")
    return Table("Tasks", head, rows)


def _board(title: str, v: dict[str, Value], key: str, titles: dict[str, str], columns) -> Table:
    """A row for each of `titles` of which there is a value; the model's interval second."""
    rows = []
    for name, text in titles.items():
        values = [v.get(key.format(name, column)) for column in columns]
        if any(value is not None for value in values):
            between = _interval(v, key.format(name, columns[0]))
            rows.append((text, values[0], between, *values[1:]))
    return Table(title, ("measure", columns[0], "95% interval", *columns[1:]), rows)


def _key_table(title: str, v: dict[str, Value], keys: list[str]) -> Table:
    rows = [(key, v[key], _interval(v, key)) for key in sorted(keys)]
    return Table(title, ("key", "value", "95% interval"), rows)


def _run_table(v: dict[str, Value]) -> Table:
    tasks = [k.removesuffix(".roles") for k in v if k.startswith("run.") and k.endswith(".roles")]
    rows = [
        (task.removeprefix("run."), *(v.get(f"{task}.{column}") for column in RUN_COLUMNS))
        for task in sorted(tasks)
    ]
    return Table("What each task took", ("task", *RUN_COLUMNS), rows)


def _interval(v: dict[str, Value], key: str) -> str:
    low, high = (v.get(f"{key}.ci95.{side}") for side in ("low", "high"))
    return "" if low is None else f"{show_number(low)} to {show_number(high)}"


def show_number(value: Value) -> str:
    """A value as four digits, text as it is, a dash for none."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def define_measures(v: dict[str, Value]) -> list[str]:
    """How every measure is defined, one sentence or two each, with the values that were used."""
    size = str(v["size"])
    height, width = (int(s) for s in (size.split("x") if "x" in size else (size, size)))
    near, far = metrics.DEPTH_RANGE
    return [
        "Perception is one sample per label, each label alone from the picture, "
        f"{show_number(v['steps'])} steps, no text, no guidance.",
        "Depth: scale and shift of the map are fitted to 1/depth per image by least squares over "
        f"valid pixels, the fit is inverted and clipped to {near:g}..{far:g} m (as the Marigold "
        "evaluation does for disparity); AbsRel and delta1 per image, then the mean. Baseline: a "
        "constant map under the same fit.",
        "Normals: angles pooled over all surface pixels. Baseline: the mean normal of "
        f"{v['baseline.training_scenes']} training scenes.",
        "Albedo: PSNR in sRGB, no scale fitted, mean over images. Baseline: the better of the "
        "mean training colour and the input picture.",
        "Segmentation: nearest palette colour, one pooled confusion, mean IoU over the 11 classes "
        "without 'unlabeled'. Baseline: the commonest training class everywhere.",
        "Edges and line art: thinned by non-maximum suppression, 99 thresholds, one-to-one "
        f"matching within {edges.find_tolerance(height, width):g} pixels by a maximum matching, "
        f"true lines where the thinned label is at least {edges.TRUTH_THRESHOLD:g}; F at the best "
        "threshold for the set (ODS). Baseline: the best of an all-edge map, a dot on every other "
        "pixel, and the mean map of training scenes; Sobel on the input is given beside it.",
        f"Joints: read by colour; right within {pose.PCK_SHARE:g} of the figure's larger side (at "
        f"least {pose.MIN_RADIUS:g} pixels); PCK over visible joints. Baseline: the mean training "
        "place of each joint. 'Exact labels' is what the reader itself loses.",
        f"Control: the picture from all labels, prompt: {v['control.prompt']}; PSNR against the "
        "true picture. Baseline: its own mean colour; beside it a plain copy of the albedo.",
        "Fit of maps: 'model' made picture and labels from the caption, 'perceived' all labels at "
        "once from the true picture; 'shuffled' puts exact maps of different scenes together. "
        f"Normals of depth assume a view of tan {consistency.MEAN_TAN_HALF:g} to the side; light "
        "is fitted per class region as a linear function of the normal. Classes and colours are "
        "read in the picture by a small network that was trained on rendered scenes alone; "
        "'labels' and 'ceiling' say what it reads in true pictures.",
        "Prompts: read by the same network: things, their numbers where above one, their colours, "
        "and whether a thing's middle is above its ground's and below the sky's. 'model' made the "
        "picture alone, 'joint' with its labels; 'chance' reads it for the next prompt.",
        "Closeness to a label: the picture is made from that label and the caption, and the label "
        f"read back from it by {v.get('reextraction.by', 'the reader')}, never by the model. "
        "'floor' is the same of the true picture, 'chance' of another scene's.",
        "Roles: 'trained' says whether the model's own training had them, 'published' whether the "
        "released one's. Memory: the most the process had held when the task was done.",
        "95% intervals: bootstrap over images.",
    ]
