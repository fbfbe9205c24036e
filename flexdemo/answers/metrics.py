"""What an answer is and whether it is right. Plain text functions; knows no models."""

from __future__ import annotations

import importlib
import importlib.util
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType

from ..prompt import THINK, THOUGHT

# What an answer can be judged by: the name that people give, what it says of an answer.
SCORES: Mapping[str, str] = MappingProxyType(
    {
        "exact": "it equals a right answer, both in their normal form",
        "contains": "a right answer occurs in it, as whole words",
        "f1": "words shared with a right answer (SQuAD's F1)",
        "lemma": "the lemmas of a right answer occur in it, in order (needs simplemma)",
    }
)

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_APOSTROPHES = "\u02b9\u02bb\u02bc\u02bd\u02be\u02bf"  # letters to Unicode, as in Hawai\u02bbi
_STRESS = "\u0300\u0301"  # all that Cyrillic leaves out: й is another letter than и
_POINTS = range(10, 36)  # combining classes of Hebrew and Arabic vowel points, which most texts leave out
# Scripts without spaces between words, or with endings written onto them: a character counts as a word.
_UNSPACED = ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "BOPOMOFO", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR")


def answer_text(generation: str, *, thinking: bool = False) -> str:
    """The answer in a generation: its first line that is not blank, without outer spaces.

    The answer of a model that reasons is what follows its last `</think>`; reasoning that was not ended, because the
    model began it or (`thinking`) the prompt did, is no answer: "".
    """
    if is_reasoning(generation, thinking=thinking):
        return ""
    rest = generation.rpartition(THOUGHT)[2]
    return next((line.strip() for line in rest.splitlines() if line.strip()), "")


def is_reasoning(generation: str, *, thinking: bool = False) -> bool:
    """Whether a generation ends in the midst of the model's reasoning."""
    return THOUGHT not in generation and (thinking or generation.lstrip().startswith(THINK))


def normalise(text: str) -> str:
    """Lower case without accents, punctuation, articles and extra spaces (SQuAD's rule, https://arxiv.org/abs/1606.05250,
    for all scripts). Marks that make another letter stay: those of kana, of Indic and Thai writing. Articles stay where
    there is nothing else: `A` is an answer to a question of several choices."""
    if text.isascii():
        return _without_articles(text.lower().translate(_PUNCTUATION))
    spaced = "".join(" " if c in "\u2014\u2015" else c for c in text if unicodedata.category(c) != "Sk")
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", spaced).casefold())
    kept, script = [], ""
    for c in folded:
        category = unicodedata.category(c)
        if category == "Mn":
            if not _is_accent(c, script):
                kept.append(c)
            continue
        script = unicodedata.name(c, "").partition(" ")[0]
        if category[0] != "P" and category not in ("Sc", "Sk", "Sm", "Cf") and c not in _APOSTROPHES:
            kept.append(c)
    return _without_articles(unicodedata.normalize("NFC", "".join(kept)))


def _without_articles(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text).split() or text.split())


def _is_accent(mark: str, script: str) -> bool:
    """Whether a combining mark behind a letter of a script may be left out in writing."""
    return (
        script in ("LATIN", "GREEK")
        or (script == "CYRILLIC" and mark in _STRESS)
        or unicodedata.combining(mark) in _POINTS
    )


def _is_article(text: str) -> bool:
    """Whether a text is articles alone, as `A` of several choices is."""
    return not _ARTICLES.sub("", normalise(text)).strip()


def _compared(prediction: str, answers: Sequence[str]) -> Iterator[tuple[list[str], list[str]]]:
    """The words of a prediction and of each right answer. As they are written where the answer is articles alone: `a`
    is in many a sentence, `A` is a choice."""
    said, is_choice = words(prediction), _is_article(prediction)
    for answer in answers:
        as_written = not is_choice and _is_article(answer)
        yield (re.findall(r"\w+", prediction), re.findall(r"\w+", answer)) if as_written else (said, words(answer))


def words(text: str) -> list[str]:
    """Words of a text's normal form; single characters, with their marks, where a script has no spaces."""
    found: list[str] = []
    for chunk in normalise(text).split():
        found.append("")
        alone = False  # whether the character before is a word
        for c in chunk:
            mark = unicodedata.category(c)[0] == "M"
            single = not mark and unicodedata.name(c, "").startswith(_UNSPACED)
            if found[-1] and not mark and (single or alone):
                found.append(c)
            else:
                found[-1] += c
            alone = alone if mark else single
    return found


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
    return any(right and _occurs(right, said) for said, right in _compared(prediction, answers))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """Best F1, over the right answers, of the words shared with the prediction (SQuAD's): from 0 to 1."""
    best = 0.0
    for said, right in _compared(prediction, answers):
        if shared := (Counter(said) & Counter(right)).total():
            best = max(best, 2 * shared / (len(said) + len(right)))
    return best


Lemmatise = Callable[[str], list[str]]


def lemma_match(prediction: str, answers: Sequence[str], *, lemmatise: Lemmatise, both_ways: bool = False) -> bool:
    """Whether a right answer's lemmas occur next to each other, in order, in the prediction's lemmas.

    `both_ways` also takes a prediction whose lemmas so occur in a right answer's. Lemmas are compared in their normal
    form, so articles and punctuation do not count; an empty prediction is always wrong.
    """
    if contains(prediction, answers):  # also what no lemmatiser takes for words
        return True
    said = _lemmas(prediction, lemmatise)
    if not said:
        return False
    found = [forms for forms in (_lemmas(answer, lemmatise) for answer in answers) if forms]
    return any(_occurs(right, said) or (both_ways and _occurs(said, right)) for right in found)


def _lemmas(text: str, lemmatise: Lemmatise) -> list[str]:
    return normalise(" ".join(lemmatise(text))).split()


def _occurs(part: list[str], whole: list[str]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


@cache
def find_lemmatiser() -> Lemmatise | None:
    """English lemmas of a text's words, by simplemma; None where it is not installed."""
    if importlib.util.find_spec("simplemma") is None:
        return None
    library = importlib.import_module("simplemma")
    return lambda text: [library.lemmatize(word, lang="en") for word in library.simple_tokenizer(text)]
