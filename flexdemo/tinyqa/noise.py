"""Boundary: spoils a clean question as people do (case, typos, lost words and such) and invents names; text only."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from flexdemo.tinyqa.data import SLOT, fill

EXACT_KINDS = ("symbol", "number")  # one letter or digit more or less makes another symbol or number
SMALL_WORDS = frozenset({
    "the", "a", "an", "of", "is", "in", "to", "me", "you", "do", "does", "can", "could", "please", "it", "that",
    "which", "for", "and", "was", "are",
})  # fmt: skip
NEIGHBOURS = {
    "q": "wa", "w": "qes", "e": "wrd", "r": "etf", "t": "ryg", "y": "tuh", "u": "yij", "i": "uok", "o": "ipl",
    "p": "ol", "a": "qsz", "s": "awdx", "d": "sefc", "f": "drgv", "g": "fthb", "h": "gyjn", "j": "hukm",
    "k": "jil", "l": "ko", "z": "asx", "x": "zsc", "c": "xdv", "v": "cfb", "b": "vgn", "n": "bhm", "m": "njk",
}  # fmt: skip


@dataclass(frozen=True)
class NoiseRates:
    """Probability of each kind of noise in one question; `clean` is that of none at all."""

    clean: float = 0.35
    wrapper: float = 0.25
    case: float = 0.4
    punctuation: float = 0.4
    typo: float = 0.2
    subject_typo: float = 0.04
    spaces: float = 0.04
    drop: float = 0.15


def typo(word: str, rng: random.Random) -> str:
    """One slip of the finger in a word."""
    if len(word) < 3:
        return word
    at = rng.randrange(len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[: at + 1] + word[at:]
    return word[:at] + rng.choice(NEIGHBOURS.get(word[at].lower(), word[at])) + word[at + 1 :]


def recase(text: str, style: str) -> str:
    if style == "lower":
        return text.lower()
    if style == "upper":
        return text.upper()
    if style == "title":
        return re.sub(r"(?<![\w'])[a-z]", lambda match: match.group().upper(), text)
    return text[:1].lower() + text[1:]


def drop_words(words: Sequence[str], rng: random.Random, share: float, only_small: bool) -> list[str]:
    """Leaves out words, never the one that holds the subject, and never all the others."""
    kept = [
        w for w in words
        if SLOT in w or (only_small and w.lower().strip(".,?!") not in SMALL_WORDS) or rng.random() >= share
    ]  # fmt: skip
    return kept if len(kept) > 1 else list(words)


def spoil(
    template: str, subject: str, kind: str, rng: random.Random, rates: NoiseRates, heavy: bool = False,
    before: Sequence[str] = (), after: Sequence[str] = (),
) -> str:  # fmt: skip
    """The wording filled with the subject and spoiled. `heavy` leaves out many words, and much of the sense."""
    if not heavy and rng.random() < rates.clean:
        return fill(template, subject) if SLOT in template else template
    words = template.split(" ")
    if heavy:
        words = drop_words(words, rng, 0.5, only_small=False)
    elif rng.random() < rates.drop:
        words = drop_words(words, rng, 0.5, only_small=True)
    if rng.random() < rates.typo:
        at = rng.randrange(len(words))
        if SLOT not in words[at]:
            words[at] = typo(words[at], rng)
    text = " ".join(words)
    if rng.random() < rates.punctuation:
        end = rng.choice(("", "", "", "?", "?", "??", ".", "!", " ?", "..."))
        text = text.rstrip(".?! ") + end if rng.random() < 0.7 else text.replace(",", "").replace("'", "") + end[:1]
        if text.endswith(("..?", "??", "?.", ".?", ".!", "?!")):
            text = text[:-1]
    wrapped = rng.random() < rates.wrapper
    if wrapped and before and rng.random() < 0.6:
        text = rng.choice(before) + (text[:1].lower() + text[1:] if rng.random() < 0.5 and text[:2] != "I " else text)
    if wrapped and after and rng.random() < 0.5:
        text = text.rstrip() + rng.choice(after)
    exact = kind in EXACT_KINDS
    if not exact and rng.random() < rates.subject_typo:
        subject = typo(subject, rng)
    if rng.random() < rates.case:
        style = rng.choices(("lower", "first", "upper", "title"), (6, 2, 1, 1))[0]
        text = SLOT.join(recase(part, style) for part in text.split(SLOT)) if style != "first" else recase(text, style)
        if style == "lower" or (style != "first" and not exact):
            subject = recase(subject, style)
    elif text.startswith(SLOT) and not exact and text[-1:] in ".?!":
        subject = subject[:1].upper() + subject[1:]
    text = text.replace(SLOT, subject)
    if rng.random() < rates.spaces and " " in text:
        at = rng.choice([i for i, c in enumerate(text) if c == " "])
        text = text[:at] + " " + text[at:]
    return " ".join(text.split("\n")).strip() or subject


ONSETS = (
    "b", "br", "c", "ch", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p", "pr", "qu", "r",
    "s", "sh", "sk", "st", "t", "th", "tr", "v", "vl", "w", "x", "z", "zh",
)  # fmt: skip
NUCLEI = ("a", "e", "i", "o", "u", "ai", "au", "ea", "ei", "ia", "io", "oa", "ou", "y")
CODAS = ("", "", "", "l", "m", "n", "r", "s", "t", "th", "x", "nd", "rk", "sh")
COUNTRY_ENDS = ("ia", "land", "stan", "nia", "ovia", "ania", "ora", "is", "u", "a", "eria", "ador", "mark", "istan")
CITY_ENDS = ("ville", "burg", "polis", "ton", "grad", "a", "o", "is", "port", "stad", "ia", "mouth", "haven", "ir")
PLACES = ("Tower", "Palace", "Castle", "Bridge", "Temple", "Cathedral", "Gate", "Fortress", "Square", "Arch")
ADJECTIVES = (
    "Silent", "Crimson", "Hollow", "Broken", "Golden", "Forgotten", "Restless", "Paper", "Iron", "Distant", "Velvet",
    "Hungry", "Frozen", "Burning", "Lost", "Wooden", "Gentle", "Bitter", "Electric", "Blue", "Little", "Last", "Dark",
    "White", "Secret", "Long", "Quiet", "Second", "Green", "Old", "Wild",
)  # fmt: skip
NOUNS = (
    "Garden", "Lantern", "River", "Clock", "Orchard", "Harbour", "Window", "Winter", "Sparrow", "Mirror", "Train",
    "Mountain", "Letter", "Umbrella", "Kingdom", "Teacher", "Fisherman", "Daughter", "Moon", "Street", "Bakery",
    "Horse", "Shadow", "Island", "Song", "Summer", "Stone", "Star", "Ocean",
    "Door", "Girl", "Boy", "Soldier", "Tree", "House",
)  # fmt: skip
MACHINES = (
    "toaster", "umbrella", "bicycle", "ladder", "pump", "lamp", "clock", "spoon", "engine", "carpet", "mirror", "fork",
    "kettle", "pencil", "hammock", "whistle", "keyboard", "balloon", "drum", "candle", "boat", "chair", "hat",
)  # fmt: skip
QUALITIES = ("self-folding", "underwater", "triangular", "invisible", "musical", "edible", "magnetic", "foldable",
             "glass", "rubber", "backwards", "talking", "portable", "solar", "two-handed", "floating")  # fmt: skip
WORKS = ("Symphony", "Sonata", "Concerto", "Overture", "Waltz", "Serenade", "Opera", "Suite", "Requiem", "Mass")


def syllables(rng: random.Random, low: int, high: int) -> str:
    parts = [rng.choice(ONSETS) + rng.choice(NUCLEI) + rng.choice(CODAS) for _ in range(rng.randint(low, high))]
    return "".join(parts)


def blend(first: str, second: str, rng: random.Random) -> str:
    """The beginning of one name and the end of another."""
    return first[: rng.randint(1, max(1, len(first) - 2))] + second[rng.randint(1, max(1, len(second) - 2)) :]


def letters(rng: random.Random) -> str:
    """Letters as they come, for names that look like nothing known."""
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 9)))


def _title(rng: random.Random) -> str:
    adjective, noun, other = rng.choice(ADJECTIVES), rng.choice(NOUNS), rng.choice(NOUNS)
    name = (syllables(rng, 1, 3) if rng.random() < 0.8 else letters(rng)).capitalize()
    return rng.choice((
        f"The {adjective} {noun}", f"The {noun} of {name}", f"{name}", f"The {noun} and the {other}",
        f"{name}'s {noun}", f"A {noun} in {name}", f"{adjective} {noun}s", f"The {adjective} {noun} of {name}",
        f"The {noun} Who Forgot",
        f"{noun} and {other}", f"Goodbye, {name}", f"{name} and the {adjective} {noun}",
    ))  # fmt: skip


def invent(kind: str, rng: random.Random) -> str:
    """A name of that kind that nothing has (the caller compares it with the real ones)."""
    name = syllables(rng, 1, 3) if rng.random() < 0.8 else letters(rng)
    capital = name.capitalize()
    if kind == "country":
        return (capital if rng.random() < 0.5 else syllables(rng, 1, 2).capitalize()) + rng.choice(COUNTRY_ENDS)
    if kind in ("capital", "state_capital", "state"):
        return rng.choice(("", "", "", "New ", "Port ", "San ")) + capital + rng.choice(CITY_ENDS)
    if kind == "element":
        return name + rng.choice(("ium", "ium", "ium", "on", "ine", "um", "ogen"))
    if kind == "symbol":
        return rng.choice(string.ascii_uppercase) + rng.choice(string.ascii_lowercase)
    if kind == "number":
        return str(rng.choice((rng.randint(119, 199), rng.randint(119, 999), rng.randint(1000, 9999))))
    if kind == "painting":
        return rng.choice((f"Portrait of {capital}", f"{rng.choice(NOUNS)} with {rng.choice(NOUNS)}", _title(rng)))
    if kind == "work":
        named = (f"{rng.choice(WORKS)} of {capital}", f"the {capital} {rng.choice(WORKS)}", _title(rng))
        return rng.choice((*named, f"the {rng.choice(ADJECTIVES)} {rng.choice(WORKS)}"))
    if kind == "thing":
        odd = f"the {rng.choice(QUALITIES)} {rng.choice(MACHINES)}"
        return rng.choice((odd, odd, f"the {name} {rng.choice(MACHINES)}", f"{name}ine", f"the planet {capital}"))
    if kind == "river":
        return rng.choice((capital, f"the {capital}", f"the {capital} River", f"the River {capital}"))
    if kind == "mountain":
        return rng.choice((f"Mount {capital}", f"Mount {capital}", capital, f"{capital} Peak", f"Monte {capital}"))
    if kind == "landmark":
        place = f"{rng.choice(('the ', ''))}{capital} {rng.choice(PLACES)}"
        return rng.choice((place, place, f"the {rng.choice(PLACES)} of {capital}", capital))
    return _title(rng)
