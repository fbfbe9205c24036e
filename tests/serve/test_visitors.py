"""Several visitors at once: none sees what another has, none takes the place of all others."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import ValidationError
from hosting import QUESTION, SPACE, Served, Site, no_traceback, reason, served  # noqa: F401 (no_traceback watches every test here)

from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError
from flexdemo.page import endpoints as ui_api
from flexdemo.serve.door import Refused, Visits, visitor

# Visitors


def test_one_visitor_cannot_fill_the_queue(space: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def wait(*_: Any, **__: Any) -> Any:
        assert gate.wait(60)
        raise InputError("the gate is open")

    monkeypatch.setattr(ui_api, "stream", wait)
    try:
        asked = [space.post("call/v2/generate", {"question": QUESTION}, "198.51.100.1, 203.0.113.7") for _ in range(4)]
        assert [each.status_code for each in asked] == [200, 200, 200, 422]
        assert "3 of your requests are waiting or running, the most that one visitor may have" in reason(asked[3])
        spoofed = space.post("call/v2/generate", {"question": QUESTION}, "192.0.2.99, 203.0.113.7")
        page = space.join(space.event("run"), space.data(space.event("run")), visitor="203.0.113.7")
        library = Client(space.url, verbose=False, headers={"x-forwarded-for": "203.0.113.7"})
        with pytest.raises(ValidationError, match="3 of your requests are waiting or running"):
            library.predict(question=QUESTION, api_name="/generate")
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


def test_a_visitor_opens_so_many_pages_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("flexdemo.serve.door.time", clock)
    visits, now = Visits(3), 0.0
    for _ in range(3):
        visits.spend("a")
    now = 10.0
    with pytest.raises(Refused, match="3 pages or calls within a minute"):
        visits.spend("a")
    visits.spend("b")
    now = 61.0
    visits.spend("a")
    for _ in range(100):
        Visits(None).spend("a")


@pytest.mark.parametrize(
    ("forwarded", "proxies", "who"),
    [
        ("", 0, "10.0.0.9"),
        ("1.2.3.4", 0, "10.0.0.9"),
        ("1.2.3.4", 1, "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4", 1, "1.2.3.4"),
        ("1.2.3.4:50123", 1, "1.2.3.4"),
        ("[2001:db8:1:2::7]:50123", 1, "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::7]", 1, "2001:db8:1:2::/64"),
        ("6.6.6.6, 1.2.3.4, 10.1.1.1", 2, "1.2.3.4"),
        ("1.2.3.4", 2, "10.0.0.9"),
        ("", 1, "10.0.0.9"),
        ("2001:db8:1:2:3:4:5:6", 1, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", 1, "2001:db8:1:2::/64"),
        ("::ffff:1.2.3.4", 1, "1.2.3.4"),
        ("x" * 1000, 1, "x" * 64),
    ],
)
def test_a_visitor_is_the_address_that_the_host_tells(forwarded: str, proxies: int, who: str) -> None:
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    assert visitor({"client": ("10.0.0.9", 1), "headers": headers}, proxies) == who


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


def test_a_saved_file_takes_the_place_of_an_older_one(bundled: LanguageModel, tmp_path: Path) -> None:
    with served(bundled, profile=replace(SPACE, disk_bytes=1), folder=tmp_path) as site:
        run, save, mine = site.event("run"), site.event("save-json"), site.session()
        assert site.outcome(run, site.data(run, question="Who painted Guernica?", max_new_tokens=2), mine)["success"]
        made = [site.outcome(save, [None], mine)["output"]["data"] for _ in range(2)]
        first, second = (Path(re.search(r'"path": "([^"]+)"', json.dumps(each))[1]) for each in made)
        assert second.exists() and not first.exists()


def test_sessions_in_memory_are_bounded(bundled: LanguageModel, tmp_path: Path) -> None:
    with served(bundled, profile=replace(SPACE, sessions=3, visits=5), folder=tmp_path) as site:
        event = site.event("run")
        codes = [site.join(event, site.data(event), visitor="1.1.1.1").status_code for _ in range(7)]
        assert codes[-1] == 429 and len(site.demo.app.state_holder.session_data) <= 3
