"""The comparisons of `why_joint.py`: tests on scores of the same scenes and seeds, and tables."""

import json

import numpy as np
from comfyui_jodi.jodi_core.evaluation.paired import correct_by_holm, find_p_by_flips, find_p_by_t

PAIRS = (
    ("alone.joint", "alone.single"),
    ("together.joint", "alone.single"),
    ("alone.chain", "alone.single"),
    ("together.joint", "together.chain"),
    ("drawn.joint", "drawn.chain"),
    ("drawn.joint", "drawn.single"),
)
HEADLINES = ("depth.absrel", "normal.mean_deg", "albedo.psnr", "segmentation.miou", "edge.f",
             "lineart.f", "openpose.pck", "fit.normal_depth_deg", "fit.edge_segmentation_f",
             "fit.picture_albedo_gain", "fit.caption_classes", "read.classes",
             "read.colors")  # fmt: skip


def compare(scores: list[dict]) -> dict:
    """Differences of pairs, with p over scenes (corrected by Holm in each pair) and over seeds."""
    found = {}
    for one, other in PAIRS:
        rows, p = {}, {}
        for measure in HEADLINES:
            if any(measure not in s["each"][what] for s in scores for what in (one, other)):
                continue
            gaps = np.array(
                [np.subtract(s["each"][one][measure], s["each"][other][measure]) for s in scores],
                dtype=float,
            )
            known = gaps[:, np.isfinite(gaps).all(0)]
            rows[measure] = {
                "mean": known.mean(), "by_seed": known.mean(1).tolist(), "scenes": known.shape[1],
                "p_seeds": find_p_by_t(known.mean(1)),
            }  # fmt: skip
            p[measure] = find_p_by_flips(known.mean(0))
        for measure, corrected in correct_by_holm(p).items():
            rows[measure] |= {"p_scenes": p[measure], "p_scenes_holm": corrected}
        found[f"{one} - {other}"] = rows
    return found


def show(found: dict) -> str:
    """The tables of docs/why-joint.md, in Markdown."""
    lines = []
    what = list(found["pooled"][0])
    measures = [m for m in HEADLINES if any(m in found["pooled"][0][w] for w in what)]
    lines += ["| measure | " + " | ".join(what) + " |", "| --- |" + " ---: |" * len(what)]
    for measure in measures:
        cells = []
        for name in what:
            values = [seed[name].get(measure, float("nan")) for seed in found["pooled"]]
            spread = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
            cells.append("" if np.isnan(values).any() else f"{np.mean(values):.3f}{spread}")
        lines.append(f"| {measure} | " + " | ".join(cells) + " |")
    seconds = [f"{np.mean([s[name] for s in found['seconds']]):.3f}" for name in what]
    lines.append("| seconds a scene | " + " | ".join(seconds) + " |")
    for pair, rows in found["compared"].items():
        lines += ["", f"{pair}:", "", "| measure | difference | of each seed | p (scenes, Holm) "
                  "| p (seeds) |", "| --- | ---: | --- | ---: | ---: |"]  # fmt: skip
        for measure, row in rows.items():
            each = ", ".join(f"{value:+.3f}" for value in row["by_seed"])
            lines.append(
                f"| {measure} | {row['mean']:+.3f} | {each} | {row['p_scenes_holm']:.3g} "
                f"| {row['p_seeds']:.2g} |"
            )
    for name, cost in found.get("cost", {}).items():
        lines.append(f"{name}: {json.dumps(cost)}")
    return "\n".join(lines)
