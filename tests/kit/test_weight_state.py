"""Every way in which weights change is noticed, and nothing else is."""

import gc

import pytest
import torch
from jodi_pack.kit.autoencoder.cache import WeightState
from jodi_pack.tests.helpers import tiny_transformer


def test_writes_and_exchanges_are_noticed_once():
    model, state = tiny_transformer(), WeightState()
    assert state.unchanged(model) is False
    assert state.unchanged(model) is True

    def write():
        with torch.no_grad():
            model.blocks[1].cross_attn.kv_linear.weight.mul_(2)

    def exchange():
        model.y_embedder.y_embedding = model.y_embedder.y_embedding.clone()

    def load():
        model.load_state_dict(tiny_transformer(seed=3).state_dict(), assign=True)

    for change in (write, exchange, load):
        change()
        assert state.unchanged(model) is False, change
        assert state.unchanged(model) is True, change


@pytest.mark.slow
def test_another_network_in_the_same_memory_is_another():
    state = WeightState()
    for _ in range(20):
        network = torch.nn.Linear(2, 2)
        assert state.unchanged(network) is False
        del network
        gc.collect()


def test_weights_that_count_no_writes_are_not_vouched_for():
    with torch.inference_mode():
        network = torch.nn.Linear(2, 2)
    state = WeightState()
    assert state.unchanged(network) is None and state.unchanged(network) is None
