"""What a visitor who means harm may send to a public host, over HTTP: refused in one line, nothing lost, no traceback.

Markup on the page itself is tested in test_browser_abuse; cells of CSV files in test_export and test_table; links in
test_share.
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError, ValidationError
from pyarrow import feather, parquet

import app
import flexdemo
from flexdemo import methods, ui, ui_api, ui_work
from flexdemo.bounds import Bounds, read_feather, read_parquet
from flexdemo.cells import unseen, visible_text
from flexdemo.config import InputError, Limits
from flexdemo.files import make_room
from flexdemo.guard import Refused, Visits, visitor
from flexdemo.model import LanguageModel
from flexdemo.profiles import PROFILES, Profile, table
from flexdemo.prompt import build_prompt
from flexdemo.table import COLUMNS, read_table
from flexdemo.ui_export import save_secretly
from flexdemo.ui_guard import CHOSEN, FREE, KINDS

QUESTION = "What is the capital of Peru?"
LOCAL, SPACE = PROFILES["local"], PROFILES["space"]
ENDPOINTS = ("generate", "mask", "paraphrase", "methods")
HUGE = 10**400


class Site:
    """A launched page as a program meets it that does not care for its widgets."""

    def __init__(self, url: str, demo: Any) -> None:
        self.url, self.demo, self.api = url.rstrip("/"), demo, f"{url.rstrip('/')}/gradio_api"
        self.http = httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0))
        config = self.http.get(f"{self.url}/config").json()
        self.widgets = {each["id"]: each for each in config["components"]}
        self.events = {each["id"]: each for each in config["dependencies"]}
        self.sessions = iter(range(10**6))

    def name(self, widget: int) -> str | None:
        return self.widgets[widget]["props"].get("elem_id") if widget in self.widgets else None

    def event(self, name: str, kind: str = "click") -> int:
        """The event of the widget with this id that runs on the server."""
        return next(
            number
            for number, event in self.events.items()
            if event["backend_fn"] and any(self.name(t[0]) == name and t[1] == kind for t in event["targets"])
        )

    def data(self, event: int, **changes: Any) -> list[Any]:
        """What the page would send at its start, with changes by the widgets' ids."""
        ids = [(self.name(widget) or str(widget)).replace("-", "_") for widget in self.events[event]["inputs"]]
        assert set(changes) <= set(ids)
        values = [self.widgets[widget]["props"].get("value") for widget in self.events[event]["inputs"]]
        return [changes.get(name, value) for name, value in zip(ids, values, strict=True)]

    def session(self) -> str:
        return f"session{next(self.sessions):06d}"

    def post(self, route: str, body: Any, visitor: str = "203.0.113.1") -> httpx.Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", "x-forwarded-for": visitor}
        return self.http.post(f"{self.api}/{route}", content=raw, headers=headers)

    def join(self, event: Any, data: Any, session: str | None = None, **more: Any) -> httpx.Response:
        visitor = more.pop("visitor", "203.0.113.1")
        body = {"fn_index": event, "data": data, "session_hash": session or self.session(), **more}
        return self.post("queue/join", body, visitor)

    def outcome(self, event: int, data: list[Any], session: str | None = None, **more: Any) -> dict[str, Any]:
        """What an event of the page gives in the end."""
        session = session or self.session()
        joined = self.join(event, data, session, **more)
        assert joined.status_code == 200, joined.text
        with self.http.stream("GET", f"{self.api}/queue/data", params={"session_hash": session}) as lines:
            told = [json.loads(line[6:]) for line in lines.iter_lines() if line]
        (done,) = (each for each in told if each["msg"] == "process_completed")
        generating = [each["output"]["data"] for each in told if each["msg"] == "process_generating"]
        return {"success": done["success"], "output": done["output"], "generating": generating}


@contextmanager
def launched(lm: LanguageModel, profile: Profile, folder: Path) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        demo = ui.build_demo(lm, profile=profile)
        demo.queue(max_size=profile.queue)
        _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **ui.launch_options(profile))
        yield Site(url, demo)
        demo.close()


@pytest.fixture(scope="module")
def bundled() -> LanguageModel:
    return flexdemo.load_model()


