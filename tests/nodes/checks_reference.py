"""Vectors of the published code through the host's own machinery. Run by test_nodes.py.

Reads the folder of reference vectors: $JODI_SHARED, else ../shared beside the project.
"""

import json
import os
from pathlib import Path

import jodi_pack
import torch
from jodi_pack.jodi_core.roles import Role
from jodi_pack.nodes.host import dcae as _host_vae
from jodi_pack.nodes.host import jodi_load as _host_load
from jodi_pack.nodes.host import sampler as _host
from safetensors import safe_open

ROOT = Path(jodi_pack.__file__).parent
REFERENCE = Path(os.environ.get("JODI_SHARED", ROOT.parent / "shared")) / "reference"
BOUND = 1e-4  # relative RMS over a whole run


def read(path):
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}


def relative(ours, theirs) -> float:
    return ((ours - theirs).pow(2).mean() / theirs.pow(2).mean()).sqrt().item()


def conditioning(features, mask, roles, clean):
    extra = {"jodi_roles": roles, "jodi_clean": clean, "attention_mask": mask}
    return [[features[:, 0], extra]]


@torch.inference_mode()
def check_sampling_runs():
    tensors, metadata = read(REFERENCE / "jodi" / "sampling.safetensors")
    model = _host_load.load_model(REFERENCE / "jodi" / "model.safetensors", "fp32")
    scale = _host.read_model_facts(model).latent_scale
    times = []

    def watch(apply_model, args):
        times.append(args["timestep"][0].item() * 1000)
        return apply_model(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(watch)
    runs = json.loads(metadata["runs"])
    for settings in runs:
        times.clear()
        run = {
            name.split(".")[1]: tensor
            for name, tensor in tensors.items()
            if name.startswith(f"run{settings['run']}.")
        }
        noise = run["noise"].transpose(1, 2)
        clean = run["clean_x"].transpose(1, 2) / scale
        roles, mask = run["role"], run["caption_mask"]
        positive = conditioning(run["caption"], mask, roles, clean)
        negative = conditioning(run["negative_caption"], mask, roles, clean)
        samples = _host.run_sampler(
            model,
            positive,
            negative,
            {"samples": torch.zeros_like(noise)},
            noise=noise,
            sampler=_host.make_jodi_sampler(),
            sigmas=_host.make_jodi_sigmas(settings["steps"], settings["flow_shift"]),
            guidance=settings["guidance"],
        )
        ours = (samples * scale).transpose(1, 2)
        counts = roles.expand(len(noise), -1) != Role.IGNORE
        error = relative(ours[counts], run["sample"][counts])
        assert error < BOUND, (settings, error)
        # Both halves of the guidance run in one call, so each step is seen once.
        seen = torch.tensor(times, dtype=torch.float64)
        assert torch.allclose(seen, run["model_timesteps"], rtol=1e-6), settings
    assert len(runs) >= 5


@torch.inference_mode()
def check_autoencoder_under_both_namings():
    for name in ("dcae", "dcae_diffusers"):
        tensors, _ = read(REFERENCE / "dcae" / f"{name}_cases.safetensors")
        vae = _host_vae.load_vae(REFERENCE / "dcae" / f"{name}.safetensors")
        cases = {key.split(".")[0] for key in tensors}
        assert len(cases) >= 3
        for case in sorted(cases):
            picture, encoded, latent, decoded = (
                tensors[f"{case}.{part}"] for part in ("image", "encoded", "latent", "decoded")
            )
            pixels = (picture.movedim(1, -1) + 1) / 2
            assert relative(vae.encode(pixels), encoded) < 1e-5
            raw = _host.decode_domain(vae, latent.unsqueeze(2), 0)
            assert relative(raw.movedim(-1, 1), decoded) < 1e-5
            expected = (decoded.movedim(1, -1) / 2 + 0.5).clamp(0, 1)
            assert torch.allclose(vae.decode(latent), expected, atol=1e-5)
