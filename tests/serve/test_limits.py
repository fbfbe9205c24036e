"""What each profile allows: held by the server, told in one line; a request whose time is up keeps what it has."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from hosting import HUGE, QUESTION, SPACE, Site, endpoint_of, generating, no_traceback, reason  # noqa: F401 (no_traceback watches every test here)

import app
import flexdemo
from flexdemo.answers import ask as asking
from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError
from flexdemo.request import Limits
from flexdemo.serve.profiles import DEFAULT, PROFILES

# Profiles


def table() -> str:
    """What each profile allows, as a table in Markdown."""
    profiles = PROFILES.values()
    rows = [
        ("", *(f"`{name}`" for name in PROFILES)),
        ("meant for", *(p.summary for p in profiles)),
        ("paraphrases of a question", *(f"{p.limits.paraphrases}" for p in profiles)),
        ("characters of each text", *(f"{p.limits.characters:,}" for p in profiles)),
        ("tokens of prompt and answer", *(f"{p.limits.prompt_tokens:,}" for p in profiles)),
        ("tokens of the answer", *(f"{p.limits.new_tokens:,}" for p in profiles)),
        ("samples of each wording", *(f"{p.limits.samples}" for p in profiles)),
        ("seconds of computing", *(_or_any(p.limits.seconds) for p in profiles)),
        ("requests that wait, in all", *(f"{p.queue}" for p in profiles)),
        ("of one visitor (an address)", *(_or_any(p.waiting) for p in profiles)),
        ("pages and calls a minute, of one visitor", *(_or_any(p.visits) for p in profiles)),
        ("results files, rows", *(f"{p.limits.file_rows:,}" if p.uploads else "none" for p in profiles)),
        ("results files, MB", *(f"{p.limits.file_bytes / 1e6:g}" if p.uploads else "none" for p in profiles)),
        (
            "MB of visitors' files on disk",
            *("any" if p.disk_bytes is None else f"{p.disk_bytes / 1e6:,.0f}" for p in profiles),
        ),
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * (len(profiles) + 1), *lines[1:]])


def _or_any(value: float | None) -> str:
    return "any" if value is None else f"{value:g}"


def test_the_page_about_hosting_has_the_limits_that_hold() -> None:
    assert table() in (Path(app.__file__).parent / "docs" / "hosting.md").read_text(encoding="utf-8")


def test_a_public_host_is_tighter_than_ones_own_machine() -> None:
    own, public = asdict(Limits()), asdict(SPACE.limits)
    assert all(public[name] <= own[name] for name in own if own[name] is not None) and public["seconds"]
    assert own == asdict(DEFAULT.limits) and DEFAULT.waiting is None


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_are_choices_of_the_program(profile: str) -> None:
    assert app.make_parser().parse_args(["--profile", profile]).profile == profile


def test_no_request_names_a_model_that_is_not_offered(space: Site, space_client: Client) -> None:
    for name in ("generate", "mask", "paraphrase", "methods"):
        for argument in ("path", "lm", "device", "trust_remote_code"):
            given = {} if name == "methods" else {"question": QUESTION}
            refused = space.post(f"call/v2/{name}", {**given, argument: "../../secret"})
            assert refused.status_code == 422
            said = "there is no such uploaded file" if argument == "path" else "unexpected keyword argument"
            assert said in reason(refused)
    (widget,) = [each for each in space.widgets.values() if each["props"].get("elem_id") == "model"]
    assert not widget["props"]["visible"], "there is nothing to choose from"
    run = space.event("run")
    refused = space.outcome(run, space.data(run, model="../../secret"))
    assert not refused["success"] and "not in the list of choices" in refused["output"]["error"]
    for name in ("generate", "mask", "paraphrase"):
        with pytest.raises(AppError, match=r"there is no model '\.\./\.\./secret' here: choose from tinyqa"):
            space_client.predict(question=QUESTION, model="../../secret", api_name=f"/{name}")


# Limits, asked of the server and not of the page

ABOVE = [
    ({"paraphrases": ["Name it."] * 9}, "9 paraphrases are too many: give at most 8"),
    ({"paraphrases": ["x"] * 10_000}, "10000 paraphrases are too many: give at most 8"),
    ({"question": "x" * 1001}, "the question is too long: it has 1,001 characters, the limit is 1,000"),
    ({"question": "x" * 1_000_000}, "the question is too long: it has 1,000,000 characters"),
    ({"paraphrases": ["x" * 1001]}, "paraphrase 1 is too long"),
    ({"prefix": "x" * 1001}, "the prefix is too long"),
    ({"question": "a\0b"}, "the question contains a NUL character"),
]
ABOVE_RUN = [
    ({"max_new_tokens": 129}, "an answer of 129 tokens is too long: ask for at most 128"),
    ({"max_new_tokens": HUGE}, "an answer of a number of more than 40 digits tokens is too long"),
    ({"weights": "confidence", "samples": 9}, "9 samples of each wording are too many: draw at most 8"),
    ({"paraphrases": ["w " * 400] * 3}, "tokens and the limit is"),
]


@pytest.mark.parametrize(("given", "said"), [*ABOVE, *ABOVE_RUN])
def test_generate_holds_the_limits(space_client: Client, given: dict, said: str) -> None:
    with pytest.raises(AppError, match=re.escape(said)) as refused:
        space_client.predict(**{"question": QUESTION, **given}, api_name="/generate")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("given", "said"), ABOVE)
def test_mask_holds_the_limits(space_client: Client, given: dict, said: str) -> None:
    with pytest.raises(AppError, match=re.escape(said)):
        space_client.predict(**{"question": QUESTION, **given}, api_name="/mask")


def test_paraphrase_holds_the_limits(space_client: Client) -> None:
    with pytest.raises(AppError, match="the number of paraphrases must be from 1 to 8, not 10000"):
        space_client.predict(question=QUESTION, n=10_000, api_name="/paraphrase")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"question": "x" * 1_000_000}, "The question is too long: it has 1,000,000 characters"),
        ({"prefix": "x" * 1001}, "The prefix is too long"),
        ({"seed": 10**14}, "Seed must be from 0 to 4294967295"),
        ({"seed": None}, "Seed is empty: give a number"),
        ({"question": "a\0b"}, "Question: the text holds a NUL"),
        ({"question": None}, "The question is empty"),
    ],
)
def test_the_page_holds_the_limits_whatever_the_browser_sends(space: Site, changes: dict, said: str) -> None:
    event = space.event("run")
    done = space.outcome(event, space.data(event, **changes))
    assert done["success"] and said in json.dumps(done["output"]["data"] + done["generating"])
    assert 'role=\\"alert\\"' in json.dumps(done["output"]["data"] + done["generating"])


@pytest.mark.parametrize("length", [100_000, 0, -1])
def test_a_slider_is_not_moved_beyond_its_end(space: Site, length: int) -> None:
    event = space.event("run")
    refused = space.outcome(event, space.data(event, max_new_tokens=length))
    assert not refused["success"] and "\n" not in refused["output"]["error"]


def test_every_limit_is_in_the_table_of_the_readme() -> None:
    assert table().count("\n") - 1 >= len(fields(Limits)) + 3


# Seconds


def clock(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """Time that passes by 1 each time that the module looks."""
    ticks = iter(range(1, 10**6))
    fake = SimpleNamespace(monotonic=lambda: next(ticks), perf_counter=module.time.perf_counter)
    monkeypatch.setattr(module, "time", fake)


@pytest.mark.parametrize("looks", [1, 2, 3])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_request_ends_within_a_token_of_its_time(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, looks: int, wanted: bool
) -> None:
    options = {"methods": ("flex", "avg", "causal"), "max_new_tokens": 12}
    whole = flexdemo.ask(lm, QUESTION, ["Name it."], **options)
    clock(monkeypatch, asking)
    *_, last = asking.stream(lm, QUESTION, ["Name it."], **options, wanted=lambda _: wanted, until=looks)
    assert not last.done
    for short, full in zip(last.results, whole.results, strict=True):
        assert short.token_ids == full.token_ids[: looks - 1]  # the first look is before the first token


def test_samples_end_with_the_time_too(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, asking)
    seen = list(asking.stream(lm, QUESTION, ["Name it."], weights="confidence", until=3, wanted=lambda _: False))
    assert len(seen) == 1 and not seen[0].done and seen[0].results == ()


def test_an_endpoint_tells_that_its_time_was_up(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = generating(lm, Limits(seconds=0.0))
    told = endpoint(QUESTION, ["Name it."], max_new_tokens=12, explain=True)
    assert told["stopped"].startswith("stopped after 0 seconds") and "explain" not in told
    assert [len(each["token_ids"]) for each in told["results"]] == [0, 0]
    json.dumps(told, allow_nan=False)
    with pytest.raises(InputError, match="stopped after 0 seconds"):
        endpoint_of("paraphrase", Limits(seconds=0.0), lm)(QUESTION)
    assert "stopped" not in generating(lm, Limits())(QUESTION, max_new_tokens=1)


def test_an_explanation_that_has_no_time_left_is_left_out(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limits, "until", lambda self: 10.0)
    monkeypatch.setattr(asking, "time", SimpleNamespace(monotonic=lambda: 0.0, perf_counter=asking.time.perf_counter))
    told = generating(lm, Limits(seconds=10.0))(QUESTION, ["Name it."], max_new_tokens=5, explain=True)
    assert "explain" not in told and "stopped after 10 seconds" in told["stopped"]
    assert all(each["stopped_by"] for each in told["results"])