@pytest.fixture(scope="module")
def space(bundled: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A public host, but for the number of visits: here one visitor makes hundreds."""
    with launched(bundled, replace(SPACE, visits=None), tmp_path_factory.mktemp("space")) as site:
        yield site


@pytest.fixture(scope="module")
def local(bundled: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with launched(bundled, LOCAL, tmp_path_factory.mktemp("local")) as site:
        yield site


@pytest.fixture(scope="module")
def client(space: Site) -> Client:
    return Client(space.url, verbose=False)


@pytest.fixture(autouse=True)
def no_traceback(capsys: pytest.CaptureFixture) -> Iterator[None]:
    """Servers run in this process: what they print is seen here."""
    yield
    told = capsys.readouterr()
    assert "Traceback" not in told.err + told.out


def reason(answer: httpx.Response) -> str:
    """What a refusal says, to a page or to a client of the endpoints."""
    told = answer.json()["detail"]
    said = told if isinstance(told, str) else told[0]["message"]
    assert said and "\n" not in said and len(said) < 400
    return said


# Profiles


def test_the_readme_has_the_limits_that_hold() -> None:
    assert table() in (Path(app.__file__).parent / "README.md").read_text(encoding="utf-8")


def test_a_public_host_is_tighter_than_ones_own_machine() -> None:
    own, public = asdict(Limits()), asdict(SPACE.limits)
    assert all(public[name] <= own[name] for name in own if own[name] is not None) and public["seconds"]
    assert own == asdict(LOCAL.limits) and LOCAL.waiting is None


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_are_choices_of_the_program(profile: str) -> None:
    assert app.make_parser().parse_args(["--profile", profile]).profile == profile


def test_no_request_names_a_model(space: Site) -> None:
    for name in ENDPOINTS:
        for argument in ("model", "path", "lm", "device", "trust_remote_code"):
            refused = space.post(f"call/v2/{name}", {"question": QUESTION, argument: "../../secret"})
            assert refused.status_code == 422 and f"unknown argument '{argument}'" in reason(refused)
    assert not [each for each in space.widgets.values() if "model" in str(each["props"].get("label")).lower().split()]


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
def test_generate_holds_the_limits(client: Client, given: dict, said: str) -> None:
    with pytest.raises(AppError, match=re.escape(said)) as refused:
        client.predict(**{"question": QUESTION, **given}, api_name="/generate")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("given", "said"), ABOVE)
def test_mask_holds_the_limits(client: Client, given: dict, said: str) -> None:
    with pytest.raises(AppError, match=re.escape(said)):
        client.predict(**{"question": QUESTION, **given}, api_name="/mask")


def test_paraphrase_holds_the_limits(client: Client) -> None:
    with pytest.raises(AppError, match="the number of paraphrases must be from 1 to 8, not 10000"):
        client.predict(question=QUESTION, n=10_000, api_name="/paraphrase")


def test_methods_are_counted() -> None:
    with pytest.raises(InputError, match="3 methods are too many: choose at most 2"):
        ui_api.generate_endpoint(SimpleNamespace(), Limits(methods=2))(QUESTION, methods=["flex", "avg", "max"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({f"paraphrase_{i}": "Name it." for i in range(1, 10)}, "9 paraphrases are too many: give at most 8"),
        ({"question": "x" * 1_000_000}, "The question is too long: it has 1,000,000 characters"),
        ({"prefix": "x" * 1001}, "The prefix is too long"),
        ({"seed": 10**14}, "The seed must be from 0 to 4294967295"),
        ({"seed": None}, "The seed is empty: give a number"),
        ({"question": "a\0b"}, "The question contains a NUL character"),
        ({"question": None}, "The question is empty"),
    ],
)
@pytest.mark.parametrize("button", ["run", "ladder-run"])
def test_the_page_holds_the_limits_whatever_the_browser_sends(
    space: Site, button: str, changes: dict, said: str
) -> None:
    event = next((e for e in space.events if space.events[e]["api_name"] == "ladder"), None)
    event = space.event("run") if button == "run" else event
    done = space.outcome(event, space.data(event, **changes))
    assert done["success"] and said in json.dumps(done["output"]["data"] + done["generating"])
    assert 'role=\\"alert\\"' in json.dumps(done["output"]["data"] + done["generating"])


def test_a_slider_is_not_moved_beyond_its_end(space: Site, capsys: pytest.CaptureFixture) -> None:
    event = space.event("run")
    done = space.outcome(event, space.data(event, max_new_tokens=100_000))
    assert not done["success"] and "100000 is greater than maximum value 128" in done["output"]["error"]
    capsys.readouterr()  # gradio prints where it found this


# Seconds


def clock(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """Time that passes by 1 each time that the module looks."""
    ticks = iter(range(1, 10**6))
    fake = SimpleNamespace(monotonic=lambda: next(ticks), perf_counter=module.time.perf_counter)
    monkeypatch.setattr(module, "time", fake)


@pytest.mark.parametrize("looks", [1, 2, 3])
@pytest.mark.parametrize("partial", [True, False])
def test_a_request_ends_within_a_token_of_its_time(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, looks: int, partial: bool
) -> None:
    options = {"methods": ("flex", "avg", "causal"), "max_new_tokens": 12}
    whole = flexdemo.ask(lm, QUESTION, ["Name it."], **options)
    clock(monkeypatch, methods)
    *_, last = methods.stream(lm, QUESTION, ["Name it."], **options, partial=partial, until=looks)
    assert not last.done
    for short, full in zip(last.results, whole.results, strict=True):
        assert short.token_ids == full.token_ids[: looks - 1]  # the first look is before the first token


def test_samples_end_with_the_time_too(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, methods)
    seen = list(methods.stream(lm, QUESTION, ["Name it."], weights="confidence", until=3, partial=False))
    assert len(seen) == 1 and not seen[0].done and seen[0].results == ()


def test_the_page_keeps_what_was_answered_and_says_why_it_stopped(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = ui_work.Form.from_values(
        [QUESTION, "Name it.", *[""] * 9, *[1] * 11, "segment", "aligned", ["flex", "causal"], 12, 0, 1, 0, ""]
    )
    limits = Limits(seconds=3.0)
    whole = flexdemo.ask(lm, QUESTION, ["Name it."], methods=("flex", "causal"), max_new_tokens=12)
    monkeypatch.setattr(Limits, "until", lambda self: self.seconds)
    clock(monkeypatch, methods)
    *_, end = ui_work.answers(lm, limits, form, ui_work.Run(threading.Event()))
    assert "Stopped after 3 seconds, the most that a request may take here" in end.message
    assert "longest 2 tokens" in end.line and end.last is None and "<b>2</b> tokens" in end.cards[0]
    assert len(whole["flex"].token_ids) > 2


def test_an_endpoint_tells_that_its_time_was_up(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = ui_api.generate_endpoint(lm, Limits(seconds=0.0))
    told = endpoint(QUESTION, ["Name it."], max_new_tokens=12, explain=True)
    assert told["stopped"].startswith("stopped after 0 seconds") and "explain" not in told
    assert [len(each["token_ids"]) for each in told["results"]] == [0, 0]
    json.dumps(told, allow_nan=False)
    with pytest.raises(InputError, match="stopped after 0 seconds"):
        ui_api.paraphrase_endpoint(lm, Limits(seconds=0.0))(QUESTION)
    assert "stopped" not in ui_api.generate_endpoint(lm, Limits())(QUESTION, max_new_tokens=1)


def test_an_explanation_that_has_no_time_left_is_left_out(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limits, "until", lambda self: 10.0)
    monkeypatch.setattr(methods, "time", SimpleNamespace(monotonic=lambda: 0.0, perf_counter=methods.time.perf_counter))
    told = ui_api.generate_endpoint(lm, Limits(seconds=10.0))(QUESTION, ["Name it."], max_new_tokens=5, explain=True)
    assert "explain" not in told and "stopped after 10 seconds" in told["stopped"]
    assert all(each["stopped_by"] for each in told["results"])


# Data of the wrong kind

WRONG = (None, [], {}, {"a": [1]}, [[1]], "text", "", True, -1, 2.5, HUGE, [None], ["x"] * 50)


def told_kind(kind: str, value: Any, props: dict) -> bool:
    """Whether a widget of this kind may send the value, as a browser does."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    if kind in ("textbox", "html"):
        return value is None or isinstance(value, str)
    if kind == "number":
        return value is None or number
    if kind == "checkbox":
        return value is None or isinstance(value, bool)
    if kind == "checkboxgroup":
        return value == []
    return {"slider": number, "dataset": isinstance(value, int) and not isinstance(value, bool) and number,
            "file": value is None}.get(kind, False)  # fmt: skip


def test_every_event_of_the_page_refuses_values_of_the_wrong_kind(local: Site) -> None:
    tried, session = set(), local.session()
    for number, event in local.events.items():
        if not event["backend_fn"] or not event["inputs"] or event["cancels"]:
            continue
        data = local.data(number)
        for place, widget in enumerate(event["inputs"]):
            kind = local.widgets[widget]["type"]
            if kind in ("state", "api") or (number, kind) in tried:
                continue
            tried.add((number, kind))
            for value in WRONG:
                if not told_kind(kind, value, local.widgets[widget]["props"]):
                    refused = local.join(number, [*data[:place], value, *data[place + 1 :]], session)
                    assert refused.status_code in (400, 422), (event["api_name"], kind, value)
                    reason(refused)
        for wrong in (data[:-1], [*data, 1], [], None, {}, "text", 5):
            assert local.join(number, wrong, session).status_code in (400, 422), (event["api_name"], wrong)
    assert {kind for _, kind in tried} >= {"textbox", "slider", "number", "dropdown", "checkboxgroup", "dataset"}


def test_every_widget_that_is_read_has_a_check(local: Site) -> None:
    kinds = {local.widgets[widget]["type"] for event in local.events.values() for widget in event["inputs"]}
    assert kinds <= set(KINDS) | CHOSEN | FREE | {"file"}


@pytest.mark.parametrize("endpoint", ENDPOINTS[:3])
def test_every_argument_of_an_endpoint_refuses_values_of_the_wrong_kind(local: Site, endpoint: str) -> None:
    make = {
        "generate": ui_api.generate_endpoint,
        "mask": ui_api.mask_endpoint,
        "paraphrase": ui_api.paraphrase_endpoint,
    }
    function = make[endpoint](SimpleNamespace(), Limits())
    names = list(function.__annotations__)[:-1]
    for name in names:
        for value in ({"a": 1}, [{"a": 1}], [[1]], float("nan"), float("inf"), -float("inf"), b"x", {1}):
            with pytest.raises(InputError, match=f"^{name} must be (a|true)") as refused:
                function(**{"question": QUESTION, name: value})
            assert "\n" not in str(refused.value) and len(str(refused.value)) < 200
        given = {"question": QUESTION, name: {"a": 1}}
        assert local.post(f"call/v2/{endpoint}", given).status_code == 200  # the endpoint says it, as above


@pytest.mark.parametrize("name", ["temperature", "top_p", "sample_temperature", "ape_temperature", "ape_scale"])
def test_numbers_that_fit_in_no_float_are_refused(name: str) -> None:
    function = ui_api.generate_endpoint(SimpleNamespace(), Limits())
    for value in (HUGE, -HUGE, 1e308):
        with pytest.raises(InputError, match=f"^{name} must be a number, not "):
            function(QUESTION, **{name: value})
    with pytest.raises(InputError, match=r"^weights must be a list of numbers"):
        function(QUESTION, weights=[HUGE])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "no JSON"),
        (b"", "no JSON"),
        (b"\xff\xfe{}", "no UTF-8"),
        (b"[1]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"question": NaN}', "holds NaN, which is no number in JSON"),
        (b'{"question": "x", "temperature": Infinity}', "holds Infinity"),
        (b'{"question": "x", "temperature": -Infinity}', "holds -Infinity"),
        (b'{"question": "\\ud800 who?"}', "half a character (a lone surrogate)"),
        (b'{"question": "x", "\\udfff": 1}', "half a character (a lone surrogate)"),
        (b'{"question": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"question": "x", "seed": ' + b"9" * 5000 + b"}", "a number of thousands of digits"),
        (b'{"question": "' + b"x" * 4_000_000 + b'"}', "too long: at most 4 MB are read"),
        (b'{"paraphrases": []}', "the argument question is missing"),
        (b'{"question": "x", "session_hash": "a b"}', "session_hash must be 4 to 64 letters"),
    ],
)
def test_bodies_that_are_no_request(space: Site, body: bytes, said: str) -> None:
    for route in ("call/v2/generate", "call/v2/methods", "queue/join", "cancel"):
        refused = space.post(route, body)
        if route == "call/v2/generate" or not said.startswith("the argument"):
            assert 400 <= refused.status_code < 500 and (said in reason(refused) or "v2" not in route)


