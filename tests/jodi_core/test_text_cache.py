"""Prepared texts: found by content, for the same weights only."""

import torch
from jodi_pack.jodi_core.model.attention import TextKeys, TwoKeys
from jodi_pack.jodi_core.model.text_cache import TextCache, are_equal_tensors
from jodi_pack.tests.helpers import randn


class Made(TextKeys):
    """Of no size, and told apart by a number."""

    def __init__(self, number=0, count=0):
        super().__init__(torch.full((count,), 0.0), torch.zeros(0), None)
        object.__setattr__(self, "number", number)


def test_found_by_content_and_forgotten_in_order_of_use():
    made = []
    cache = TextCache(entries=2)

    def get(seed):
        make = lambda: made.append(seed) or [Made(seed)]  # noqa: E731
        return cache.get((randn(3, seed=seed), None), make)[0].number

    assert [get(1), get(2), get(1), get(3)] == [1, 2, 1, 3] and made == [1, 2, 3]
    assert get(1) == 1 and made == [1, 2, 3]  # used more lately than 2
    assert get(2) == 2 and made == [1, 2, 3, 2]


def test_bounded_in_bytes():
    cache = TextCache(entries=9, limit=100)
    for number in range(4):
        cache.get((torch.tensor(number),), lambda n=number: [Made(n, 10)])
        assert cache.nbytes <= 100
    assert cache.get((torch.tensor(3),), list)[0].number == 3  # 40 bytes each: two fit
    assert cache.get((torch.tensor(2),), list)[0].number == 2
    assert cache.get((torch.tensor(1),), list) == []
    assert len(cache.get((torch.tensor(7),), lambda: [Made(7, 30)])) == 1  # too large to be kept
    assert cache.nbytes == 0


def test_other_weights_find_nothing_and_nothing_of_the_old_stays():
    cache = TextCache()
    inputs = (torch.ones(2),)
    results = []
    for weights in ("a", "a", "b", "a"):
        cache.made_with(weights)
        results.append(cache.get(inputs, lambda: [Made(count=5)]))
        assert cache.nbytes == 20
    assert results[0] is results[1] is not results[3]
    assert results[2] is not results[3]


def test_bytes_are_those_of_all_parts():
    keys = TextKeys(torch.zeros(2), torch.zeros(3), torch.zeros(4))
    assert keys.nbytes == 36 and TextKeys(torch.zeros(2), torch.zeros(3), None).nbytes == 20
    assert TwoKeys(torch.zeros(2), torch.zeros(3), torch.zeros(4)).nbytes == 36


def test_tensors_are_the_same_in_everything_but_identity():
    x = torch.ones(2, 3)
    assert are_equal_tensors(x, x.clone()) and are_equal_tensors(None, None)
    for other in (x + 1, x[:1], x.double(), x.to("meta"), None):
        assert not are_equal_tensors(x, other) and not are_equal_tensors(other, x)
