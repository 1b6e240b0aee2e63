"""Teaching a model one domain more, from a folder of pictures and their maps.

FOLDER/model.safetensors    the extended model, adapters within
FOLDER/base.safetensors     the extended model without its adapters, whose old domains are as they
                            were, bit for bit; and lora.safetensors, the adapters for it
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...kit.errors import JodiError
from ...kit.training import distributed
from ...kit.training.loop import Report
from ...kit.training.lora import drop_adapters
from ...kit.training.shards import gather_whole_state
from ..domains import find_domain_index
from ..model.facts import write_facts
from .config import TrainConfig
from .extend import (
    FORMS,
    Additions,
    choose_trained,
    count_additions,
    extend_facts,
    extend_model,
    keep_old_rows,
)
from .from_config import Prepared, train
from .network import TrainedJodi
from .result import write_model
from .role_sampling import draw_with_new
from .start import Start, load_start
from .texts import TextReader

BASE = "base.safetensors"


@dataclass(frozen=True)
class Extension:
    """What is added. name: of the domain. like: whose parts it starts from. form: what is trained
    (`FORMS`). replay: share of the micro-batches that train the old domains.
    """

    name: str
    like: str
    form: str
    replay: float

    def __post_init__(self):
        if self.form not in FORMS:
            raise JodiError(f"form is {self.form!r}; use one of {', '.join(FORMS)}")
        if not 0 <= self.replay < 1:
            raise JodiError(f"replay must be from 0 to below 1, got {self.replay}")


def load_extended(
    config: TrainConfig, text: TextReader, device: str, extension: Extension
) -> Start:
    """The model that a config names, with the new domain."""
    if distributed.place()[1] > 1:
        raise JodiError("a domain is added in one process; run the command without torchrun")
    start = load_start(config, text, device)
    facts = extend_facts(start.facts, extension.name, start.model.config)
    like = find_domain_index(extension.like, start.facts.names)
    return replace(start, model=extend_model(start.model, like, config.seed), facts=facts)


def teach(
    prepared: Prepared, extension: Extension, device: str, report: Report | None = None
) -> tuple[dict[str, Path], Additions]:
    """Train the new domain; the files, and what was added.

    Raises: JodiError when no picture has the new domain.
    """
    new = len(prepared.start.facts.names) - 1
    if not any(extension.name in entry.names for entry in prepared.entries):
        raise JodiError(
            f"no picture has a map of {extension.name}; put them into a folder {extension.name} "
            "beside the pictures, each under its picture's name"
        )
    lora = prepared.config.lora
    model = TrainedJodi.of(prepared.start.model)
    choose_trained(
        model, extension.form, rank=lora.rank, targets=lora.targets, seed=prepared.config.seed
    )
    additions = count_additions(model)
    record = {"domain": extension.name, "like": extension.like, "form": extension.form}
    paths = train(
        prepared,
        device,
        report,
        model=model,
        draw_roles=draw_with_new(new, extension.replay),
        finish=None if extension.form == "full" else lambda: keep_old_rows(model),
        record={**record, "replay": extension.replay},
    )
    if extension.form == "lora":
        facts = prepared.start.facts
        metadata = {"format": "pt", **write_facts(model.config, facts)}
        paths["base"] = prepared.folder / BASE
        write_model(
            paths["base"], drop_adapters(gather_whole_state(model)), metadata, torch.float32
        )
    return paths, additions