@pytest.mark.parametrize("session", ["", "ab", "../../x", "a" * 65, 5, ["a"], {"a": 1}, "x\u202ey"])
def test_session_names_are_plain(space: Site, session: Any) -> None:
    refused = space.join(space.event("run"), [], None, session_hash=session)
    assert refused.status_code == 400 and "session_hash must be" in reason(refused)


@pytest.mark.parametrize("index", [None, 99_999, -1, "x", 1.5, True, [], {}, HUGE])
def test_events_that_there_are_not(space: Site, index: Any) -> None:
    refused = space.join(index, [])
    assert refused.status_code in (400, 404) and "fn_index" in reason(refused)


@pytest.mark.parametrize("event_data", [None, {}, {"row": "x", "lines": 5}, {"row": 0, "lines": [1, {}]}, {"row": 0}])
def test_a_paste_that_no_browser_makes_changes_nothing(space: Site, event_data: Any) -> None:
    event = space.event("paste", "select")
    done = space.outcome(event, space.data(event), event_data=event_data)
    assert done["success"] and "Traceback" not in json.dumps(done["output"])
    assert space.join(event, space.data(event), event_data=[1]).status_code == 400


@pytest.mark.parametrize("index", [-1, 10_000, 10**12])
def test_an_example_that_there_is_not_fills_nothing(space: Site, index: int) -> None:
    events = [number for number, event in space.events.items() if event["backend_fn"] and "load_example" in str(event)]
    for event in events:
        data = [index if space.widgets[w]["type"] == "dataset" else None for w in space.events[event]["inputs"]]
        assert space.outcome(event, data)["success"]
    assert events


