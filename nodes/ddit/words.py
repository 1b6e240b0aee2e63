"""Words from pictures: D-DiT Caption, Ask and Fill.

Each gives a list with one text for each picture of the batch, so that the nodes behind it run once
for each text.
"""

from comfy_api.latest import io

from ...ddit_core.text.answers import read_count, says_yes
from ...ddit_core.text.draft import (
    CAPTION_QUESTION,
    Draft,
    draft_caption,
    draft_question,
    draft_template,
)
from ...ddit_core.text.sampler import ORDERS, TextOptions
from ..host.ddit_run import write_texts
from ..host.ddit_text import choose_length, ddit_tokenizer
from ..wires.pictures import to_picture
from .loaders import CATEGORY

NO_NUMBER = -1  # what Ask counts where the answer holds no number


class DDiTCaption(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DDiTCaption",
            display_name="D-DiT Caption",
            category=CATEGORY,
            description=(
                "A description of each picture, by D-DiT. T5 needs the mask vector in Load D-DiT."
            ),
            inputs=[
                *_wires(),
                io.String.Input(
                    "question",
                    default=CAPTION_QUESTION,
                    multiline=True,
                    tooltip="What the fine-tuned model is asked. Empty: the model writes freely, "
                    "as the base model was trained (set length to 256 for it).",
                ),
                *_sampling(steps=64),
            ],
            outputs=[_text_output("The captions: a list, one for each picture.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, clip, vae, image, question, **settings) -> io.NodeOutput:
        length, words = choose_length(clip, settings["length"]), ddit_tokenizer(clip)
        if question.strip():
            draft = draft_question(question, length, words, short=False)
        else:
            draft = draft_caption(length, words)
        return io.NodeOutput(_write(cls, model, clip, vae, image, draft, settings))


class DDiTAsk(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DDiTAsk",
            display_name="D-DiT Ask",
            category=CATEGORY,
            description=(
                "An answer to a question about each picture, as text, as yes or no, and as a "
                "number, by D-DiT fine-tuned on questions. T5 needs the mask vector in Load D-DiT."
            ),
            inputs=[
                *_wires(),
                io.String.Input(
                    "question",
                    default="What is on the table?",
                    multiline=True,
                    tooltip=(
                        "One question about the picture, taken literally. An empty question or one "
                        "that is too long is refused before anything runs."
                    ),
                ),
                io.Boolean.Input(
                    "short",
                    default=True,
                    label_on="short",
                    label_off="long",
                    tooltip="On: the model is asked for a single word or phrase. Off: it answers "
                    "in sentences.",
                ),
                io.Int.Input(
                    "answer_tokens",
                    default=0,
                    min=0,
                    max=512,
                    tooltip="At most so many tokens of answer. 0: all that the question leaves.",
                ),
                *_sampling(steps=32),
            ],
            outputs=[
                _text_output("The answers: a list, one for each picture."),
                io.Boolean.Output(
                    display_name="yes",
                    is_output_list=True,
                    tooltip="False where the first sentence of the answer has no or not, else "
                    "true. A list, one for each picture.",
                ),
                io.Int.Output(
                    display_name="count",
                    is_output_list=True,
                    tooltip="The first whole number of the answer, in digits or in words up to "
                    "ten; -1 where there is none. A list, one for each picture.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model, clip, vae, image, question, short, answer_tokens, **settings
    ) -> io.NodeOutput:
        draft = draft_question(
            question,
            choose_length(clip, settings["length"]),
            ddit_tokenizer(clip),
            short=short,
            answer_tokens=answer_tokens or None,
        )
        answers = _write(cls, model, clip, vae, image, draft, settings)
        counts = [read_count(answer) for answer in answers]
        return io.NodeOutput(
            answers,
            [says_yes(answer) for answer in answers],
            [NO_NUMBER if count is None else count for count in counts],
        )


class DDiTFill(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DDiTFill",
            display_name="D-DiT Fill",
            category=CATEGORY,
            description=(
                "Your text with its blanks filled in from each picture; all other words come back "
                "as typed. By D-DiT; T5 needs the mask vector in Load D-DiT."
            ),
            inputs=[
                *_wires(),
                io.String.Input(
                    "text",
                    default="a {blank} on a {blank} table",
                    multiline=True,
                    tooltip="Words with blanks between them. A blank is the word blank in curly "
                    "brackets, with a colon and a number for several tokens; rest in curly "
                    "brackets at the end goes on until the model ends the text.",
                ),
                io.Int.Input(
                    "blank_tokens",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Tokens of a blank without a number of its own. A word has one to "
                    "three.",
                ),
                *_sampling(steps=64),
            ],
            outputs=[_text_output("The filled texts: a list, one for each picture.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, clip, vae, image, text, blank_tokens, **settings) -> io.NodeOutput:
        words = ddit_tokenizer(clip)
        length = choose_length(clip, settings["length"])
        draft = draft_template(text, length, words, blank_tokens=blank_tokens)
        return io.NodeOutput(_write(cls, model, clip, vae, image, draft, settings))


def _wires() -> list:
    return [
        io.Model.Input("model", tooltip="From Load D-DiT; LoRA may stand between."),
        io.Clip.Input("clip", tooltip="From Load D-DiT; T5 with a mask vector."),
        io.Vae.Input("vae", tooltip="From Load D-DiT."),
        io.Image.Input(
            "image",
            tooltip=(
                "One picture or a batch. A picture that is not square is cropped to its middle, "
                "unless whole_picture is on."
            ),
        ),
    ]


def _sampling(steps: int) -> list:
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="It decides which words are drawn. Picture number n of a batch uses seed + n.",
        ),
        io.Int.Input(
            "steps",
            default=steps,
            min=1,
            max=512,
            tooltip="In how many steps the words are revealed. Fewer are faster, and words "
            "revealed in one step do not know of each other.",
        ),
        io.Int.Input(
            "length",
            default=128,
            min=16,
            max=512,
            tooltip="Tokens of the whole text, as the model was trained: 128 for the fine-tuned "
            "model, 256 for the base model. The built-in model always uses its own, 28.",
        ),
        io.Float.Input(
            "temperature",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.05,
            tooltip="1 draws words as likely as the model finds them (published), 0 takes the "
            "likeliest.",
        ),
        io.Float.Input(
            "top_p",
            default=1.0,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip=(
                "Draw only from the likeliest words that together reach this share. 1: all "
                "(published)."
            ),
        ),
        io.Combo.Input(
            "order",
            options=list(ORDERS),
            default=ORDERS[0],
            tooltip=(
                "Which words are revealed first: random words (published), or the words that the "
                "model is surest of."
            ),
        ),
        io.Boolean.Input(
            "whole_picture",
            default=False,
            tooltip=(
                "On: the model sees all of a picture that is not square, which it was not trained "
                "on. Off: it sees the square in the middle."
            ),
        ),
    ]


def _text_output(tooltip: str):
    return io.String.Output(display_name="text", is_output_list=True, tooltip=tooltip)


def _write(cls, model, clip, vae, image, draft: Draft, settings: dict) -> list[str]:
    options = TextOptions(
        steps=settings["steps"],
        temperature=settings["temperature"],
        top_p=settings["top_p"],
        order=settings["order"],
    )
    texts = write_texts(
        model,
        clip,
        vae,
        to_picture(image, "image"),
        draft,
        options=options,
        seed=settings["seed"],
        whole=settings["whole_picture"],
        node_id=getattr(cls.hidden, "unique_id", None),
    )
    return list(texts)


NODES = [DDiTCaption, DDiTAsk, DDiTFill]
