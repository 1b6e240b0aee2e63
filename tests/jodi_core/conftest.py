"""The tensors of small networks, as their files hold them."""

import pytest
from jodi_pack.jodi_core.model.transformer import JodiTransformer
from jodi_pack.kit.autoencoder.dcae import DCAE
from jodi_pack.tests.jodi_core.small_networks import TINY, TINY_AE, random_state


@pytest.fixture
def state():
    return random_state(JodiTransformer, TINY)


@pytest.fixture
def vae_state():
    return random_state(DCAE, TINY_AE)