def test_a_refusal_reaches_the_client_library(client: Client) -> None:
    with pytest.raises(ValidationError, match="half a character"):
        client.predict(question="\ud800", api_name="/generate")


# Files


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "app.py", "flexdemo/config.py", "", ".",
     "assets/tinyqa/model.safetensors", "/proc/self/environ", "http://127.0.0.1:1/", "//etc/passwd", "%00"],
)  # fmt: skip
def test_no_file_of_the_host_is_given_away(space: Site, local: Site, path: str) -> None:
    root = Path(app.__file__).parent
    for site in (space, local):
        for place in (path, str(root / path), f"{site.demo.app.uploaded_file_dir}/{path}"):
            for route in ("file=", "file/", "static/", "custom_component/", "stream/", "proxy="):
                assert site.http.get(f"{site.api}/{route}{place}").status_code in (400, 403, 404), (route, place)
        assert site.http.get(f"{site.url}/file={path}").status_code in (403, 404)


@pytest.mark.parametrize(
    "route",
    ["deep_link?session_hash=session000001", "monitoring/summary", "proxy=http://127.0.0.1:1/", "vibe-code", "runs",
     "stream/x/y/1/playlist-file", "run-history/buckets", "dev/reload", "token", "custom_component/1/x/y/z"],
)  # fmt: skip
def test_routes_that_the_page_does_not_use_are_closed(space: Site, route: str) -> None:
    for address in (f"{space.api}/{route}", f"{space.url}/{route}", f"{space.url}/?deep_link=x"):
        if address.startswith(space.api) or "monitoring" in route or "?deep" in address:
            assert space.http.get(address).status_code == 404
    assert space.post("component_server", {"data": 1, "component_id": 1, "fn_name": "x"}).status_code == 404
    assert space.post("api/generate", {"data": []}).status_code == 404


