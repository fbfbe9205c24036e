"""A recording holds exactly what was recorded, is small, and a damaged one is refused in one line."""

from __future__ import annotations

import copy
import datetime
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexdemo.answers import recording
from flexdemo.answers.ask import ask
from flexdemo.answers.explain import CANDIDATES, Explanation, explain
from flexdemo.answers.methods import METHODS
from flexdemo.answers.recording import MOST_BYTES, load_recorded, record
from flexdemo.answers.result import Result
from flexdemo.engine.loading import BUNDLED
from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError
from flexdemo.request import Request

A, B, C = "What is the capital of Peru?", "Name it.", "Which city is Peru's capital?"
EXAMPLES = (
    {"question": A, "paraphrases": [B, C], "title": "Peru", "note": "<b>two</b> more wordings"},
    {
        "question": "¿Qué?\u2028'\"\\",
        "paraphrases": [B],
        "mask": "anchor",
        "positions": "sequential",
        "weights": [1, 3],
    },
    {"question": A, "weights": "raw", "prefix": "Be brief.", "max_new_tokens": 3},
    {"question": A, "paraphrases": [B, C], "weights": "confidence", "max_new_tokens": 2},
)
ASSETS = BUNDLED.parent
LISTS = {"examples.json": "recorded.json", "examples-smollm2.json": "recorded-smollm2.json"}
SHIPPED, REAL = (json.loads((ASSETS / name).read_text(encoding="utf-8")) for name in LISTS)


def options(example: dict) -> dict:
    return {k: v for k, v in example.items() if k not in ("question", "paraphrases", "title", "note")}


def same(ours: Explanation, theirs: Explanation) -> bool:
    a, b = ours.attribution, theirs.attribution
    arrays = [(getattr(a, n), getattr(b, n)) for n in ("mass", "token_attention", "mass_per_token")]
    return (
        all(x.dtype == y.dtype and x.shape == y.shape and (x == y).all() for x, y in arrays)
        and a.effects == b.effects
        and ours.agreement == theirs.agreement
        and ours.steps == theirs.steps
        and ours.to_dict() == theirs.to_dict()
    )


def without_clock(result: Result) -> Result:
    """Times differ from run to run."""
    results = tuple(replace(answer, seconds=0.0) for answer in result.results)
    return replace(result, seconds=dict.fromkeys(result.seconds, 0.0), results=results)


@pytest.fixture(scope="module")
def made(lm: LanguageModel) -> list[tuple[Result, Explanation]]:
    return [
        (r, explain(lm, r))
        for r in (
            ask(lm, e["question"], e.get("paraphrases", ()), methods=("all",), candidates=CANDIDATES, **options(e))
            for e in EXAMPLES
        )
    ]


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch, made: list[tuple[Result, Explanation]]) -> None:
    """`record` gets these very results, so that equality can be exact, times included."""
    results = iter(made)
    current: list[Any] = []

    def ask_again(*args: Any, **kwargs: Any) -> Result:
        current[:] = next(results)
        return current[0]

    monkeypatch.setattr(recording, "ask", ask_again)
    monkeypatch.setattr(recording, "explain", lambda lm, result: current[1])


def written(tmp_path: Path, told: str) -> Path:
    path = tmp_path / "recorded.json"
    path.write_text(told, encoding="utf-8")
    return path


def test_what_is_read_equals_what_was_recorded(
    lm: LanguageModel, made: list[tuple[Result, Explanation]], replayed: None, tmp_path: Path
) -> None:
    read = load_recorded(written(tmp_path, record(lm, EXAMPLES)))
    assert len(read) == len(EXAMPLES)
    for each, (result, explanation) in zip(read, made, strict=True):
        assert each.result == result and each.result.to_dict() == result.to_dict()
        assert type(each.result.prompt) is type(result.prompt) and each.result.request == result.request
        assert same(each.explanation, explanation)
        assert each.date == datetime.date.today().isoformat() and each.result.model == "llama"
        assert set(each.versions) == {"flexdemo", "python", "torch", "transformers"}


def test_record_asks_every_method_with_the_examples_options(
    lm: LanguageModel, made: list[tuple[Result, Explanation]], tmp_path: Path
) -> None:
    read = load_recorded(written(tmp_path, record(lm, EXAMPLES)))
    for each, (result, explanation) in zip(read, made, strict=True):
        assert without_clock(each.result) == without_clock(result)
        assert same(each.explanation, explanation)
    assert [answer.method for answer in read[0].result.results] == list(METHODS)


