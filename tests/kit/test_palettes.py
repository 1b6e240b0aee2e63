"""The published colour tables, byte for byte."""

import hashlib
from itertools import combinations, pairwise

from jodi_pack.kit.pictures import palettes as p


def flat(colors) -> bytes:
    return bytes(value for color in colors for value in color)


def test_ade20k_map_checksum():
    assert len(p.ADE20K_TO_12) == 151
    assert hashlib.sha256(p.ADE20K_TO_12).hexdigest() == (
        "df688d74ba5fd470cab15be37feea4585e932fc1c18df5896dcd294c7c842731"
    )


def test_ade20k_palette_checksum():
    data = flat(p.ADE20K_PALETTE)
    assert len(data) == 450
    assert hashlib.sha256(data).hexdigest() == (
        "ce475c9151035eff51f4cf27fd7d906959b1480f6d15b9423ae2417c1b23a0ed"
    )


def test_only_classes_7_and_49_share_a_colour():
    shared = [
        (a + 1, b + 1)
        for a, b in combinations(range(150), 2)
        if p.ADE20K_PALETTE[a] == p.ADE20K_PALETTE[b]
    ]
    assert shared == [(7, 49)]


def test_segmentation_palette():
    named = dict(zip(p.SEGMENTATION_CLASSES, p.SEGMENTATION_PALETTE, strict=True))
    assert len(named) == 12
    assert named["unlabeled"] == (0, 0, 127)
    assert named["mountain"] == (0, 255, 127)
    assert named["building"] == (255, 0, 127)
    assert named["furniture"] == (0, 127, 0)
    nearest = min(
        sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5
        for a, b in combinations(p.SEGMENTATION_PALETTE, 2)
    )
    assert round(nearest, 1) == 179.6  # the palette's published smallest distance


def test_openpose_tables():
    assert len(p.OPENPOSE_KEYPOINTS) == len(set(p.OPENPOSE_KEYPOINTS)) == 18
    assert len(set(p.OPENPOSE_COLORS)) == 18
    assert len(p.OPENPOSE_LIMBS) == 17
    # the skeleton is one tree: 17 edges that reach all 18 points from the neck
    reached = {p.OPENPOSE_KEYPOINTS.index("neck")}
    for a, b in p.OPENPOSE_LIMBS:
        assert a in reached and b not in reached
        reached.add(b)
    assert reached == set(range(18))
    names = {
        frozenset((p.OPENPOSE_KEYPOINTS[a], p.OPENPOSE_KEYPOINTS[b])) for a, b in p.OPENPOSE_LIMBS
    }
    for side in ("left", "right"):
        for chain in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"), ("eye", "ear")):
            for a, b in pairwise(chain):
                assert {f"{side}_{a}", f"{side}_{b}"} in names
