"""What colours and gradients alone give: a floor for every model, and an example of a competitor.

jodi evaluate --competitor docs/competitors/heuristic.py --scenes 64
"""

import numpy as np

TITLE = "Sobel and colours"


def load() -> None:
    """Nothing to load: no weights."""


def infer(image: np.ndarray) -> dict[str, np.ndarray]:
    """Picture (H, W, 3) float32 in [0, 1] -> maps in [0, 1], drawn as Jodi draws them."""
    grey = image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    gradient = sobel(grey)
    strength = np.clip(gradient / max(float(gradient.max()), 1e-6), 0, 1)
    height, width = grey.shape
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None].repeat(width, 1)
    return {
        "edge": strength,
        "lineart": 1 - strength,
        "depth": down,  # what stands lower in a picture is nearer
        "normal": np.stack([np.full_like(down, 0.5), 0.5 + 0.5 * down, 1 - 0.5 * down], axis=-1),
        "albedo": even_light(image),
    }


def sobel(grey: np.ndarray) -> np.ndarray:
    """Length of the gradient, (H, W)."""
    padded = np.pad(grey, 1, mode="edge")
    across = padded[:, 2:] - padded[:, :-2]
    across = across[:-2] + 2 * across[1:-1] + across[2:]
    down = padded[2:] - padded[:-2]
    down = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    return np.hypot(across, down)


def even_light(image: np.ndarray) -> np.ndarray:
    """The picture divided by its blurred brightness: slow changes of light go, colours stay."""
    light = image.mean(-1)
    for _ in range(3):
        padded = np.pad(light, 4, mode="edge")
        rows = sum(padded[i : i + light.shape[0]] for i in range(9)) / 9
        light = sum(rows[:, i : i + light.shape[1]] for i in range(9)) / 9
    return np.clip(image * (0.5 / np.maximum(light, 0.1))[..., None], 0, 1).astype(np.float32)
