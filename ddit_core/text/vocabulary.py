"""Which token ids mean something to the sampler."""

from dataclasses import dataclass

from ...kit.errors import TextError


@dataclass(frozen=True)
class Vocabulary:
    """Ids of the text head. The last `sentinels` of them are marks, the very last the mask.

    Source: T5 v1.1's sentencepiece model, where <extra_id_0> is 32099 and marks a masked place;
    every sequence is filled up with the end token, in training too.
    """

    size: int
    sentinels: int = 100
    pad: int = 0
    end: int = 1
    unknown: int = 2

    def __post_init__(self):
        if not 0 < self.sentinels <= self.size - 3:
            raise TextError(
                f"a vocabulary of {self.size} has no room for {self.sentinels} marks beside pad, "
                "end and unknown; give the size of the text head"
            )

    @property
    def mask(self) -> int:
        """The id of a masked place."""
        return self.size - 1

    @property
    def first_sentinel(self) -> int:
        return self.size - self.sentinels

    @property
    def special(self) -> tuple[int, ...]:
        """Ids that are no words."""
        return (self.pad, self.end, self.unknown, *range(self.first_sentinel, self.size))

    def ends(self, token: int) -> bool:
        """Whether a text is over at this token."""
        return token in (self.end, self.pad)


T5_VOCABULARY = Vocabulary(32100)
