"""What a visitor who means harm may send over HTTP: refused in one line, nothing lost, no traceback.

Markup on the page itself is tested in test_browser_abuse; cells of CSV files in test_export and test_table; links in
test_share; damaged files in test_table.
"""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hosting import HUGE, QUESTION, SPACE, Served, Site, endpoint_of, generating, no_traceback, reason  # noqa: F401 (no_traceback watches every test here)

import app
from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError
from flexdemo.figures.cells import unseen, visible_text
from flexdemo.page.tools import save_secretly
from flexdemo.prompt import build_prompt
from flexdemo.request import Limits
from flexdemo.serve.host import make_room

ENDPOINTS = ("generate", "mask", "paraphrase", "methods")


# Data of the wrong kind

WRONG = (None, [], {}, {"a": [1]}, [[1]], "text", "", True, -1, 2.5, HUGE, [None], ["x"] * 50)


def test_values_of_the_wrong_kind_end_in_one_line(local: Served) -> None:
    """Each kind of widget once, in an event that draws: gradio refuses, the handler says why, or it is text."""
    tried, refused = set(), 0
    for number, event in local.events.items():
        fn = local.demo.fns.get(number)
        if not event["backend_fn"] or event["cancels"] or fn is None or fn.concurrency_id != "draw":
            continue
        data = local.data(number)
        for place, widget in enumerate(event["inputs"]):
            kind = local.widgets[widget]["type"]
            if kind in tried | {"state", "api"}:
                continue
            tried.add(kind)
            for value in WRONG:
                done = local.outcome(number, [*data[:place], value, *data[place + 1 :]])
                said = done["output"].get("error") or ""
                assert done["success"] or (said and "\n" not in said and len(said) < 400), (kind, value, said)
                refused += not done["success"]
    assert tried >= {"textbox", "slider", "number", "dropdown", "checkboxgroup", "radio"} and refused > 20


def test_too_few_values_end_in_one_line(local: Served) -> None:
    event = local.index("redraw")
    done = local.outcome(event, local.data(event)[:-1])
    assert not done["success"] and "\n" not in done["output"]["error"]


@pytest.mark.parametrize("endpoint", ENDPOINTS[:3])
def test_every_argument_of_an_endpoint_refuses_values_of_the_wrong_kind(local: Site, endpoint: str) -> None:
    called = endpoint_of(endpoint, Limits())
    names = list(called.__annotations__)[:-1]
    function = generating(SimpleNamespace(name="none"), Limits()) if endpoint == "generate" else called
    for name in names:
        for value in ({"a": 1}, [{"a": 1}], [[1]], float("nan"), float("inf"), -float("inf"), b"x"):
            with pytest.raises(InputError, match=f"^{name} must be (a|true)") as refused:
                function(**{"question": QUESTION, name: value})
            assert "\n" not in str(refused.value) and len(str(refused.value)) < 200
        given = {"question": QUESTION, name: {"a": 1}}
        assert local.post(f"call/v2/{endpoint}", given).status_code == 200  # the endpoint says it, as above


@pytest.mark.parametrize("name", ["temperature", "top_p", "sample_temperature", "ape_temperature", "ape_scale"])
def test_numbers_that_fit_in_no_float_are_refused(name: str) -> None:
    function = generating(SimpleNamespace(name="none"), Limits())
    for value in (HUGE, -HUGE):
        with pytest.raises(InputError, match=f"^{name} must be .*, not a number of more than 40 digits"):
            function(QUESTION, **{name: value})
    with pytest.raises(InputError, match=r"^weights must be a list of numbers"):
        function(QUESTION, weights=[HUGE])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "no strict JSON"),
        (b"", "no strict JSON"),
        (b"\xff\xfe{}", "no strict JSON"),
        (b"[1]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"question": NaN}', "no strict JSON"),
        (b'{"question": "x", "temperature": Infinity}', "no strict JSON"),
        (b'{"question": "x", "temperature": -Infinity}', "no strict JSON"),
        (b'{"question": "\\ud800 who?"}', "no strict JSON"),
        (b'{"question": "x", "\\udfff": 1}', "no strict JSON"),
        (b'{"question": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "no strict JSON"),
        (b'{"question": "x", "seed": ' + b"9" * 5000 + b"}", "no strict JSON"),
        (b'{"question": "' + b"x" * 4_000_000 + b'"}', "too long: at most 4 MB are read"),
        (b'{"paraphrases": []}', "missing a required argument: 'question'"),
    ],
)
def test_bodies_that_are_no_request(space: Site, body: bytes, said: str) -> None:
    for route in ("call/v2/generate", "call/v2/methods", "queue/join", "cancel"):
        refused = space.post(route, body)
        if route == "call/v2/generate" or not said.startswith("missing"):
            assert 400 <= refused.status_code < 500 and (said in reason(refused) or "v2" not in route)


