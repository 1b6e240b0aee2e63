"""VQA v2: how an answer is normalised and scored, as published, to the letter.

Source: Goyal et al. 2017, arXiv 1612.00837; github GT-Vision-Lab/VQA @ a013f00, vqaEval.py. Its
oddities are kept where they change a score: answers that all people gave alike are compared as
they are, and a full stop is dropped wherever no digit follows, at most 32 of them.
"""

import re
from collections.abc import Sequence

from ..text.answers import NUMBERS

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_FULL_STOPS_DROPPED = 32
_ARTICLES = ("a", "an", "the")
_DIGIT_OF = {"none": "0", **{word: str(i) for i, word in enumerate(NUMBERS)}}

# Shortened words with all their apostrophes; each is also known without any single apostrophe.
_SHORTENED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""


def _spellings() -> dict[str, str]:
    table = {"somebody'd": "somebodyd"}  # as published
    for word in _SHORTENED.split():
        for i, letter in enumerate(word):
            if letter == "'":
                table[word[:i] + word[i + 1 :]] = word
    return table


_APOSTROPHES = _spellings()


def score_answer(answer: str, people: Sequence[str]) -> float:
    """How well an answer agrees with people's answers, 0 to 1.

    The mean, over leaving out each person in turn, of min(1, people who agree / 3). Answers are
    normalised first, unless all people gave the same.
    """
    answer, people = _one_line(answer), [_one_line(given) for given in people]
    if len(set(people)) > 1:
        answer, people = normalise_answer(answer), [normalise_answer(given) for given in people]
    agree = sum(given == answer for given in people)
    scores = [min(1.0, (agree - (given == answer)) / 3) for given in people]
    return sum(scores) / len(scores)


def normalise_answer(text: str) -> str:
    """An answer without punctuation and articles, lower case, number words up to ten as digits."""
    return _plain_words(_without_punctuation(_one_line(text)))


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    """Punctuation separates words, but is dropped beside a space and where a number has a comma."""
    out, in_number = text, _THOUSANDS.search(text) is not None
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if in_number or beside_space else " ")
    return _FULL_STOP.sub("", out, count=_FULL_STOPS_DROPPED)


def _plain_words(text: str) -> str:
    words = (_DIGIT_OF.get(word, word) for word in text.lower().split())
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)
