"""A picture to start with."""

import torch
from comfy_api.latest import io
from torch import Tensor

from ...jodi_core.embedded import EXAMPLES
from ...kit.errors import ImageError
from ...kit.pictures.files import load_image
from ..wires.pictures import to_image

PANS = {"pan by a lake, 4 frames": "person by a lake"}
"""Short videos: a window that goes from left to right over a picture."""

FRAMES, WINDOW = 4, 384


class JodiExample(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiExample",
            display_name="Jodi Example Picture",
            category="Jodi",
            description=(
                "A picture with a person that comes with the pack, to try things on. Put Load "
                "Image in its place for a picture of your own."
            ),
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=[*EXAMPLES, *PANS],
                    default=next(iter(EXAMPLES)),
                    tooltip="Which picture. They are rendered scenes, 512 x 512, that the built-in "
                    "model was not trained on; the pan is 4 frames of 384 x 384.",
                )
            ],
            outputs=[io.Image.Output("image", "image", tooltip="The picture.")],
        )

    @classmethod
    def execute(cls, picture):
        if picture not in (*EXAMPLES, *PANS):
            choices = ", ".join((*EXAMPLES, *PANS))
            raise ImageError(f"{picture!r} is no example; choose one of {choices}")
        whole = load_image(EXAMPLES[PANS.get(picture, picture)])[0]
        return io.NodeOutput(to_image(_pan(whole) if picture in PANS else whole))


def _pan(picture: Tensor) -> Tensor:
    """(1, 3, H, W) -> (FRAMES, 3, WINDOW, WINDOW), at the lower edge."""
    last = picture.shape[-1] - WINDOW
    lefts = [round(i * last / (FRAMES - 1)) for i in range(FRAMES)]
    return torch.cat([picture[..., -WINDOW:, left : left + WINDOW] for left in lefts])


NODES = [JodiExample]
