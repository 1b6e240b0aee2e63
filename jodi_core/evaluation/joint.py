"""Whether the maps made together in one run fit each other, added up over scenes."""

import numpy as np
import torch
from torch import Tensor

from ...kit.pictures.palettes import SEGMENTATION_CLASSES
from ..labels.segmentation import find_classes
from . import consistency, edges
from .scores import LineTally, Tally, Values, count_edges, ratio, score_edges

SKY = SEGMENTATION_CLASSES.index("sky")
MAPS = ("image", "edge", "depth", "normal", "albedo", "segmentation")


class ConsistencyTally(Tally):
    """Measures over sets of maps; see `consistency` for what each one means."""

    headline = (
        "normal_depth_deg",
        "picture_albedo_psnr",
        "picture_albedo_gain",
        "edge_segmentation_f",
        "caption_classes",
        "caption_colors",
    )

    def add_maps(self, maps: dict[str, Tensor], captions: list[str]) -> None:
        """Maps of one set of scenes, each (B, 3, H, W) in [0, 1]; at least those of `MAPS`."""
        m = {name: maps[name].detach().float().cpu() for name in MAPS}
        classes = find_classes(m["segmentation"] * 2 - 1)
        angle = consistency.compare_normal_with_depth(m["normal"], m["depth"], classes != SKY)
        lit = consistency.compare_picture_with_albedo(m["image"], m["albedo"], m["normal"], classes)
        grey = torch.full_like(m["albedo"], 0.5)
        unlit = consistency.compare_picture_with_albedo(m["image"], grey, m["normal"], classes)
        checks = consistency.check_captions(captions, classes, m["albedo"])
        known = torch.isfinite(angle)
        columns = [angle.nan_to_num(), known.double(), lit, lit - unlit, torch.ones_like(lit)]
        strength = edges.thin(LineTally("edge").strength(m["edge"]))
        lines = count_edges(strength, edges.find_class_borders(classes))
        self._rows.append(
            np.concatenate([torch.stack([*columns, *checks], dim=1).numpy(), lines], axis=1)
        )

    def _summarise(self, total: np.ndarray) -> Values:
        count = total[..., 4]
        return {
            "normal_depth_deg": ratio(total[..., 0], total[..., 1]),
            "picture_albedo_psnr": ratio(total[..., 2], count),
            "picture_albedo_gain": ratio(total[..., 3], count),
            "caption_classes": ratio(total[..., 5], total[..., 6]),
            "caption_colors": ratio(total[..., 7], total[..., 8]),
            "edge_segmentation_f": score_edges(total[..., 9:])["f"],
        }


def shuffle_scenes(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """Maps of different scenes put together: what the measures say when nothing belongs together.

    Image, depth and segmentation stay; edge, normal and albedo come from the next scene.
    """
    moved = ("edge", "normal", "albedo")
    return {name: m.roll(1, 0) if name in moved else m for name, m in maps.items()}
