"""Relighting against the renderer: its own scenes under another light."""

import dataclasses
import math

import pytest
import torch
from jodi_pack.jodi_core.exits.relight import find_light_direction, read_color, relight
from jodi_pack.kit.errors import ImageError, JodiError
from jodi_pack.kit.scenes import render
from jodi_pack.kit.scenes.layout import compose


def outdoor_seeds(count):
    seeds = (s for s in range(200) if compose(s).environment.indoor[0] < 0.5)
    return [next(seeds) for _ in range(count)]


@pytest.mark.long
@pytest.mark.parametrize("seed", outdoor_seeds(3))
def test_a_new_light_gives_the_renderer_s_picture_where_nothing_is_in_shadow(seed):
    scene = compose(seed)
    old = render._render([scene], 96, 96, 1, "cpu")
    world = torch.tensor([0.6, 0.5, -0.4])
    world = world / world.norm()
    direct, ambient = (0.9, 0.7, 0.5), (0.25, 0.3, 0.4)
    scene.environment = dataclasses.replace(
        scene.environment, light=tuple(world.tolist()), direct=direct, ambient=ambient
    )
    new = render._render([scene], 96, 96, 1, "cpu")
    # the renderer looks along its +z, pitched up; the node wants right, up, to the viewer
    pitch = scene.environment.camera[1]
    x, y, z = world.tolist()
    light = (
        x,
        y * math.cos(pitch) - z * math.sin(pitch),
        -(y * math.sin(pitch) + z * math.cos(pitch)),
    )
    made = relight(old.pictures[:, 5], old.pictures[:, 4], light, direct, ambient, 0.2)
    up = torch.tensor([0.0, math.cos(pitch), -math.sin(pitch)])
    n = old.normal[0] * torch.tensor([-1.0, 1.0, 1.0]).view(3, 1, 1)  # right, up, to the viewer
    rise = (n * up.view(3, 1, 1)).sum(0)
    only_ambient = torch.tensor(ambient).view(3, 1, 1) * (0.8 + 0.2 * rise)
    faces = (n * torch.tensor(light).view(3, 1, 1)).sum(0) > 0.02
    shadow = faces & ((new.shading[0] - only_ambient).abs().amax(0) < 1e-3)
    shown = old.valid[0] & ~shadow
    assert float(shown.float().mean()) > 0.2
    error = (made - new.pictures[:, 0])[0][:, shown].square().mean()
    assert -10 * math.log10(float(error) + 1e-12) >= 30


def test_one_pixel_by_the_formula():
    albedo, normals = torch.full((1, 3, 1, 1), 0.5), torch.tensor([0.2, 0.9, 0.9]).view(1, 3, 1, 1)
    made = relight(albedo, normals, (1, 2, 3), (0.5, 0.6, 0.7), (0.1, 0.2, 0.3), 0.4)
    n = [(v * 2 - 1) for v in (0.2, 0.9, 0.9)]
    length = math.sqrt(sum(v * v for v in n))
    n = [v / length for v in n]
    cosine = max(0, (-n[0] * 1 + n[1] * 2 + n[2] * 3) / math.sqrt(14))
    shade = 0.6 + 0.4 * n[1]
    for c, (color, ambient) in enumerate(zip((0.5, 0.6, 0.7), (0.1, 0.2, 0.3), strict=True)):
        light = ((0.5 + 0.055) / 1.055) ** 2.4 * (ambient * shade + color * cosine)
        assert float(made[0, c]) == pytest.approx(1.055 * light ** (1 / 2.4) - 0.055, abs=1e-5)


def test_unlit_pixels_show_the_albedo():
    albedo, normals = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)
    unlit = torch.zeros(1, 4, 4)
    unlit[0, 0] = 1
    made = relight(albedo, normals, (0, 0, 1), unlit=unlit)
    assert torch.allclose(made[..., 0, :], albedo[..., 0, :], atol=1e-5)
    assert not torch.allclose(made[..., 1:, :], albedo[..., 1:, :], atol=1e-3)


def test_directions_and_colours():
    assert find_light_direction(0, 0) == pytest.approx((0, 0, 1))
    assert find_light_direction(90, 0) == pytest.approx((1, 0, 0), abs=1e-12)
    assert find_light_direction(123, 90) == pytest.approx((0, 1, 0), abs=1e-12)
    assert read_color("#fff") == pytest.approx((1, 1, 1))
    assert read_color(" 808080 ")[0] == pytest.approx(((128 / 255 + 0.055) / 1.055) ** 2.4)
    for text in ("", "#ff", "red", "#gggggg", "#-10000"):
        with pytest.raises(JodiError, match="expected a colour"):
            read_color(text)


def test_what_does_not_fit_is_refused():
    a = torch.rand(1, 3, 4, 4)
    with pytest.raises(ImageError, match="maps of one picture"):
        relight(a, torch.rand(1, 3, 4, 5), (0, 0, 1))
    with pytest.raises(JodiError, match="no direction"):
        relight(a, a, (0, 0, 0))
    with pytest.raises(ImageError, match="unlit mask"):
        relight(a, a, (0, 0, 1), unlit=torch.zeros(1, 2, 2))
