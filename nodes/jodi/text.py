"""Jodi Text Encode: a prompt as CONDITIONING."""

from comfy_api.latest import io

from ..host.jodi_text import encode_text


class JodiTextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiTextEncode",
            display_name="Jodi Text Encode",
            category="Jodi",
            description=(
                "A prompt as the model was trained to read it: literally, without (word:1.2) "
                "weights, behind the published instruction. Text has no effect where the image is "
                "given."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="From Load Jodi or Load Jodi Text Encoder."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to make, or what to stay away from. The built-in model knows a "
                    "few dozen words (this node's help page lists them) and leaves out the others.",
                ),
                io.Boolean.Input(
                    "instruction",
                    default=True,
                    label_on="prompt",
                    label_off="negative",
                    tooltip="On for prompts: the published instruction is put in front. Off for "
                    "negative prompts, which the released model reads without it. The built-in "
                    "encoder has no instruction.",
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="For Jodi Roles: positive or negative.")],
        )

    @classmethod
    def execute(cls, clip, text, instruction) -> io.NodeOutput:
        return io.NodeOutput(encode_text(clip, text, instruction))


NODES = [JodiTextEncode]
