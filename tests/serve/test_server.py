"""Health, the log, accounts, a proxy's path, and how the server stops, seen from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import browser_support
import pytest
from gradio_client import Client
from hosting import QUESTION, Served, served, until

import app
from flexdemo import __version__
from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError
from flexdemo.serve.health import read_account

ACCOUNT = ("reader", "pass word:1")


@pytest.fixture(scope="module")
def page(lm: LanguageModel) -> Iterator[Served]:
    with served(lm) as page:
        yield page


# /healthz


def test_health_tells_what_runs(page: Served, lm: LanguageModel) -> None:
    status, text = page.get("/healthz")
    assert status == 200
    assert json.loads(text) == {
        "status": "ready", "model": lm.name, "backend": lm.backend, "device": "cpu", "queue": 0, "version": __version__,
    }  # fmt: skip


def test_health_says_when_it_is_not_ready(lm: LanguageModel) -> None:
    with served(lm) as page:
        page.state.closing.set()
        assert page.get("/healthz")[0] == 503 and json.loads(page.get("/healthz")[1])["status"] == "stopping"


# The log


@pytest.mark.parametrize("log_text", [False, True])
def test_the_log_has_texts_only_if_asked(lm: LanguageModel, log_text: bool) -> None:
    secret = "plugh_xyzzy"
    with served(lm, log_text=log_text) as page:
        client = Client(page.url, verbose=False)
        client.predict(question=f"What is {secret}?", paraphrases=[f"Name {secret}."], max_new_tokens=2,
                       api_name="/generate")  # fmt: skip
        with pytest.raises(ValueError, match=secret):
            client.predict(question=QUESTION, mask=secret, api_name="/generate")
        answered, refused = until(lambda: page.told if len(page.lines) >= 2 else None)
    assert (secret in json.dumps(answered)) == (secret in json.dumps(refused)) == log_text
    assert answered["outcome"] == "ok" and answered["methods"] == ["flex"] and answered["endpoint"] == "generate"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answered["time"]) and answered["seconds"] > 0
    assert refused["outcome"] == "refused" and "traceback" not in refused


# Accounts


def test_an_account_guards_all_but_health(lm: LanguageModel) -> None:
    with served(lm, account=ACCOUNT) as page:
        assert page.get("/healthz")[0] == 200
        assert page.get("/gradio_api/info")[0] == 401
        client = Client(page.url, auth=ACCOUNT, verbose=False)
        assert client.predict(question=QUESTION, max_new_tokens=2, api_name="/generate")["results"]
        assert not any(ACCOUNT[1] in line for line in page.lines)


def test_an_account_is_read_from_text_or_file(tmp_path: Path) -> None:
    file = tmp_path / "account"
    file.write_text("reader:pass word:1\nmore\n")
    assert read_account("reader:pass word:1") == read_account(f"@{file}") == ACCOUNT
    assert read_account(None) is read_account("") is None


@pytest.mark.parametrize("given", ["reader", ":x", "reader:", "@/no/such/file"])
def test_an_account_that_cannot_be_used_is_refused_without_repeating_it(given: str) -> None:
    with pytest.raises(InputError) as raised:
        read_account(given)
    assert "\n" not in str(raised.value) and (given.startswith("@") or "reader" not in str(raised.value))


# Behind a proxy


def test_a_root_path_reaches_the_page_whether_or_not_the_proxy_strips_it(lm: LanguageModel) -> None:
    with served(lm, root_path="/demo") as page:
        assert '"root":"/demo"' in page.get("/")[1].replace(" ", "") or "/demo" in page.get("/config")[1]
        for prefix in ("", "/demo"):
            assert page.get(f"{prefix}/healthz")[0] == 200
            assert page.get(f"{prefix}/gradio_api/info")[0] == 200


# Stopping


@contextmanager
def process(*arguments: str, code: str = "", **environment: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """app.py in a process of its own, after `code` ran in it; yields it and its address once it answers."""
    port = browser_support.free_port()
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "GRADIO_SERVER_PORT": str(port), **environment}
    command = [sys.executable, "-c", f"import sys\n{code}\nimport app\nsys.exit(app.main(sys.argv[1:]))"]
    running = subprocess.Popen(
        [*command, *arguments], cwd=app.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, **environment}, encoding="utf-8",
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}/"
    try:
        until(lambda: running.poll() is not None or browser_support.answers(f"{url}healthz"), 120)
        yield running, url
    finally:
        running.kill()
        running.communicate()


SPACE = {"SYSTEM": "spaces", "SPACE_ID": "some/space", "SPACE_HOST": "some-space.hf.space"}
# There gradio watches for new code, for which it looks through every object that there is.
ENDLESS = """
import sys, time, types
sys.modules["spaces.reloading"] = types.SimpleNamespace(start_reload_server=lambda **_: None)
from flexdemo.engine import decode
from flexdemo.engine.fast import rows
forward = rows.forward
rows.forward = lambda *a, **o: (time.sleep(0.1), forward(*a, **o))[1]
decode.stop_reason = lambda lm, prompt, token_ids, limit: "length" if len(token_ids) >= limit else None
"""


def stopped(running: subprocess.Popen) -> tuple[int, str, list[dict]]:
    """Exit status, standard output and the log of a process that is asked to stop."""
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=60)
    assert "Traceback" not in out + err, err
    return running.returncode, out, [json.loads(line) for line in err.splitlines() if line.startswith("{")]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_sigterm_ends_what_runs_and_what_waits_and_says_so() -> None:
    """As a Space on the CPU starts it: the address in the environment, the Space's own variables."""
    with process(code=ENDLESS, GRADIO_SERVER_NAME="0.0.0.0", **SPACE) as (running, url):
        client = Client(url, verbose=False)
        jobs = [client.submit(question=QUESTION, max_new_tokens=100, api_name="/generate") for _ in range(2)]
        until(lambda: any(job.outputs() for job in jobs))
        time.sleep(0.2)
        code, _, log = stopped(running)
        said = [str(job.exception(timeout=30)) for job in jobs]
    assert code == 0 and [log[0]["event"], log[-1]["event"]] == ["started", "stopped"]
    assert all("the server is stopping: ask again in a minute" in each for each in said), said
    assert {each["outcome"] for each in log if each["event"] == "request"} == {"stopped"}
