"""Answers read as yes or no, or as a number."""

import re

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NO = re.compile(r"\b(?:no|not)\b", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DIGITS = re.compile(r"(?<![\w.])\d+(?![\w.]*\d)")


def says_yes(answer: str) -> bool:
    """False where the first sentence has the word no or not, else True, as POPE reads answers.

    Source: Li et al. 2023, arXiv 2305.10355, evaluation.
    """
    return _NO.search(answer.split(".")[0]) is None


def read_count(answer: str) -> int | None:
    """The first whole number of an answer, in digits or as a word up to ten; None without any.

    "none" and "no" count as 0.
    """
    for word in re.findall(r"[^\s,;:!?]+", _THOUSANDS.sub("", answer.lower())):
        if match := _DIGITS.match(word):
            return int(match[0])
        word = word.strip(".'\"()")
        if word in NUMBERS:
            return NUMBERS.index(word)
        if word in ("none", "no"):
            return 0
    return None
