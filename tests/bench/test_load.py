"""A short load: clients at once get the answers each would get alone. The long one: `python tests/bench/load.py`."""

from __future__ import annotations

import pytest
from hosting import Site
from load import Met, load, mark, requests_of


@pytest.fixture(scope="module")
def met(local: Site) -> Met:
    """Of shorter answers than the long one's, and each client has two requests in place of four."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("load.EACH", 2)
        patch.setattr("load.LENGTHS", (4, 8, 24))
        return load(f"{local.url}/", clients=4, seconds=300, most=2)


def test_all_are_answered_as_if_they_were_alone(met: Met) -> None:
    assert met.is_clean and len(met.seconds) == 4 * 2, "\n".join(met.lines())


def test_who_waits_is_told_a_place_in_the_queue(met: Met) -> None:
    assert 1 <= met.deepest <= 4


def test_a_leak_or_a_wrong_answer_would_be_seen() -> None:
    ours, theirs = requests_of(0), requests_of(1)
    assert all(mark(0) in each["prefix"] and mark(1) not in each["prefix"] for each in ours)
    assert not [each for each in ours if each in theirs], "clients must not ask the same, or a mix-up would not show"
    assert not Met().is_clean and not Met(seconds=[1.0], leaked=1).is_clean and not Met(seconds=[1.0], wrong=1).is_clean