def test_a_too_large_recording_keeps_means_over_heads_and_says_so(
    lm: LanguageModel,
    made: list[tuple[Result, Explanation]],
    replayed: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = len(record(lm, EXAMPLES[:1]).encode())
    monkeypatch.setattr(recording, "ask", lambda *args, **kwargs: made[0][0])
    monkeypatch.setattr(recording, "explain", lambda *args: made[0][1])
    monkeypatch.setattr(recording, "MOST_BYTES", whole - 1)
    text = record(lm, EXAMPLES[:1])
    assert len(text.encode()) < whole - 1
    (read,) = load_recorded(written(tmp_path, text))
    result, explanation = made[0]
    mass = read.explanation.attribution.mass
    assert mass.shape == (len(result["flex"].token_ids), 1, 1, 5)
    np.testing.assert_allclose(mass[:, 0, 0], explanation.attribution.mass.mean(axis=(1, 2)), atol=1e-7)
    assert read.result == result and read.explanation.attribution.effects == explanation.attribution.effects

    monkeypatch.setattr(recording, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match=r"1 examples make a recording of \d+ bytes: at most 1000; record fewer"):
        record(lm, EXAMPLES[:1])


def test_numbers_are_short_and_exact() -> None:
    numbers = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32) ** 9
    for values in (numbers, np.array([0.1, 1e-40, -0.0], np.float32), numbers.astype(np.float64) ** 3):
        text = json.dumps(recording._numbers(values))
        read = recording._array(json.loads(text))
        assert read.dtype == values.dtype and read.tobytes() == values.tobytes()
        assert values.dtype == np.float64 or len(text) < 18 * values.size + 50


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (({"paraphrases": [B]},), "example 1 must be an object with a question"),
        (("What?",), "example 1 must be an object with a question"),
        (({"question": A}, {"question": " "}), "example 2: the question is empty"),
        (
            ({"question": A, "sed": 1},),
            "example 1: sed: there is no such setting: choose from question",
        ),
        (({"question": A, "mask": "x"},), "example 1: unknown mask strategy 'x'"),
    ],
)
def test_bad_examples_are_named(lm: LanguageModel, examples: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        record(lm, examples)


@pytest.fixture(scope="module")
def told(lm: LanguageModel) -> dict[str, Any]:
    small = {"question": A, "paraphrases": [B], "max_new_tokens": 1}
    return json.loads(record(lm, [small]))


def every_place(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths to the values of a JSON tree; of long lists the first two."""
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:2] if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in every_place(each, (*path, key)))]


def put(tree: Any, path: tuple, change: Callable[[Any, Any], None]) -> Any:
    tree = copy.deepcopy(tree)
    holder = tree
    for key in path[:-1]:
        holder = holder[key]
    change(holder, path[-1])
    return tree


# Free texts and facts for display, in which any value of their type is as good as another; and what has defaults alone.
LOOSE = ("model", "versions", "mask", "seconds")
DEFAULTED = ("weight", "candidates", "confidence", "sides", "notes")


def another(value: Any) -> Any:
    """A value of another type than this one."""
    return "x" if isinstance(value, int | float | list) else True


def test_damage_anywhere_is_refused(told: dict[str, Any], tmp_path: Path) -> None:
    """Each value replaced by ones of other types, and each field removed."""
    path = tmp_path / "recorded.json"
    refused = 0
    for place in every_place(told)[1:]:
        if any(key in LOOSE for key in place):
            continue
        spoils = [
            lambda holder, key: holder.__setitem__(key, {"x": []}),
            lambda holder, key: holder.__setitem__(key, another(holder[key])),
            lambda holder, key: holder.__delitem__(key) if isinstance(holder, dict) else holder.__setitem__(key, None),
        ]
        if place[-1] in DEFAULTED or ("request" in place[:-1] and place[-1] != "question"):
            spoils.pop()  # what is not there is older than the field
        for spoil in spoils:
            path.write_text(json.dumps(put(told, place, spoil)), encoding="utf-8")
            with pytest.raises(InputError, match=f"^cannot read {path}: it is no recording") as caught:
                load_recorded(path)
            assert "\n" not in str(caught.value)
            refused += 1
    assert refused > 300


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', "[" * 100_000, '"\ud800"', "9" * 9000], ids=len)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=f"^cannot read {path}: it is no ") as caught:
        load_recorded(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*No such file"):
        load_recorded(tmp_path / "nothing.json")


@pytest.mark.parametrize("name", [name for name, field in Request.model_fields.items() if not field.is_required()])
def test_a_recording_from_before_a_setting_existed_has_its_default(
    told: dict[str, Any], tmp_path: Path, name: str
) -> None:
    older = copy.deepcopy(told)
    del older["examples"][0]["result"]["request"][name]
    (read,) = load_recorded(written(tmp_path, json.dumps(older)))
    assert getattr(read.result.request, name) == Request.model_fields[name].default


def test_a_recording_with_a_setting_of_a_later_version_is_refused_by_its_name(
    told: dict[str, Any], tmp_path: Path
) -> None:
    newer = copy.deepcopy(told)
    newer["examples"][0]["result"]["request"]["repetition_penalty"] = 1.1
    with pytest.raises(InputError, match="repetition_penalty: there is no such setting") as caught:
        load_recorded(written(tmp_path, json.dumps(newer)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("examples", "file", "model", "heads"), [
    (SHIPPED, "recorded.json", "tinyqa", (6, 10)),  # with every head
    (REAL, "recorded-smollm2.json", "smollm2", (1, 1)),  # 30 layers of 9 would be too large
])  # fmt: skip
def test_the_recordings_that_are_shipped_are_whole_and_small(
    examples: list[dict], file: str, model: str, heads: tuple[int, int]
) -> None:
    read = load_recorded(ASSETS / file)
    assert [each.result.request.question for each in read] == [each["question"] for each in examples]
    assert all(each.explanation.attribution.mass.shape[1:3] == heads for each in read)
    assert {(each.result.model, each.result.dtype) for each in read} == {(model, "float32")}
    assert (ASSETS / file).stat().st_size < MOST_BYTES == 1_000_000


def test_the_page_opens_on_an_example_worth_seeing() -> None:
    """One wording alone is wrong, the fused answer right, standard attention wrong too; and it is small."""
    result = load_recorded(ASSETS / "recorded.json")[0].result
    assert [view.answer for view in result["per_prompt"].views] == ["Edvard Munch"] * 3 + ["Edvard Grieg"]
    assert (result["flex"].answer, result["causal"].answer) == ("Edvard Munch", "Edvard Grieg")
    assert len(result.prompt.token_ids) < 70


def test_the_real_model_s_examples_are_worth_seeing() -> None:
    """In each some wording alone goes wrong; fused, two are right, and the third shows that fusing can lose."""
    canada, planet, poland = (each.result for each in load_recorded(ASSETS / "recorded-smollm2.json"))
    right = [(canada, "Ottawa"), (planet, "Jupiter"), (poland, "Warsaw")]
    for result, answer in right:
        alone = [view.answer for view in result["per_prompt"].views]
        assert {view.endswith(f"{answer}.") for view in alone} == {True, False}, "whole answers, and others"
        assert result.prompt.kind == "chat" and len(result.prompt.token_ids) < 70
    assert all(result["flex"].answer.endswith(f"{answer}.") for result, answer in right[:2])
    assert "Warsaw" not in poland["flex"].answer and "largest city" in canada["causal"].answer


BOTH = [
    (example, file, i)
    for file, examples in zip(LISTS.values(), (SHIPPED, REAL), strict=True)
    for i, example in enumerate(examples)
]


@pytest.mark.parametrize(("example", "file", "index"), BOTH, ids=[each[0]["title"] for each in BOTH])
def test_a_note_tells_what_was_answered(bundled: LanguageModel, example: dict, file: str, index: int) -> None:
    """Every answer that it quotes was given, and the one after a changed weight is given with that weight."""
    result = load_recorded(ASSETS / file)[index].result
    note, _, changed = example["note"].partition(" With the weight ")
    given = {view.answer for name in ("per_prompt", "flex", "causal") for view in result[name].views}
    assert set(re.findall("“(.*?)”", note)) <= given and "\n" not in note
    if changed:
        weight, wording, said = re.match(r"([\d.]+) for P(\d) (.*)", changed).groups()
        weights = [1.0] * (1 + len(example["paraphrases"]))
        weights[int(wording) - 1] = float(weight)
        again = ask(bundled, example["question"], example["paraphrases"], weights=weights)["flex"].answer
        assert again in said or (again == "Pablo Picasso" and "it is right" in said)
