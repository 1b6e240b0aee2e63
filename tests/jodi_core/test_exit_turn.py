"""Maps mirrored and turned: what they mean afterwards, from geometry."""

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.domains import DOMAINS, find_domain
from jodi_pack.jodi_core.exits.pose import draw_poses, read_poses
from jodi_pack.jodi_core.exits.turn import TURNS, resize, turn
from jodi_pack.kit.errors import JodiError
from jodi_pack.kit.pictures.palettes import OPENPOSE_KEYPOINTS

# Where a pixel (right, up from the centre) of the old picture goes, and with it any direction.
MOVES = {
    "flip horizontal": lambda x, y: (-x, y),
    "flip vertical": lambda x, y: (x, -y),
    "rotate 90": lambda x, y: (y, -x),
    "rotate 180": lambda x, y: (-x, -y),
    "rotate 270": lambda x, y: (-y, x),
}


@pytest.mark.parametrize("how", TURNS)
def test_pixels_go_where_they_should(how):
    picture = torch.rand(1, 3, 5, 8)
    for name in ("image", "depth", "segmentation"):
        out = turn(find_domain(name), picture, how)
        for row in range(5):
            for column in range(8):
                x, y = MOVES[how](column - 3.5, 2 - row)
                height, width = out.shape[-2:]
                there = out[..., round((height - 1) / 2 - y), round(x + (width - 1) / 2)]
                assert torch.equal(there, picture[..., row, column])


@pytest.mark.parametrize("how", TURNS)
def test_normals_turn_with_the_picture(how):
    """A ball's normal points away from its centre, before and after."""
    side = 33
    up, right = torch.meshgrid(torch.linspace(1, -1, side), torch.linspace(-1, 1, side),
                               indexing="ij")  # fmt: skip
    inside = right**2 + up**2 < 0.9
    z = (1 - right**2 - up**2).clamp_min(0).sqrt()
    ball = torch.where(inside, torch.stack((-right, up, z)), torch.zeros(3, side, side))
    light = torch.tensor([0.3, 0.5, 0.8])  # right, up, to the viewer: tells sides apart
    out = turn(find_domain("normal"), ((ball + 1) / 2)[None], how)[0] * 2 - 1
    assert torch.allclose(out, ball, atol=1e-6)  # a ball is the same from every side
    tilted = torch.zeros(1, 3, 4, 4) + torch.tensor([-light[0], light[1], light[2]]).view(
        1, 3, 1, 1
    )
    x, y, _ = (turn(find_domain("normal"), (tilted + 1) / 2, how) * 2 - 1)[0, :, 0, 0].tolist()
    assert (-x, y) == pytest.approx(MOVES[how](0.3, 0.5), abs=1e-6)


def figure():
    points = np.zeros((18, 3))
    for kind, (x, y) in enumerate(
        [(60, 30), (62, 48), (44, 50), (36, 74), (30, 96), (80, 50), (92, 70), (100, 92),
         (52, 92), (50, 112), (48, 124), (74, 92), (78, 112), (80, 124),
         (54, 24), (66, 24), (46, 28), (74, 28)]
    ):  # fmt: skip
        points[kind] = (x, y, 1)
    return points


@pytest.mark.long
@pytest.mark.parametrize("how", TURNS)
def test_a_mirrored_figure_s_left_is_its_right(how):
    picture = draw_poses([figure()[None]], 128, 160)
    out = turn(find_domain("openpose"), picture, how)
    height, width = out.shape[-2:]
    (found,) = read_poses(out)[0]
    for kind, (x, y, _) in enumerate(figure()):
        mx, my = MOVES[how](x - 79.5, 63.5 - y)
        name = OPENPOSE_KEYPOINTS[kind]
        if "flip" in how:
            swap = {"left": "right", "right": "left"}
            name = "_".join(swap.get(word, word) for word in name.split("_"))
        place = found[OPENPOSE_KEYPOINTS.index(name), :2]
        expected = (mx + (width - 1) / 2, (height - 1) / 2 - my)
        assert np.abs(place - expected).max() < 1, (kind, name)


def test_resized_classes_do_not_mix():
    picture = (torch.rand(1, 3, 6, 9) > 0.5).float()
    out = resize(find_domain("segmentation"), picture, (13, 20))
    assert out.shape == (1, 3, 13, 20) and set(out.unique().tolist()) <= {0.0, 1.0}
    assert resize(find_domain("depth"), picture, (3, 4)).shape == (1, 3, 3, 4)


def test_an_unknown_way_is_refused():
    with pytest.raises(JodiError, match="use one of flip horizontal"):
        turn(DOMAINS[0], torch.rand(1, 3, 4, 4), "shear")
