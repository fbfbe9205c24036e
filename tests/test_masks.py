"""Masks as tables, against a double loop in plain Python and against counting cells one by one."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import oracle
import pytest

from flexdemo.errors import InputError
from flexdemo.masks import ITSELF, STRATEGIES, Mask, parse, toggled
from flexdemo.plan import Encoding, check_encoding, mask_rows
from flexdemo.prompt import Segment


def segments_of(lengths: Sequence[int], *, separators: bool = False, prefix: int = 2, suffix: int = 2) -> list[Segment]:
    """Segments of a packed prompt with wordings of some lengths; separators of one token stand between them."""
    pieces = [("prefix", "prefix", prefix)]
    for i, length in enumerate(lengths, start=1):
        pieces.append((f"P{i}", "paraphrase", length))
        if separators and i < len(lengths):
            pieces.append((f"S{i}", "separator", 1 + i % 2))
    made, start = [], 0
    for name, role, length in [*pieces, ("suffix", "suffix", suffix)]:
        made.append(Segment(name, role, start, start + length, ""))
        start += length
    return made


def random_segments(rng: random.Random) -> list[Segment]:
    lengths = [rng.randrange(1, 6) for _ in range(rng.randrange(1, 6))]
    return segments_of(lengths, separators=rng.random() < 0.5, prefix=rng.randrange(0, 4), suffix=rng.randrange(1, 4))


def random_mask(rng: random.Random, wordings: int) -> str:
    """A strategy with up to six pairs; suffix and answer keep one wording that no pair after it closes."""
    names = ["prefix", *(f"P{i + 1}" for i in range(wordings)), "suffix", "answer", "*"]
    pairs = [f"{rng.choice('+-')}{rng.choice(names)}>{rng.choice(names)}" for _ in range(rng.randrange(0, 7))]
    kept = f"P{rng.randrange(wordings) + 1}"
    return rng.choice(oracle.STRATEGIES) + "".join(pairs) + f"+suffix>{kept}+answer>{kept}"


def tokens_of(segments: Sequence[Segment], answers: int = 0) -> list[oracle.Token]:
    return oracle.prompt_tokens([vars(segment) for segment in segments], answers)


def test_strategies_are_those_of_the_design() -> None:
    assert tuple(STRATEGIES) == oracle.STRATEGIES


@pytest.mark.parametrize("separators", [False, True])
@pytest.mark.parametrize("strategy", oracle.STRATEGIES)
def test_property_1_mask_equals_a_double_loop(strategy: str, separators: bool) -> None:
    rng = random.Random(f"{strategy} {separators}")
    for _ in range(20):
        lengths = [rng.randrange(1, 6) for _ in range(rng.randrange(1, 6))]
        segments = segments_of(lengths, separators=separators, prefix=rng.randrange(0, 4), suffix=rng.randrange(1, 4))
        answers = rng.randrange(0, 4)
        got = Mask.over(strategy, segments, answers=answers).cells()
        assert got.tolist() == oracle.mask(strategy, tokens_of(segments, answers))


def test_property_1_holds_for_500_random_own_masks() -> None:
    rng = random.Random(1)
    for _ in range(500):
        segments, answers = random_segments(rng), rng.randrange(0, 3)
        text = random_mask(rng, sum(segment.role == "paraphrase" for segment in segments))
        mask = Mask.over(text, segments, answers=answers)
        want = oracle.mask(text, tokens_of(segments, answers))
        assert mask.cells().tolist() == want, text
        assert mask_rows(mask.cells()) == ["".join(str(int(cell)) for cell in row) for row in want]


def test_counts_are_those_of_the_cells() -> None:
    """Density and differences come from lengths of segments; here they are counted cell by cell."""
    rng = random.Random(2)
    for _ in range(100):
        segments, answers = random_segments(rng), rng.randrange(0, 3)
        count, n = sum(segment.role == "paraphrase" for segment in segments), segments[-1].end + answers
        texts = random_mask(rng, count), random_mask(rng, count)
        one, other = (Mask.over(text, segments, answers=answers) for text in texts)
        mine, theirs = (oracle.mask(text, tokens_of(segments, answers)) for text in texts)
        pairs = [(mine[q][k], theirs[q][k]) for q in range(n) for k in range(n)]
        assert one.density == sum(map(sum, mine)) / n**2
        assert one.difference(other) == {
            "kept": pairs.count((True, True)),
            "removed": pairs.count((False, True)),
            "added": pairs.count((True, False)),
        }


def test_a_very_long_prompt_is_counted_without_its_cells() -> None:
    """32 billion cells would not fit into memory."""
    assert Mask.over("causal", segments_of([10**6] * 3)).density == pytest.approx(0.5, abs=1e-6)
    assert Mask.over("segment", segments_of([10**6] * 4)).density == pytest.approx(0.125, abs=1e-5)


@pytest.mark.parametrize("weights", [None, (0.0, 0.5, 0.5)])
def test_reasons_tell_every_cell_as_the_mask_does(weights: tuple[float, ...] | None) -> None:
    rng = random.Random(3)
    for _ in range(60):
        segments, text = segments_of([3, 1, 2], separators=rng.random() < 0.5), random_mask(rng, 3)
        if weights:
            of = dict(zip(("P1", "P2", "P3"), weights, strict=True))
            segments = [Segment(s.name, s.role, s.start, s.end, "", of.get(s.name)) for s in segments]
        mask = Mask.over(text, segments, answers=2).weighted()
        everywhere = np.arange(segments[-1].end + 2)
        told, cells = mask.told(everywhere, everywhere), mask.cells()
        for q, k in np.ndindex(*cells.shape):
            assert told[q, k].startswith("visible" if cells[q, k] else "hidden"), text
        assert (mask.told(everywhere[4:7], everywhere[1:3]) == told[4:7, 1:3]).all()


def test_reasons_name_what_decides() -> None:
    def told(text: str, q: str, k: str, later: int = 0) -> str:
        mask = Mask.over(text, segments_of([2, 2, 2], separators=True), answers=2)
        names = [segment.name for segment in mask.segments]
        return mask.reasons()[names.index(q), names.index(k), later]

    assert told("segment", "P1", "P1") == "visible: own paraphrase"
    assert told("segment", "P2", "prefix") == "visible: prefix"
    assert told("segment", "P2", "P1") == "hidden: other paraphrase"
    assert told("segment", "P1", "P2", 1) == "hidden: later token"
    assert told("segment", "suffix", "P2") == "visible: fused (suffix sees all)"
    assert told("segment", "suffix", "S1") == "hidden: separators are for standard attention"
    assert told("segment", "answer", "answer") == "visible: earlier answer token"
    assert told("isolated", "P1", "prefix") == "hidden: prefix"
    assert told("causal", "P3", "P1") == told("anchor", "P3", "P1") == "visible: earlier paraphrase"
    assert told("causal", "P3", "S1") == "visible: earlier separator"
    assert told("late_fusion", "suffix", "P3") == "visible: the paraphrase its suffix joins"
    assert told("late_fusion", "suffix", "P1") == "hidden: other paraphrase"
    assert told("bidirectional", "P1", "P1", 1) == "visible: later token of the same paraphrase"
    own = "segment+P2>P1-suffix>P3"
    assert told(own, "P2", "P1") == "visible: opened by +P2>P1"
    assert told(own, "suffix", "P3") == "hidden: closed by -suffix>P3"
    assert told(own, "suffix", "P2") == "visible: fused into the suffix"
    assert told("causal-P2>P1", "P2", "S1") == "hidden: closed by -P2>P1"
    assert told("segment", "P1", "P2") is None, "no token of P2 stands before one of P1"


def test_a_token_sees_itself_whatever_is_closed() -> None:
    mask = Mask.over("segment-P1>P1", segments_of([3, 2]))
    assert mask.cells()[2:5, 2:5].tolist() == np.eye(3, dtype=bool).tolist()
    assert mask.told(np.arange(2, 5), np.arange(2, 5))[1].tolist() == [
        "hidden: closed by -P1>P1", ITSELF, "hidden: later token",
    ]  # fmt: skip


def test_weight_zero_hides_from_queries_that_feel_weights() -> None:
    segments = [
        Segment(s.name, s.role, s.start, s.end, "", 0.0 if s.name == "P1" else None) for s in segments_of([2, 2])
    ]
    for text, rows in (("segment", slice(6, 10)), ("late_fusion", slice(8, 10))):
        plain = Mask.over(text, segments, answers=2)
        felt, cells = plain.weighted().cells(), plain.cells()
        cells[rows, 2:4] = False
        assert felt.tolist() == cells.tolist()
        assert set(plain.weighted().told(np.array([9]), np.array([2, 3])).ravel()) == {"hidden: weight 0"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("diagonal", "unknown mask strategy 'diagonal': choose from segment, isolated"),
        ("", "unknown mask strategy '': choose from segment"),
        ("+P1>P2", "unknown mask strategy ''"),
        ("segment P2>P1", "unknown mask strategy 'segment P2>P1'"),
        ("segment+P2P1", r"'\+P2P1' in mask 'segment\+P2P1' is no pair: write \+P2>P1"),
        ("segment+P2>P1-", "'-' in mask .* is no pair"),
        ("segment+P0>P1", r"'\+P0>P1' in mask .* names from prefix, P1, P2, \.\.\., suffix, answer, \*"),
        ("segment+S1>P1", "is no pair"),
        ("segment+P1>P2>P3", "is no pair"),
        ("segment+P7>P1", r"'\+P7>P1' in mask .* names P7, which is not there: this prompt's wordings are P1, P2, P3"),
        ("segment-suffix>*", "hides every wording from the suffix: leave one open, such as suffix>P1"),
        ("segment-answer>P1-answer>P2-answer>P3", "hides every wording from the answer"),
        ("late_fusion-suffix>P3", "hides every wording from the suffix"),
    ],
)
def test_what_is_no_mask_is_told_in_one_line(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        Mask.over(text, segments_of([1, 1, 1]))
    assert "\n" not in str(caught.value)


def test_an_encoding_is_checked_by_its_grammar_and_then_by_its_prompt() -> None:
    check_encoding(Encoding("segment+P7>P1"))
    with pytest.raises(InputError, match="is no pair"):
        check_encoding(Encoding("segment+P7"))
    with pytest.raises(InputError, match="unknown position scheme 'odd'"):
        check_encoding(Encoding("segment", "odd"))


def test_a_rule_has_a_label() -> None:
    plain, own = parse("segment"), parse("segment+P2>P1-*>P3")
    assert plain.label == "Segment" and own.label == "Segment +P2>P1 -*>P3"
    assert own.summary == f"{plain.summary} Opened and closed: +P2>P1 -*>P3."


def test_a_toggled_pair_changes_its_own_cells_alone_and_back() -> None:
    """Also where a pair for all (`*`) or an edit of the same pair decides about it; separators follow their wording."""
    rng, changed = random.Random(5), 0
    for _ in range(300):
        segments = random_segments(rng)
        wordings = sum(segment.role == "paraphrase" for segment in segments)
        text = random_mask(rng, wordings)
        before = Mask.over(text, segments)
        named = [i for i, segment in enumerate(before.segments) if segment.role != "separator"]
        q = rng.choice(named)
        k = rng.choice([i for i in named if i <= q])
        names = [segment.name for segment in before.segments]
        try:
            made = toggled(text, names[q], names[k], segments)
        except InputError as error:
            assert "hides every wording from the" in str(error) and before.visible[q, k, 0]
            continue
        after = Mask.over(made, segments)
        differs = (before.visible != after.visible)[:, :, 0]
        assert differs[q, k] and not (before.visible != after.visible)[:, :, 1].any()
        differs[q, k] = False
        others = [names[i] for i in range(len(names)) if before.segments[i].role != "separator"]
        assert not any(differs[names.index(a), names.index(b)] for a in others for b in others)
        assert (Mask.over(toggled(made, names[q], names[k], segments), segments).visible == before.visible)[
            np.ix_(named, named)
        ].all()
        changed += 1
    assert changed > 200
    plain = segments_of([3, 3])
    assert toggled("segment", "P2", "P1", plain) == "segment+P2>P1"
    assert toggled("segment+P2>P1", "P2", "P1", plain) == "segment", "taken back, not answered by another"
    assert toggled("segment-*>P1", "P2", "P1", plain) == "segment-*>P1+P2>P1"


@pytest.mark.parametrize(
    ("query", "key", "said"),
    [("P1", "P2", "is no pair of this prompt"), ("P9", "P1", "is no pair"), ("suffix", "P1", "hides every wording")],
)
def test_a_pair_that_cannot_be_toggled_is_told(query: str, key: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        toggled("segment-suffix>P2", query, key, segments_of([3, 3]))
