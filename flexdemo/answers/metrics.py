"""What an answer is and whether it is right. Plain text functions; knows no models."""

from __future__ import annotations

import importlib
import importlib.util
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..prompt import THINK, THOUGHT

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answer_text(generation: str, *, thinking: bool = False) -> str:
    """The answer in a generation: its first line that is not blank, without outer spaces.

    The answer of a model that reasons is what follows its last `</think>`; reasoning that was not ended, because the
    model began it or (`thinking`) the prompt did, is no answer: "".
    """
    _, closed, rest = generation.rpartition(THOUGHT)
    if not closed and (thinking or generation.lstrip().startswith(THINK)):
        return ""
    return next((line.strip() for line in rest.splitlines() if line.strip()), "")


def normalise(text: str) -> str:
    """Lower case without accents, punctuation, articles and extra spaces (SQuAD's rule, https://arxiv.org/abs/1606.05250,
    with accents dropped as well)."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return " ".join(_ARTICLES.sub(" ", plain.translate(_PUNCTUATION)).split())


def same_answer(one: str, other: str) -> bool:
    """Whether two answers say the same, told from their normal forms."""
    return normalise(one) == normalise(other)


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """Whether the normalised prediction is one of the right answers; an empty prediction never is."""
    said = normalise(prediction)
    return bool(said) and said in {normalise(answer) for answer in answers}


def majority(answers: Sequence[str]) -> int:
    """Index of the first answer whose normalised form is the most frequent; ties go to the earliest."""
    forms = [normalise(answer) for answer in answers]
    counts = Counter(forms)
    return forms.index(max(counts, key=lambda form: (counts[form], -forms.index(form))))


def contains(prediction: str, answers: Sequence[str]) -> bool:
    """Whether a normalised right answer occurs, as whole words, in the normalised prediction."""
    said = f" {normalise(prediction)} "
    return any(form and f" {form} " in said for form in map(normalise, answers))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """Best F1, over the right answers, of the words shared with the prediction (SQuAD's): from 0 to 1."""
    said = normalise(prediction).split()
    return max((_f1(said, normalise(answer).split()) for answer in answers), default=0.0)


def _f1(said: list[str], right: list[str]) -> float:
    shared = (Counter(said) & Counter(right)).total()
    return 2 * shared / (len(said) + len(right)) if shared else 0.0


def lemma_match(
    prediction: str, answers: Sequence[str], *, lemmatise: Callable[[str], list[str]], both_ways: bool = False
) -> bool:
    """Whether a right answer's lemmas occur next to each other, in order, in the prediction's lemmas.

    `both_ways` also takes a prediction whose lemmas so occur in a right answer's. Lemmas are compared in their normal
    form, so articles and punctuation do not count; an empty prediction is always wrong.
    """
    said = _lemmas(prediction, lemmatise)
    if not said:
        return False
    found = [forms for forms in (_lemmas(answer, lemmatise) for answer in answers) if forms]
    return any(_occurs(right, said) or (both_ways and _occurs(said, right)) for right in found)


def _lemmas(text: str, lemmatise: Callable[[str], list[str]]) -> list[str]:
    return [form for lemma in lemmatise(text) for form in normalise(lemma).split()]


def _occurs(part: list[str], whole: list[str]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


@dataclass(frozen=True)
class Lemmatiser:
    """Text -> lemmas of its words, by a library; `name` says which one, for the record of a run."""

    name: str
    split: Callable[[str], list[str]]

    def __call__(self, text: str) -> list[str]:
        return self.split(text)


def find_lemmatiser(language: str = "en") -> Lemmatiser | None:
    """A lemmatiser by simplemma, else by an installed pipeline of spaCy; None where neither knows the language."""
    return _simplemma(language) or _spacy(language)


def _simplemma(language: str) -> Lemmatiser | None:
    if importlib.util.find_spec("simplemma") is None:
        return None
    library = importlib.import_module("simplemma")
    try:
        library.lemmatize("words", lang=language)
    except ValueError:  # a language it does not know
        return None

    # Word by word: its own way through a text lowers the first word, which loses a German noun.
    def split(text: str) -> list[str]:
        return [library.lemmatize(word, lang=language) for word in library.simple_tokenizer(text)]

    return Lemmatiser(f"simplemma ({language})", split)


def _spacy(language: str) -> Lemmatiser | None:
    if importlib.util.find_spec("spacy") is None:
        return None
    library = importlib.import_module("spacy")
    # The smallest of a language's pipelines is the fastest, and all of them lemmatise; blank ones do not.
    pipelines = sorted(name for name in library.util.get_installed_models() if name.split("_")[0] == language)
    small_first = sorted(pipelines, key=lambda name: not name.endswith("_sm"))
    if not small_first:
        return None
    pipeline = library.load(small_first[0])
    return Lemmatiser(f"spaCy {small_first[0]}", lambda text: [token.lemma_ for token in pipeline(text)])