def test_the_queue_cannot_be_passed_by(local: Site) -> None:
    refused = local.post("run/generate", {"data": [QUESTION]})
    assert refused.status_code == 422 and "asked through the queue" in reason(refused)


def test_a_public_host_takes_no_files(space: Site) -> None:
    sent = space.http.post(f"{space.api}/upload", files=[("files", ("x.csv", b"x"))])
    assert sent.status_code == 403 and "takes no files" in reason(sent)
    assert not any(each["type"] == "file" for each in space.widgets.values())


@pytest.mark.parametrize("name", ["../../../evil.csv", "/etc/cron.d/evil.csv", "..\\..\\evil.csv", "a\u202evsc.csv"])
def test_uploads_stay_in_their_folder(local: Site, name: str) -> None:
    (path,) = local.http.post(f"{local.api}/upload", files=[("files", (name, b"a,b\n"))]).json()
    folder = Path(local.demo.app.uploaded_file_dir).resolve()
    assert Path(path).resolve().parent.parent == folder and len(Path(path).parent.name) == 64


def test_uploads_have_a_size(local: Site) -> None:
    much = local.http.post(f"{local.api}/upload", files=[("files", ("x.csv", b"x" * 20_200_000))])
    assert much.status_code == 413 and "at most 20 MB can be opened here" in reason(much)
    untold = local.http.post(f"{local.api}/upload", content=iter([b"x"]), headers={"content-type": "text/plain"})
    assert untold.status_code == 411


