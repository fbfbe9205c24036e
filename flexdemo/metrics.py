"""What an answer is and whether it is right. Plain text functions; knows no models."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answer_text(generation: str) -> str:
    """The answer in a generation: its first line that is not blank, without outer spaces."""
    return next((line.strip() for line in generation.splitlines() if line.strip()), "")


def normalise(text: str) -> str:
    """Lower case without accents, punctuation, articles and extra spaces (SQuAD's rule, https://arxiv.org/abs/1606.05250,
    with accents dropped as well)."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return " ".join(_ARTICLES.sub(" ", plain.translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """Whether the normalised prediction is one of the right answers; an empty prediction never is."""
    said = normalise(prediction)
    return bool(said) and said in {normalise(answer) for answer in answers}


def majority(answers: Sequence[str]) -> int:
    """Index of the first answer whose normalised form is the most frequent; ties go to the earliest."""
    forms = [normalise(answer) for answer in answers]
    counts = Counter(forms)
    return forms.index(max(counts, key=lambda form: (counts[form], -forms.index(form))))
