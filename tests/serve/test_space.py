"""The README's front matter, from which a Space is built, and the commands that README and docs/hosting.md show."""

from __future__ import annotations

import re

import pytest
import yaml
from packaging.version import Version

import app
from flexdemo.data.records import NAMED
from flexdemo.engine.loading import parse_models

README = (app.ROOT / "README.md").read_text(encoding="utf-8")
HOSTING = (app.ROOT / "docs" / "hosting.md").read_text(encoding="utf-8")
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


@pytest.fixture(scope="module")
def front() -> dict:
    _, block, _ = README.split("---\n", 2)
    return yaml.safe_load(block)


def test_the_front_matter_is_what_a_gradio_space_needs(front: dict) -> None:
    assert front["sdk"] == "gradio" and (app.ROOT / front["app_file"]).samefile(app.__file__)
    assert {front["colorFrom"], front["colorTo"]} <= COLOURS
    assert len(front["emoji"]) == 1 and front["title"] and len(front["short_description"]) <= 60
    assert front["suggested_hardware"] == "zero-a10g" and front["license"] == "apache-2.0"
    assert all(re.fullmatch(r"[a-z-]+", tag) for tag in front["tags"])


def test_models_and_data_sets_of_the_front_matter_are_those_that_are_offered(front: dict) -> None:
    (offer,) = re.findall(r"`(tiny=bundled,\S+)`", HOSTING)
    ids = list(parse_models(offer).values())
    assert set(front["models"]) == set(front["preload_from_hub"]) <= set(ids), "what is gated cannot be fetched ahead"
    assert set(front["datasets"]) <= {name for name, _ in NAMED.values()}


def test_its_versions_are_ours(front: dict) -> None:
    (line,) = [each for each in (app.ROOT / "requirements.txt").read_text().splitlines() if each.startswith("gradio")]
    low, high = re.fullmatch(r"gradio>=([\d.]+),<([\d.]+)", line).groups()
    assert Version(low) <= Version(front["sdk_version"]) < Version(high)
    assert isinstance(front["python_version"], str) and front["python_version"] in ("3.10", "3.12")  # what ZeroGPU has


def test_the_first_screen_has_the_two_commands() -> None:
    """Within the first lines after the front matter, which the Hub does not show."""
    first = README.split("---\n", 2)[2].strip().splitlines()[:12]
    assert first[0] == "# flexdemo" and "```bash" in first
    assert sum(line.startswith("pip install -r ") for line in first) == 2


def test_the_readme_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) <= 170 and max(map(len, lines)) <= 120


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{name}.md" for name in ("methods", "data", "api", "hosting", "speed"))]
)
def test_links_between_the_pages_lead_to_files(page: str) -> None:
    path = app.ROOT / page
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8"))
    assert all((path.parent / target).is_file() for target in targets), targets


def test_flags_that_the_page_about_hosting_names_exist() -> None:
    flags = set(re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*", HOSTING))
    docker = {"--rm", "--read-only", "--tmpfs", "--gpus", "--build-arg"}
    others = {"--clients", "--seconds", "--type", "--sdk", "--examples", "--output"}  # of tests/bench, hf, `record`
    ours = {flag for action in app.make_parser()._actions for flag in action.option_strings}
    assert flags <= ours | docker | others, flags - ours - docker - others
    assert {"--root-path", "--auth", "--log-text"} <= flags