@pytest.mark.parametrize(
    "value",
    [{"path": "/etc/passwd"}, {"path": "http://127.0.0.1:1/x.csv"}, {"path": "app.py"}, {"path": None}, "x", [], 5,
     {"path": "{folder}"}, {"path": "{folder}/x/x.csv"}, {"url": "http://127.0.0.1:1/x.csv"}, {}],
)  # fmt: skip
def test_only_what_was_uploaded_is_opened(local: Site, value: Any) -> None:
    event = local.event("results-file", "upload")
    if isinstance(value, dict) and value.get("path"):
        path = value["path"].replace("{folder}", str(local.demo.app.uploaded_file_dir))
        value = {"path": path, "meta": {"_type": "gradio.FileData"}}
    refused = local.join(event, [value])
    assert refused.status_code == 400 and "no such uploaded file" in reason(refused)


def test_a_file_of_another_visitor_cannot_be_found(local: Site) -> None:
    (path,) = local.http.post(f"{local.api}/upload", files=[("files", ("mine.csv", b"secret,1\n"))]).json()
    secret = Path(path).parent.name
    for guess in (path.replace(secret, secret[:-1] + ("0" if secret[-1] != "0" else "1")), str(Path(path).parents[1])):
        assert local.http.get(f"{local.api}/file={guess}").status_code in (403, 404)
        event = local.event("results-file", "upload")
        assert local.join(event, [{"path": guess, "meta": {"_type": "gradio.FileData"}}]).status_code == 400


def test_exports_have_names_that_nobody_can_work_out(tmp_path: Path) -> None:
    paths = {save_secretly(b"the same", "x.csv", tmp_path) for _ in range(5)}
    assert len(paths) == 5 and all(re.fullmatch("[0-9a-f]{64}", Path(path).parent.name) for path in paths)


def test_the_oldest_files_make_room(tmp_path: Path) -> None:
    import os

    for i in range(5):
        (tmp_path / f"d{i}").mkdir()
        (tmp_path / f"d{i}" / "x").write_bytes(b"x" * 100_000)
        os.utime(tmp_path / f"d{i}" / "x", (i, i))
    make_room(tmp_path, 400_000, 150_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d3", "d4"]
    make_room(tmp_path, 400_000, 150_000)
    assert len(list(tmp_path.iterdir())) == 2


# Results files that unpack to more than they seem


def packed(columns: dict[str, Any], form: str) -> bytes:
    out, made = io.BytesIO(), pa.table(columns)
    if form == "feather":
        feather.write_feather(made, out, compression="zstd")
    else:
        parquet.write_table(made, out, compression="zstd")
    return out.getvalue()


@pytest.mark.parametrize("form", ["feather", "parquet"])
@pytest.mark.parametrize(
    ("column", "said"),
    [
        (lambda: pa.array(np.zeros(2_000_000, dtype="int64")), "holds more than 1,000 rows"),
        (lambda: pa.array([[""] * 2_000_000]), "holds more than 30,000 values"),
        (lambda: pa.array(["x" * 100_000] * 900), "holds more than 1,000,000 bytes when unpacked"),
        (lambda: pa.array([["x" * 100_000] * 30] * 30), "holds more than 1,000,000 bytes when unpacked"),
    ],
)
def test_a_bomb_is_told_before_it_goes_off(form: str, column: Any, said: str) -> None:
    data = packed({"a": column()}, form)
    assert len(data) < 200_000
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(ValueError, match=f"^{said}, the most that can be opened here$"):
            {"feather": read_feather, "parquet": read_parquet}[form](data, Bounds(1_000, 1_000_000))
        assert pool.max_memory() < 8_000_000
    finally:
        pa.set_memory_pool(before)


def test_types_that_unpack_to_any_size_are_refused() -> None:
    many = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, dtype="int32")), pa.array(["x" * 1000]))
    with pytest.raises(ValueError, match=r"^it holds a dictionary"):
        read_feather(packed({"a": many}, "feather"))
    for column in (pa.array([{"a": 1}]), pa.array([b"x"]), pa.array([[[1]]])):
        for form, read in (("feather", read_feather), ("parquet", read_parquet)):
            with pytest.raises(ValueError, match=r"^column 'a' is of type "):
                read(packed({"a": column}, form))


@pytest.mark.parametrize("compression", ["lz4", "zstd", "uncompressed"])
def test_feather_is_read_as_pyarrow_reads_it(compression: str) -> None:
    columns = {"a": ["x", None, "é"], "b": [["p", "q"], [], None], "c": [True, None, False], "d": [1.5, None, -2.0]}
    out = io.BytesIO()
    feather.write_feather(pa.table(columns), out, compression=compression, chunksize=2)
    assert read_feather(out.getvalue(), Bounds(3, 10_000)) == columns == feather.read_table(out).to_pydict()
    assert read_parquet(packed(columns, "parquet"), Bounds(3, 10_000)) == columns


