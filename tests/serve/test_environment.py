"""Starting where something is missing or broken: one line that says what, and what to do."""

from __future__ import annotations

import http.server
import inspect
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import browser_support
import pytest

import app
from flexdemo.engine.loading import BUNDLED, ModelError, load_model
from flexdemo.errors import InputError
from flexdemo.serve import host

WANTED = "torch>=2.11,<2.14\ngradio[mcp]>=6.31,<7\npyarrow>=17\n"


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    path = tmp_path / "requirements.txt"
    path.write_text(WANTED)

    def check(**versions: str) -> None:
        def version(name: str) -> str:
            if name not in versions:
                raise PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(host, "version", version)
        host.check_requirements(path)

    return check


@pytest.mark.parametrize("torch", ["2.11", "2.11.0+cu130", "2.13.9", "2.13.0.dev20260101"])
def test_what_meets_the_requirements_is_silent(check: Callable[..., None], torch: str) -> None:
    check(torch=torch, gradio="6.31", pyarrow="17.0.0")


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({}, "the package torch is missing"),
        ({"torch": "2.9.1+cpu"}, "the package torch is 2.9.1+cpu: torch<2.14,>=2.11 is needed"),
        ({"torch": "2.14.0"}, "the package torch is 2.14.0"),
        ({"torch": "2.11.0"}, "the package gradio is missing"),
        ({"torch": "2.11.0", "gradio": "6.9"}, "the package gradio is 6.9"),
        ({"torch": "2.11.0", "gradio": "6.40", "pyarrow": "16.1"}, "the package pyarrow is 16.1"),
    ],
)
def test_the_first_requirement_that_is_not_met_is_named(
    check: Callable[..., None], versions: dict[str, str], said: str
) -> None:
    with pytest.raises(InputError) as raised:
        check(**versions)
    assert str(raised.value).startswith(said) and "\n" not in str(raised.value)
    assert str(raised.value).endswith("run `pip install -r requirements.txt`")


def test_our_own_requirements_are_met_here() -> None:
    host.check_requirements(app.ROOT / "requirements.txt")


def test_gradio_is_imported_without_its_stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its components have no file for as long as it is imported, and nothing else has lost its own."""
    package = tmp_path / "gradio"
    package.mkdir()
    told = "import inspect, pathlib\nother = inspect.getfile(pathlib.Path)\nclass A: pass\nA.__module__ = 'gradio.a'\n"
    (package / "__init__.py").write_text(told + "try: inspect.getfile(A)\nexcept OSError as error: said = str(error)\n")
    ours = [name for name in sys.modules if name.split(".")[0] == "gradio"]
    for name in ours:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    before = inspect.getfile
    host.import_gradio()
    found = sys.modules["gradio"]
    assert found.said == "a class without a file has no stub" and found.other.endswith("pathlib.py")
    assert inspect.getfile is before


def started(*models: str, code: str = "", **environment: str) -> subprocess.CompletedProcess:
    """A process in which app.py is started with each model in turn, after `code` ran in it."""
    program = f"""
import sys
{code}
import app
for model in sys.argv[2:]:
    print(app.main(["--port", sys.argv[1], "--model", model]), flush=True)
"""
    return subprocess.run(
        [sys.executable, "-c", program, str(browser_support.free_port()), *models], cwd=app.ROOT, capture_output=True,
        encoding="utf-8", timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def lines(done: subprocess.CompletedProcess, count: int = 1) -> list[str]:
    """What was said of each model, in one line each."""
    assert done.returncode == 0 and done.stdout == "2\n" * count, done.stderr
    said = done.stderr.splitlines()
    assert len(said) == count and all(each.startswith("error: ") for each in said), done.stderr
    return said


def test_a_broken_environment_is_told_before_anything_is_imported() -> None:
    hide = """
import importlib.metadata as m
class Blocked:
    def find_spec(self, name, *rest):
        if name.split('.')[0] in ('gradio', 'torch', 'transformers', 'numpy'):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
version = m.version
def hidden(name):
    if name == 'gradio': raise m.PackageNotFoundError(name)
    return version(name)
