"""D-DiT Text Encode: a prompt for a picture as CONDITIONING."""

from comfy_api.latest import io

from ...ddit_core.model.facts import RELEASED
from ..host.ddit_text import encode_prompt
from .loaders import CATEGORY


class DDiTTextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DDiTTextEncode",
            display_name="D-DiT Text Encode",
            category=CATEGORY,
            description=(
                "A prompt as D-DiT was trained to read it: literally, without (word:1.2) weights, "
                "filled up with end tokens to a fixed length. For KSampler, positive or negative."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="From Load D-DiT."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to make, or what to stay away from. Empty is the null text of "
                    "the training, the usual negative prompt.",
                ),
                io.Int.Input(
                    "length",
                    default=RELEASED.picture_length,
                    min=16,
                    max=512,
                    tooltip="Tokens of the text, the end tokens included. The model reads all of "
                    "them, so it is part of the prompt: 256 as published. Use the same for "
                    "positive and negative. The built-in model always uses its own, 28.",
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="For KSampler: positive or negative.")],
        )

    @classmethod
    def execute(cls, clip, text, length) -> io.NodeOutput:
        return io.NodeOutput(encode_prompt(clip, text, length))


NODES = [DDiTTextEncode]
