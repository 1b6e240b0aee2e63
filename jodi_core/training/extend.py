"""A domain more: its layers, its vector, and which weights learn it.

A new domain has an input layer (`x_embedders`), an output head (`final_layers`) and a row of
`domain_embedding`; nothing else of a Jodi knows how many domains there are. The layers start as
copies of those of a domain that the model has; the row is drawn around that domain's, as far away
as rows are from each other: a model that cannot tell the two apart would unlearn the old one.
Domains are left out where their role is ignore, so a model that was extended, and not trained,
gives its old domains bit for bit as before.

Source: github VIPL-GENUN/Jodi @ c21bdcb, `extend_to_new_domain`.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from ...kit.errors import JodiError
from ...kit.training.lora import add_adapters
from ..domains import find_domain_index
from ..model.config import TransformerConfig
from ..model.facts import ModelFacts
from ..model.transformer import JodiTransformer
from .network import TrainedJodi

FORMS = ("head", "lora", "full")
LIKE = "albedo"
RANK, TARGETS = 4, ("attn.qkv", "attn.proj")
"""Of the adapters: 0.7 % of jodi-nano, 0.2 % of the released model."""


def extend_model(model: JodiTransformer, like: int, seed: int = 0) -> JodiTransformer:
    """The same model with one domain more, the last, whose layers are copies of domain `like`'s.

    seed: of its row of `domain_embedding`.
    """
    config = dataclasses.replace(model.config, num_labels=model.config.num_labels + 1)
    with torch.device("meta"):
        extended = JodiTransformer(config)
    state = dict(model.state_dict())
    new = config.num_domains - 1
    for part in ("x_embedders", "final_layers"):
        for name in [name for name in state if name.startswith(f"{part}.{like}.")]:
            rest = name.removeprefix(f"{part}.{like}.")
            state[f"{part}.{new}.{rest}"] = state[name].clone()
    rows = state["domain_embedding"]
    generator = torch.Generator().manual_seed(seed)
    offset = torch.randn(rows.shape[1], generator=generator).to(rows) * rows.std(0).mean()
    state["domain_embedding"] = torch.cat([rows, (rows[like] + offset)[None]])
    extended.load_state_dict(state, assign=True)
    return extended


def extend_facts(facts: ModelFacts, name: str, config: TransformerConfig) -> ModelFacts:
    """The facts of a model with a domain of this name more. Raises: JodiError for a taken name."""
    plain = name.strip()
    if not plain or not plain.isprintable() or len(plain) > 60:
        raise JodiError("a domain's name is 1 to 60 letters that can be printed")
    if "," in plain or "/" in plain or "\\" in plain:
        raise JodiError(f"{plain!r} holds a comma or a slash; files are named for domains")
    try:
        taken = facts.names[find_domain_index(plain, facts.names)]
    except JodiError:
        return dataclasses.replace(facts, names=(*facts.names, plain))
    raise JodiError(f"the model has a domain {taken} already; give the new one another name")


def choose_trained(model: TrainedJodi, form: str, *, rank: int, targets: Sequence[str], seed: int):
    """Make a form's parameters those that are trained, and all others frozen.

    head: the new domain's input layer, head and row. lora: those, and adapters. full: everything.
    """
    if form == "full":
        return
    if form == "lora":
        add_adapters(model, targets, rank, float(rank), seed)
    else:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
    new = model.config.num_domains - 1
    layers: list[nn.Module] = [model.x_embedders[new], model.final_layers[new]]  # type: ignore[list-item]
    for layer in layers:
        for parameter in layer.parameters():
            parameter.requires_grad_(True)
    model.domain_embedding.requires_grad_(True)


def keep_old_rows(model: TrainedJodi) -> None:
    """Clear the gradients of the old rows of the table of domains, which are not to be trained."""
    gradient = model.domain_embedding.grad
    if gradient is not None:
        gradient[:-1] = 0


@dataclasses.dataclass(frozen=True)
class Additions:
    """Parameters that an extension adds and trains. adapter_share: adapters over the old model."""

    embedder: int
    head: int
    vector: int
    adapters: int
    trained: int
    model: int

    @property
    def adapter_share(self) -> float:
        return self.adapters / self.model


def count_additions(model: TrainedJodi) -> Additions:
    """What an extended model that is ready to train adds to the one before."""
    new = model.config.num_domains - 1
    counts = {name: p.numel() for name, p in model.named_parameters()}
    width = model.config.hidden_size
    embedder = sum(n for name, n in counts.items() if name.startswith(f"x_embedders.{new}."))
    head = sum(n for name, n in counts.items() if name.startswith(f"final_layers.{new}."))
    adapters = sum(n for name, n in counts.items() if ".lora_" in name)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if trained < sum(counts.values()):
        trained -= new * width  # the old rows of the table of domains, whose gradients are zeroed
    before = sum(counts.values()) - embedder - head - adapters - width
    return Additions(embedder, head, width, adapters, trained, before)
