"""A picture to start with."""

from comfy_api.latest import io

from ...jodi_core.embedded import EXAMPLES
from ...kit.errors import ImageError
from ...kit.pictures.files import load_image
from ..wires.pictures import to_image


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
                    options=list(EXAMPLES),
                    default=next(iter(EXAMPLES)),
                    tooltip="Which picture. They are rendered scenes, 512 x 512, that the built-in "
                    "model was not trained on.",
                )
            ],
            outputs=[io.Image.Output("image", "image", tooltip="The picture.")],
        )

    @classmethod
    def execute(cls, picture):
        if picture not in EXAMPLES:
            raise ImageError(f"{picture!r} is no example; choose one of {', '.join(EXAMPLES)}")
        return io.NodeOutput(to_image(load_image(EXAMPLES[picture])[0]))


NODES = [JodiExample]