@pytest.mark.parametrize("form", ["feather", "parquet"])
def test_damaged_files_are_refused_and_break_nothing(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(7)
    whole = packed({name: pa.array(["x", "yy", "zzz"] * 50) for name in COLUMNS}, form)
    for i in range(150):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), size=1 + i % 4):
            data[place] = rng.integers(0, 256)
        path = tmp_path / f"x.{form}"
        path.write_bytes(bytes(data[: len(data) - (i % 3) * 40]))
        with pytest.raises(InputError) as refused:  # if it can be read, its columns are texts
            read_table(path, Bounds(1_000, 1_000_000))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "line",
    [b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"tokens": ' + b"9" * 5000 + b"}", b"[]", b"1",
     b'"\\ud800"'],
)  # fmt: skip
def test_lines_that_are_no_rows(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(line)
    with pytest.raises(InputError, match="it is no results table of this program"):
        read_table(tmp_path / "x.jsonl")


def test_a_number_beyond_its_column_is_refused(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, "x") | {"paraphrases": [], "answers": [], "lemma_match": None, "agreement": None}
    row |= {"lemma_match_both": None, "exact_match": True, "contains": True, "token_f1": 1.0, "seconds": 1.0}
    row |= {"prompt_tokens": 1, "rows": 1, "tokens": 10**30}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match="it is no results table of this program"):
        read_table(tmp_path / "x.jsonl")


# Texts


@pytest.mark.parametrize("text", ["<s>", "</s>", "<|im_start|>", "<|eot_id|>", "<pad>", "<unk>", "[INST]", "<bos>"])
def test_special_tokens_typed_as_text_stay_text(bundled: LanguageModel, text: str) -> None:
    prompt = build_prompt(bundled.tokenizer, f"Who is {text}?", [text], prefix=text)
    special = set(bundled.tokenizer.all_special_ids) | set(bundled.tokenizer.added_tokens_decoder)
    typed = [token for segment in prompt.paraphrases for token in prompt.token_ids[segment.start : segment.end]]
    typed += prompt.token_ids[1 : prompt.segments[0].end]
    assert not special & set(typed)
    assert text in prompt.paraphrases[0].text and text in prompt.paraphrases[1].text


@pytest.mark.parametrize(
    ("char", "name"),
    [
        ("\u200b", "ZERO WIDTH SPACE"), ("\u202e", "RIGHT-TO-LEFT OVERRIDE"), ("\u2066", "LEFT-TO-RIGHT ISOLATE"),
        ("\ufeff", "ZERO WIDTH NO-BREAK SPACE"), ("\u00ad", "SOFT HYPHEN"), ("\ufe0f", "VARIATION SELECTOR-16"),
        ("\u3164", "HANGUL FILLER"), ("\x1b", "control character"), ("\U000e0041", "TAG LATIN CAPITAL LETTER A"),
    ],
)  # fmt: skip
def test_what_cannot_be_seen_is_read_shown_and_told(bundled: LanguageModel, char: str, name: str) -> None:
    text = f"Who{char} wrote{char} Hamlet?"
    prompt = build_prompt(bundled.tokenizer, text)
    assert prompt.paraphrases[0].text.count(char) == 2  # the model reads it
    assert char not in visible_text(text) and visible_text(text).count(f"\\u{ord(char):04x}") == 2
    assert unseen(text) == f"U+{ord(char):04X} {name} (2 times)"


def test_the_page_tells_what_cannot_be_seen(space: Site) -> None:
    event = space.event("mask-show", "change")
    done = space.outcome(event, space.data(event, question="Who\u202e wrote Hamlet?"))
    assert "The question holds U+202E RIGHT-TO-LEFT OVERRIDE. The model reads them" in json.dumps(done["output"])
    assert unseen("Città 東京 مرحبا?\n\tline") == ""


# Visitors