m.version = hidden
"""
    (said,) = lines(started("bundled", code=hide))
    assert said == "error: the package gradio is missing; run `pip install -r requirements.txt`"


# Models that cannot be loaded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLED, tmp_path / "model"))


SHARD = "model-00002-of-00004.safetensors"


def cut(folder: Path) -> None:
    path = folder / SHARD
    path.write_bytes(path.read_bytes()[:100_000])


def alter(folder: Path) -> None:
    path = folder / SHARD
    data = bytearray(path.read_bytes())
    data[8:40] = os.urandom(32)
    path.write_bytes(data)


def lose(folder: Path) -> None:
    (folder / SHARD).unlink()


def lose_tensor(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if v != SHARD}
    path.write_text(json.dumps(index))


def poison(folder: Path) -> None:
    path = folder / "model-00001-of-00004.safetensors"
    data = bytearray(path.read_bytes())
    data[-4000:] = b"\xff" * 4000  # not-a-numbers
    path.write_bytes(data)


def widen(folder: Path) -> None:
    path = folder / "config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"hidden_size": 2 * told["hidden_size"]}))


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (cut, "a weights file is cut off or damaged"),
    (alter, "a weights file is cut off or damaged"),
    (lose, SHARD),
    (lose_tensor, "its weights files lack"),
    (poison, "not finite"),
    (lambda folder: (folder / "config.json").write_text("{"), "config"),
    (lambda folder: (folder / "config.json").write_text("{}"), "cannot load the model"),
    (lambda folder: (folder / "tokenizer.json").write_text('{"model": '), "is cut off or damaged"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "it has no tokenizer, such as tokenizer.json"),
    (widen, "its config.json does not fit its weights"),
    (lambda folder: (folder / "model.safetensors.index.json").write_text("{"), "cannot load the model"),
    (lambda folder: shutil.rmtree(folder), "no model at"),
]


@pytest.mark.parametrize(("damage", "said"), FAULTS, ids=[said for _, said in FAULTS])
def test_a_damaged_model_folder_is_refused_in_one_line(folder: Path, damage: Callable, said: str) -> None:
    damage(folder)
    with pytest.raises(InputError) as raised:
        load_model(folder)
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["GRADIO_TEMP_DIR", "TMPDIR"])
def test_a_host_where_no_file_can_be_written_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    monkeypatch.setenv(name, "/dev/null/x")
    monkeypatch.setattr("tempfile.tempdir", None if name == "GRADIO_TEMP_DIR" else "/dev/null/x")
    with pytest.raises(InputError, match=r"no files can be written .*Not a directory.*with GRADIO_TEMP_DIR"):
        host.own_folder()


def test_a_cut_shard_stops_the_server_before_it_listens(folder: Path, capsys: pytest.CaptureFixture) -> None:
    cut(folder)
    assert app.main(["--port", str(browser_support.free_port()), "--model", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "a weights file is cut off or damaged" in said and said.count("\n") == 1


# The Hub: a server of our own that answers as the Hub does


HUB = {  # a model there: the status and code of the answer, and what is said of it
    "some/gated": (
        401,
        "GatedRepo",
        "the model 'some/gated' is gated: ask for access at https://huggingface.co/some/g",
    ),
    "some/asked": (403, "GatedRepo", "run `hf auth login` or set HF_TOKEN"),
    "some/none": (404, "RepoNotFound", "there is no public model 'some/none' on the Hub: check its name"),
    "some/private": (401, None, "there is no public model 'some/private' on the Hub"),
    "some/lost": (0, None, "(a local folder or a reachable Hub id is needed)"),  # it hangs up
}


@contextmanager
def hub() -> Iterator[str]:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            (status, code, _), *_ = (told for name, told in HUB.items() if name in self.path)
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
                self.send_header("X-Error-Message", "no")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("model", HUB)
def test_what_the_hub_refuses_says_what_to_do(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub() as endpoint:
        files = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        changes = {
            "ENDPOINT": endpoint, "HUGGINGFACE_CO_URL_TEMPLATE": files, "HF_HUB_CACHE": str(tmp_path),
            "HF_HUB_OFFLINE": False,
        }  # fmt: skip
        for name, value in changes.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        with pytest.raises(InputError) as raised:
            load_model(model)
    assert HUB[model][-1] in str(raised.value) and "\n" not in str(raised.value)


def test_a_hub_that_may_not_be_asked_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match=r"cannot load the model 'some/model': .*a reachable Hub id is needed"
    ) as raised:
        load_model("some/model")
    assert "\n" not in str(raised.value)


def test_model_errors_are_input_errors() -> None:
    assert issubclass(ModelError, InputError)
