"""A domain more: what is copied, what stays as it was, what is trained, what the file says."""

import dataclasses

import pytest
import torch
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.embedded import TRANSFORMER
from jodi_pack.jodi_core.model.checkpoint import load_transformer
from jodi_pack.jodi_core.model.facts import read_facts, write_facts
from jodi_pack.jodi_core.training.extend import (
    RANK,
    TARGETS,
    choose_trained,
    count_additions,
    extend_facts,
    extend_model,
    keep_old_rows,
)
from jodi_pack.jodi_core.training.network import TrainedJodi
from jodi_pack.kit.errors import JodiError


@pytest.fixture(scope="module")
def nano():
    model, metadata = load_transformer(TRANSFORMER, dtype=torch.float32)
    return model, read_facts(model.config, metadata, "nano")


@pytest.mark.long
def test_old_domains_are_as_they_were_and_the_new_one_is_its_model(nano):
    model, _ = nano
    extended = extend_model(model, like=5)
    assert extended.config.num_domains == 9
    generator = torch.Generator().manual_seed(0)
    shape = (1, 9, model.config.latent_channels, 4, 4)
    x, clean = (torch.randn(shape, generator=generator) for _ in range(2))
    args = (torch.tensor([500.0]), torch.randn(1, 1, 3, model.config.caption_channels), None)
    with torch.no_grad():
        roles = torch.tensor([[1, 2, 2, 0, 2, 0, 2, 2]])
        old = model(x[:, :8], *args, roles, clean[:, :8])
        kept = extended(x, *args, torch.cat([roles, torch.tensor([[2]])], 1), clean)
        assert torch.equal(kept[:, :8], old) and not kept[:, 8].any()
        # made alone, with the row of the domain that it was copied from, it is that domain
        away = (extended.domain_embedding[8] - extended.domain_embedding[5]).std()
        assert float(away) == pytest.approx(float(model.domain_embedding.std(0).mean()), rel=0.2)
        extended.domain_embedding[8] = extended.domain_embedding[5]
        moved = x.clone()
        moved[:, 8] = x[:, 5]
        made = extended(moved, *args, torch.tensor([[1, 2, 2, 2, 2, 2, 2, 2, 0]]), clean)
        like = model(x[:, :8], *args, torch.tensor([[1, 2, 2, 2, 2, 0, 2, 2]]), clean[:, :8])
    assert torch.equal(made[:, 8], like[:, 5])


def test_the_file_names_the_new_domain(nano):
    model, facts = nano
    extended = extend_model(model, like=0)
    said = extend_facts(facts, " shading ", extended.config)
    again = read_facts(extended.config, write_facts(extended.config, said), "file")
    assert again.names == (*DOMAIN_NAMES, "shading")
    assert dataclasses.replace(again, names=facts.names) == facts
    for name, reason in (("Depth", "depth already"), ("", "1 to 60"), ("a/b", "slash")):
        with pytest.raises(JodiError, match=reason):
            extend_facts(facts, name, extended.config)


@pytest.mark.long
@pytest.mark.parametrize("form", ["head", "lora", "full"])
def test_what_each_form_trains(nano, form):
    model, _ = nano
    trained = TrainedJodi.of(extend_model(model, like=5))
    choose_trained(trained, form, rank=RANK, targets=TARGETS, seed=0)
    additions = count_additions(trained)
    width, z = model.config.hidden_size, model.config.latent_channels
    assert additions.embedder == width * z + width
    assert additions.head == z * width + z + 2 * width and additions.vector == width
    assert additions.model == sum(p.numel() for p in model.parameters())
    new = additions.embedder + additions.head + width
    if form == "full":
        assert additions.trained == additions.model + new
        return
    assert additions.trained == new + additions.adapters
    assert (0 < additions.adapter_share < 0.01) == (form == "lora")
    shape = (1, 9, z, 2, 2)
    out = trained(
        torch.randn(shape), torch.tensor([300.0]), None, None,
        torch.tensor([[1, 2, 2, 2, 2, 2, 2, 2, 0]]), torch.randn(shape),
    )  # fmt: skip
    out.square().sum().backward()
    keep_old_rows(trained)
    moved = {n for n, p in trained.named_parameters() if p.grad is not None and p.grad.any()}
    parts = {n.split(".")[0] for n in moved} - {"blocks"}
    assert parts == {"domain_embedding", "final_layers", "x_embedders"}
    assert all(".lora_" in n for n in moved if n.startswith("blocks"))
    assert all(".8." in n for n in moved if n.startswith(("final", "x_emb")))
    assert not trained.domain_embedding.grad[:8].any() and trained.domain_embedding.grad[8].any()
