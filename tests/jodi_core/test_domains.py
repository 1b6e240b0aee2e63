"""Looking domains up by name, alias and index."""

import pytest
from jodi_pack.jodi_core.domains import DOMAIN_NAMES, DOMAINS, KINDS, find_domain, find_domain_index
from jodi_pack.kit.errors import JodiError


def test_the_order_is_the_released_one():
    assert (
        *("image", "lineart", "edge", "depth", "normal", "albedo", "segmentation", "openpose"),
    ) == DOMAIN_NAMES
    assert [d.index for d in DOMAINS] == list(range(8))
    assert {d.kind for d in DOMAINS} == set(KINDS)


@pytest.mark.parametrize("d", DOMAINS, ids=DOMAIN_NAMES)
def test_found_by_every_name(d):
    for key in (d.index, d.name, d.title, d.name.upper(), f" {d.name} ", *d.aliases):
        assert find_domain(key) is d


def test_no_alias_stands_for_two_domains():
    aliases = [a for d in DOMAINS for a in (d.name, *d.aliases)]
    assert len(aliases) == len(set(aliases))


@pytest.mark.parametrize(
    ("alias", "name"),
    [("seg", "segmentation"), ("Normals", "normal"), ("pose", "openpose"), ("line-art", "lineart")],
)
def test_common_aliases(alias, name):
    assert find_domain(alias).name == name


@pytest.mark.parametrize("key", ["", "dept", 8, -1, True, 1.0, None])
def test_errors_list_the_names(key):
    with pytest.raises(JodiError) as error:
        find_domain(key)
    for name in DOMAIN_NAMES:
        assert name in str(error.value)


def test_a_model_with_other_domains():
    names = ("image", "depth", "Thermal")
    assert find_domain_index("thermal", names) == 2
    assert find_domain_index("disparity", names) == 1  # an alias of a domain it has
    with pytest.raises(JodiError, match="the 3 domains are image, depth, Thermal"):
        find_domain_index("seg", names)  # an alias of a domain it lacks


def test_a_models_own_name_beats_an_alias():
    names = ("image", "depth", "disparity")
    assert find_domain_index("disparity", names) == 2
