"""A tiny model with random weights in real files, and scenes to try it on."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from jodi_pack.cli.main import main
from jodi_pack.jodi_core.model.config import TransformerConfig
from jodi_pack.jodi_core.model.transformer import JodiTransformer
from jodi_pack.jodi_core.text import ClosedVocabularyEncoder
from jodi_pack.jodi_core.training.export import Parts, export
from jodi_pack.kit.autoencoder.config import AutoencoderConfig
from jodi_pack.kit.autoencoder.dcae import DCAE
from jodi_pack.kit.pictures.files import save_png
from jodi_pack.kit.scenes.captions import VOCABULARY

CAPTION_LENGTH = 32


@dataclass(frozen=True)
class TinyFiles:
    """The three files of a model that computes nothing sensible, but computes it quickly."""

    transformer: Path
    autoencoder: Path
    text: Path

    @property
    def options(self) -> list[str]:
        """What chooses this model on a command line."""
        return [
            *("--model", str(self.transformer), "--vae", str(self.autoencoder)),
            *("--text-encoder", str(self.text), "--device", "cpu"),
        ]


def randomised(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Small random weights everywhere: nothing is zero, so that every input has an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.3 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
            if parameter.ndim == 1:
                parameter.add_(0.5)
    return model.eval()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> TinyFiles:
    text = ClosedVocabularyEncoder(VOCABULARY, CAPTION_LENGTH)
    transformer = JodiTransformer(
        TransformerConfig(
            hidden_size=64,
            depth=2,
            cross_attention_heads=2,
            caption_channels=text.channels,
            caption_length=CAPTION_LENGTH,
            latent_channels=4,
            pe_base_size=8,
        )
    )
    autoencoder = DCAE(
        AutoencoderConfig(
            widths=(8, 16, 32, 32),
            encoder_depths=(1, 1, 1, 1),
            decoder_depths=(1, 1, 1, 1),
            block_types=("ResBlock", "ResBlock", "ResBlock", "EViTS5_GLU"),
            latent_channels=4,
            scaling_factor=0.5,
        )
    )
    transformer.y_embedder.y_embedding.copy_(text([""]).caption[0, 0])
    parts = Parts(randomised(transformer, 0), randomised(autoencoder, 1), text)
    folder = tmp_path_factory.mktemp("tiny")
    return TinyFiles(**export(parts, folder, native_size=32, record={"steps": 0}))


@pytest.fixture
def jodi(capsys, monkeypatch, tmp_path):
    """Runs a command in an empty folder: jodi("info", ...) -> (status, lines out, lines err)."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*arguments) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return status, shown.out.splitlines(), shown.err.splitlines()

    return run


@pytest.fixture
def picture(tmp_path):
    """Writes a picture of smooth colours: picture("a.png", height, width) -> path."""

    def write(name: str, height: int = 40, width: int = 56, seed: int = 0) -> Path:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(1, 3, 3, 4, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        path = tmp_path / name
        save_png(path, smooth[0])
        return path

    return write