def test_one_visitor_cannot_fill_the_queue(space: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def wait(*_: Any, **__: Any) -> Any:
        assert gate.wait(60)
        raise InputError("the gate is open")

    monkeypatch.setattr(ui_api, "ask", wait)
    try:
        asked = [space.post("call/v2/generate", {"question": QUESTION}, "198.51.100.1, 203.0.113.7") for _ in range(4)]
        assert [each.status_code for each in asked] == [200, 200, 200, 422]
        assert "3 of your requests are waiting or running, the most that one visitor may have" in reason(asked[3])
        spoofed = space.post("call/v2/generate", {"question": QUESTION}, "192.0.2.99, 203.0.113.7")
        page = space.join(space.event("run"), space.data(space.event("run")), visitor="203.0.113.7")
        assert (spoofed.status_code, page.status_code) == (422, 429) and "waiting or running" in reason(page)
        assert space.post("call/v2/generate", {"question": QUESTION}, "203.0.113.8").status_code == 200
        assert space.post("call/v2/mask", {"question": QUESTION}, "203.0.113.7").status_code == 200  # needs no model
        statuses = [
            space.post("call/v2/generate", {"question": QUESTION}, f"203.0.113.{100 + i}").status_code
            for i in range(40)
        ]
        assert (
            set(statuses) == {200, 503} and statuses[-1] == 503 and SPACE.queue - 6 < statuses.count(200) <= SPACE.queue
        )
    finally:
        gate.set()


def test_a_visitor_opens_so_many_pages_a_minute() -> None:
    visits = Visits(3)
    for _ in range(3):
        visits.spend("a", 0.0)
    with pytest.raises(Refused, match="3 pages or calls within a minute"):
        visits.spend("a", 10.0)
    visits.spend("b", 10.0)
    visits.spend("a", 20.0)  # a third of a minute later there is one more
    with pytest.raises(Refused):
        visits.spend("a", 21.0)
    for _ in range(100):
        Visits(None).spend("a", 0.0)


@pytest.mark.parametrize(
    ("forwarded", "proxies", "who"),
    [
        ("", 0, "10.0.0.9"),
        ("1.2.3.4", 0, "10.0.0.9"),
        ("1.2.3.4", 1, "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4", 1, "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4, 10.1.1.1", 2, "1.2.3.4"),
        ("1.2.3.4", 2, "10.0.0.9"),
        ("", 1, "10.0.0.9"),
        ("2001:db8:1:2:3:4:5:6", 1, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", 1, "2001:db8:1:2::/64"),
        ("x" * 1000, 1, "x" * 64),
    ],
)
def test_a_visitor_is_the_address_that_the_host_tells(forwarded: str, proxies: int, who: str) -> None:
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    assert visitor({"client": ("10.0.0.9", 1), "headers": headers}, proxies) == who


def test_connections_of_a_visitor_are_counted(bundled: LanguageModel, tmp_path: Path) -> None:
    with launched(bundled, replace(SPACE, connections=2, visits=None), tmp_path) as site:
        mine, theirs = {"x-forwarded-for": "1.1.1.1"}, {"x-forwarded-for": "1.1.1.2"}
        beat = [site.http.stream("GET", f"{site.api}/heartbeat/abcd{i}", headers=mine) for i in range(2)]
        with beat[0] as one, beat[1] as two:
            assert one.status_code == two.status_code == 200
            full = site.http.get(f"{site.url}/theme.css", headers=mine)
            assert full.status_code == 429 and "2 open connections" in reason(full)
            assert site.http.get(f"{site.url}/theme.css", headers=theirs).status_code == 200


def test_two_visitors_never_see_each_others_results(local: Site) -> None:
    run, save = local.event("run"), local.event("save-json")
    mine, other = local.session(), local.session()
    secret = "Who painted the secret of room 4711?"
    done = local.outcome(run, local.data(run, question=secret, max_new_tokens=2), mine)
    assert done["success"]
    told = json.dumps(local.outcome(save, [None], other)["output"])
    assert "there is nothing to save yet" in told.lower() and "4711" not in told
    kept = json.dumps(local.outcome(save, [None], mine)["output"])
    assert "4711" in kept
    forged = json.dumps(
        local.outcome(save, [{"form": {"question": "x"}}], other)["output"]
    )  # the state is the server's
    assert "there is nothing to save yet" in forged.lower()


def test_sessions_in_memory_are_bounded(bundled: LanguageModel, tmp_path: Path) -> None:
    with launched(bundled, replace(SPACE, sessions=3, visits=5), tmp_path) as site:
        event = site.event("run")
        codes = [site.join(event, site.data(event), visitor="1.1.1.1").status_code for _ in range(7)]
        assert codes[-1] == 429 and len(site.demo.app.state_holder.session_data) <= 3


def test_every_limit_is_in_the_table_of_the_readme() -> None:
    assert table().count("\n") - 1 >= len(fields(Limits)) + 3