@pytest.mark.parametrize("route", ["call/v2/generate", "queue/join", "upload"])
def test_a_request_that_is_far_too_long_is_answered(space: Site, route: str) -> None:
    """All of it is sent before the answer is read, as browsers do."""
    host, port = space.url.removeprefix("http://").split(":")
    head = f"POST /gradio_api/{route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 30000000"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode())
        for _ in range(30):
            connection.sendall(b" " * 1_000_000)
        answer = connection.makefile("rb").readline()
    assert answer.split()[1] == (b"403" if route == "upload" else b"413")


@pytest.mark.parametrize("index", [None, 99_999, -1, "x", 1.5, [], {}, HUGE])
def test_events_that_there_are_not(space: Site, index: Any) -> None:
    refused = space.join(index, [])
    assert 400 <= refused.status_code < 500


@pytest.mark.parametrize("event_data", [None, {}, {"row": "x", "lines": 5}, {"row": 0, "lines": [1, {}]}, [1], "x", 5])
def test_a_paste_that_no_browser_makes_changes_nothing(space: Site, event_data: Any) -> None:
    event = space.event("edits", "select")
    done = space.outcome(event, space.data(event), event_data=event_data)
    assert done["success"] and "Traceback" not in json.dumps(done["output"])


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
            assert space.http.get(address).status_code in (403, 404)
    assert space.http.get(f"{space.url}/openapi.json").status_code in (403, 404)
    assert space.post("component_server", {"data": 1, "component_id": 1, "fn_name": "x"}).status_code == 404
    assert space.post("api/generate", {"data": []}).status_code == 404


def test_the_queue_cannot_be_passed_by(local: Site) -> None:
    refused = local.post("run/generate", {"data": [QUESTION]})
    assert refused.status_code == 404 and "join the queue" in refused.text


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
    much = local.http.post(f"{local.api}/upload", files=[("files", ("x.csv", b"x" * 25_200_000))])
    assert much.status_code == 413


@pytest.mark.parametrize(
    "value",
    [{"path": "/etc/passwd"}, {"path": "http://127.0.0.1:1/x.csv"}, {"path": "app.py"}, {"path": None}, "x", [], 5,
     {"path": "{folder}"}, {"path": "{folder}/x/x.csv"}, {"url": "http://127.0.0.1:1/x.csv"}, {}],
)  # fmt: skip
def test_only_what_was_uploaded_is_opened(local: Site, value: Any) -> None:
    event = local.event("results-file", "upload")
    for meta in ({}, {"meta": {"_type": "gradio.FileData"}}):
        if isinstance(value, dict) and value.get("path"):
            value = {"path": value["path"].replace("{folder}", str(local.demo.app.uploaded_file_dir)), **meta}
        refused = local.join(event, [value])
        if refused.status_code == 400:
            assert "no such uploaded file" in reason(refused)
        else:
            done = local.outcome(event, [value])
            assert not done["success"] and "\n" not in done["output"]["error"]
            assert not isinstance(value, dict) or not value.get("path")


def test_gradio_itself_opens_no_file_that_was_not_uploaded(local: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The door stands before it; whoever changes the door has this behind it."""
    monkeypatch.setattr("flexdemo.serve.door._check_files", lambda app, body: None)
    event = local.event("results-file", "upload")
    for meta in ({}, {"meta": {"_type": "gradio.FileData"}}):
        done = local.outcome(event, [{"path": "/etc/passwd", **meta}])
        assert not done["success"] and "root:" not in json.dumps(done)


def test_a_file_of_another_kind_is_not_opened(local: Site) -> None:
    (path,) = local.http.post(f"{local.api}/upload", files=[("files", ("notes.txt", b"secret"))]).json()
    event = local.event("results-file", "upload")
    told = local.outcome(event, [{"path": path, "meta": {"_type": "gradio.FileData"}}])
    assert "secret" not in json.dumps(told)
    assert not told["success"] or "must end in .feather, .parquet, .csv, .jsonl" in json.dumps(told["output"])


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
    event = space.index("redraw")
    done = space.outcome(event, space.data(event, question="Who\u202e wrote Hamlet?"))
    assert "P1 holds U+202E RIGHT-TO-LEFT OVERRIDE. The model reads them" in json.dumps(done["output"])
    assert unseen("Città 東京 مرحبا?\n\tline") == ""
