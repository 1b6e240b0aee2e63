"""Do maps fit each other: planes and lights known by formula, exact scenes against mixed ones."""

import math

import pytest
import torch
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.evaluation import consistency, joint
from jodi_pack.jodi_core.labels.segmentation import colorize
from jodi_pack.kit.scenes.captions import COLOR_WORDS
from jodi_pack.kit.scenes.render import linear_to_srgb, render_scenes, srgb_to_linear


@pytest.fixture(scope="module")
def scenes():
    return render_scenes(range(4000, 4012), 64)


def _maps(scenes):
    return {name: scenes.pictures[:, i] for i, name in enumerate(DOMAIN_NAMES)}


def _plane_disparity(normal, tan_half, height=24, width=32):
    """1 / z of the plane n . p = -1 seen through each pixel; camera x right, y up, z away."""
    out = torch.zeros(1, height, width)
    for row in range(height):
        for column in range(width):
            x = (column + 0.5 - width / 2) / (min(height, width) / 2) * tan_half
            y = -(row + 0.5 - height / 2) / (min(height, width) / 2) * tan_half
            out[0, row, column] = -(normal[0] * x + normal[1] * y + normal[2])
    return out


@pytest.mark.parametrize("camera", [(0.0, 0.6, -0.8), (0.48, 0.6, -0.64), (-0.3, 0.1, -0.95)])
def test_normals_of_a_plane_are_the_planes(camera):
    length = math.sqrt(sum(c * c for c in camera))
    camera = tuple(c / length for c in camera)
    disparity = _plane_disparity(camera, 0.5)
    assert disparity.min() > 0
    found = consistency.derive_normals(disparity, 0.0, 0.5)
    model = torch.tensor([-camera[0], camera[1], -camera[2]])  # +X left, +Y up, +Z to the viewer
    assert (found * model.view(1, 3, 1, 1)).sum(1).min() > 1 - 1e-4


def test_offset_and_camera_matter():
    disparity = _plane_disparity((0.0, 0.6, -0.8), 0.5)
    stretched = disparity - disparity.min()
    offset = disparity.min().item()
    right = consistency.derive_normals(stretched, offset, 0.5)
    torch.testing.assert_close(right, consistency.derive_normals(disparity, 0.0, 0.5))
    wrong = consistency.derive_normals(stretched, offset, 0.8)
    assert (wrong * right).sum(1).mean() < 0.999


@pytest.mark.slow
def test_exact_scenes_fit_and_mixed_ones_do_not(scenes):
    tallies = {}
    maps = _maps(scenes)
    for name, these in (("exact", maps), ("mixed", joint.shuffle_scenes(maps))):
        tallies[name] = joint.ConsistencyTally()
        captions = scenes.captions if name == "exact" else scenes.captions[1:] + scenes.captions[:1]
        tallies[name].add_maps(these, captions)
    exact, mixed = tallies["exact"].values(), tallies["mixed"].values()
    assert exact["normal_depth_deg"] < 6 < 25 < mixed["normal_depth_deg"]
    assert exact["picture_albedo_psnr"] > mixed["picture_albedo_psnr"] + 6
    assert exact["picture_albedo_gain"] > 1 and mixed["picture_albedo_gain"] < -1
    assert exact["edge_segmentation_f"] > mixed["edge_segmentation_f"] + 0.2
    assert exact["caption_classes"] == 1 and exact["caption_colors"] == 1
    assert mixed["caption_classes"] < 0.8 and mixed["caption_colors"] < 0.5


@pytest.mark.slow
def test_flat_normals_do_not_pass_for_the_normals_of_a_scene(scenes):
    flat = torch.tensor([0.5, 0.5, 1.0]).view(1, 3, 1, 1).expand(12, 3, 64, 64)
    angle = consistency.compare_normal_with_depth(flat, scenes.pictures[:, 3], scenes.valid)
    assert angle.mean() > 25


@pytest.mark.slow
def test_fit_degrades_with_noise(scenes):
    normal, depth = scenes.pictures[:, 4], scenes.pictures[:, 3]
    noise = torch.randn(normal.shape, generator=torch.Generator().manual_seed(0))
    angles = [
        consistency.compare_normal_with_depth(normal + s * noise, depth, scenes.valid).mean()
        for s in (0, 0.05, 0.2)
    ]
    assert angles == sorted(angles)


@pytest.mark.long
def test_no_surface_is_no_number(scenes):
    nothing = torch.zeros_like(scenes.valid[:2])
    pictures = scenes.pictures[:2]
    angle = consistency.compare_normal_with_depth(pictures[:, 4], pictures[:, 3], nothing)
    assert torch.isnan(angle).all()


def test_picture_of_albedo_under_one_light_is_explained_exactly():
    g = torch.Generator().manual_seed(1)
    albedo = 0.2 + 0.6 * torch.rand(2, 3, 16, 16, generator=g)
    normal = torch.nn.functional.normalize(torch.randn(2, 3, 16, 16, generator=g), dim=1)
    shading = 0.6 + 0.3 * (normal * torch.tensor([0.4, 0.8, 0.4]).view(1, 3, 1, 1)).sum(1, True)
    picture = linear_to_srgb(srgb_to_linear(albedo) * shading)
    classes = torch.randint(0, 3, (2, 16, 16), generator=g)
    draw_normals = (normal + 1) / 2
    exact = consistency.compare_picture_with_albedo(picture, albedo, draw_normals, classes)
    assert exact.min() > 60
    grey = torch.full_like(albedo, 0.5)
    assert consistency.compare_picture_with_albedo(picture, grey, draw_normals, classes).max() < 20


def test_caption_checks_by_hand():
    classes = torch.zeros(1, 20, 20, dtype=torch.uint8)
    classes[0, :, :10] = 3  # plant
    classes[0, 0, 10:12] = 7  # two pixels of building: 0.5 % of 400
    classes[0, 0, 12] = 8  # one pixel of vehicle: too little
    albedo = torch.zeros(1, 3, 20, 20)
    albedo[0, :, :, :10] = torch.tensor(COLOR_WORDS["green"]).view(3, 1, 1) + 0.11
    found, named, colors, claimed = consistency.check_captions(
        ["a green tree and a red house and a car and a blue ball on grass"], classes, albedo
    )
    assert (found.item(), named.item()) == (2, 3)  # plant and building of plant, building, vehicle
    assert (colors.item(), claimed.item()) == (1, 2)  # the ball has no class of its own
    assert consistency.check_captions([""], classes, albedo)[1].item() == 0


@pytest.mark.slow
def test_segmentation_pictures_are_read_back(scenes):
    """The tally reads classes from the picture, so its sky must be the scenes' sky."""
    tally = joint.ConsistencyTally()
    maps = _maps(scenes) | {"segmentation": colorize(scenes.classes)}
    tally.add_maps(maps, scenes.captions)
    assert tally.values()["caption_classes"] == 1
