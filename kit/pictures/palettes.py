"""The colours and classes that labels are drawn with, as the released model uses them.

A palette entry is (red, green, blue), each 0..255; its place in the tuple is its class.
Source: github VIPL-GENUN/Jodi @ c21bdcb (segmentation, ADE20K map); the drawing code of OpenPose.
"""

Color = tuple[int, int, int]

SEGMENTATION_CLASSES: tuple[str, ...] = (
    *("unlabeled", "person", "animal", "plant", "water", "mountain"),
    *("sky", "building", "vehicle", "wall", "road", "furniture"),
)

SEGMENTATION_PALETTE: tuple[Color, ...] = (
    *((0, 0, 127), (255, 127, 255), (255, 127, 0), (127, 255, 0)),
    *((0, 127, 255), (0, 255, 127), (127, 255, 255), (255, 0, 127)),
    *((127, 0, 255), (255, 255, 127), (127, 0, 0), (0, 127, 0)),
)

_ADE20K_MEMBERS: dict[str, tuple[int, ...]] = {
    "person": (13,),
    "animal": (127,),
    "plant": (5, 10, 18, 30, 67, 73),
    "water": (22, 27, 57, 61, 105, 110, 114, 129),
    "mountain": (17, 35, 69),
    "sky": (3,),
    "building": (2, 26, 49, 52, 62, 80, 85, 89, 115, 141),
    "vehicle": (21, 77, 81, 84, 91, 103, 104, 117, 123, 128),
    "wall": (1, 4, 6, 29),
    "road": (7, 12, 14, 47, 53, 55, 92, 95),
    "furniture": (8, 16, 20, 24, 31, 32, 34, 46, 70, 76, 98, 111),
}


def _ade20k_map() -> bytes:
    table = bytearray(151)
    for name, members in _ADE20K_MEMBERS.items():
        for member in members:
            table[member] = SEGMENTATION_CLASSES.index(name)
    return bytes(table)


ADE20K_TO_12: bytes = _ade20k_map()
"""Class 0..11 for each ADE20K class 0..150 (0 is unlabeled; what has no counterpart becomes 0)."""

_ADE20K_HEX = """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07
    e005ff ebff07 96053d 787846 08ff33 ff0652 8fff8c ccff04 ff3307 cc4603
    0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff
    08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207
    ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f
    14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff
    0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00
    008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff
    ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2
    00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000
    8fff00 5200ff a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff
    00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3
    ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00
    00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff
    4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
"""

ADE20K_PALETTE: tuple[Color, ...] = tuple(
    (color[0], color[1], color[2]) for color in map(bytes.fromhex, _ADE20K_HEX.split())
)
"""Colours of the ADE20K classes 1..150: entry i is class i + 1. Classes 7 and 49 share a colour."""

OPENPOSE_KEYPOINTS: tuple[str, ...] = (
    *("nose", "neck"),
    *("right_shoulder", "right_elbow", "right_wrist"),
    *("left_shoulder", "left_elbow", "left_wrist"),
    *("right_hip", "right_knee", "right_ankle"),
    *("left_hip", "left_knee", "left_ankle"),
    *("right_eye", "left_eye", "right_ear", "left_ear"),
)
"""The 18 COCO keypoints in OpenPose's order. Left and right are the person's own."""

OPENPOSE_LIMBS: tuple[tuple[int, int], ...] = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7)),
    *((1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
"""Keypoint pairs joined by a limb; limb i is drawn in OPENPOSE_COLORS[i]."""

OPENPOSE_COLORS: tuple[Color, ...] = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)),
    *((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)),
    *((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
"""Keypoint i is drawn in colour i."""
