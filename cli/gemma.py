"""Gemma 2 through transformers, for the text features of a training; an optional library.

Source of the prompt and the window: see `jodi_core/text.py`.
"""

from collections.abc import Sequence

import torch

from ..jodi_core.model.config import JODI_1600M
from ..jodi_core.text import TextFeatures, take_negative_window, take_prompt_window
from ..kit.errors import JodiError


class GemmaReader:
    """The text encoder of the released model: last hidden states of Gemma 2 (2B).

    source: a folder, or a name that transformers knows. Raises: JodiError when transformers is
    missing or cannot load it.
    """

    caption_length = JODI_1600M.caption_length
    stored = torch.bfloat16

    def __init__(self, source: str, device: str = "cpu"):
        try:
            import transformers  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise JodiError(
                "reading captions with Gemma needs transformers; `pip install jodi[train]`"
            ) from None
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(source)
            dtype = torch.float32 if device == "cpu" else torch.bfloat16
            whole = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
        except (OSError, ValueError) as error:
            reason = str(error).split("\n")[0][:200]
            raise JodiError(f"transformers cannot load {source}: {reason}") from None
        self._model = whole.get_decoder().to(device).eval()
        self._device = device
        self.channels = int(self._model.config.hidden_size)
        self.name = f"gemma {source}"

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[str]) -> TextFeatures:
        """Features (B, 1, 300, channels) float32 and mask (B, 300), on the CPU.

        An empty prompt is the null text, all of which is read: so the model met it in training.
        """
        windows = [self._window(prompt) for prompt in prompts]
        rows = []
        for window in windows:
            ids, mask = (torch.tensor([part], device=self._device) for part in window[0])
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            rows.append(states[0, list(window[1])].float().cpu())
        masks = [torch.tensor(window[2]) for window in windows]
        return TextFeatures(torch.stack(rows).unsqueeze(1), torch.stack(masks))

    def _window(self, prompt: str):
        options = {"pad_id": self._tokenizer.pad_token_id or 0, "length": self.caption_length}
        if not prompt.strip():
            window = take_negative_window("", self._tokenizer.encode, **options)
            return (window.ids, window.mask), window.select, (1,) * self.caption_length
        window = take_prompt_window(prompt, self._tokenizer.encode, **options)
        return (window.ids, window.mask), window.select, window.selected_mask
