"""The predecessor's defects, one regression test or more for each, named after it (PITFALLS.md, last section)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import oracle
import pytest
import torch

from flexdemo.answers.ask import ask
from flexdemo.cli import main as cli
from flexdemo.engine import slots
from flexdemo.engine.attention import BACKENDS, Plan
from flexdemo.engine.blocks import dense_mask, layout_of, make_mask_mod
from flexdemo.engine.loading import load_model
from flexdemo.engine.model import LanguageModel, prepare
from flexdemo.masks import Mask
from flexdemo.prompt import Segment, build_prompt

PIECES = (
    ("prefix", "prefix", 0, 1),
    ("P1", "paraphrase", 1, 3),
    ("P2", "paraphrase", 3, 4),
    ("suffix", "suffix", 4, 5),
)
SEGMENTS = [Segment(*piece, "") for piece in PIECES]
QUESTION, OTHERS = "What is the capital of Peru?", ["Name it.", "Which city is Peru's capital?"]


# --- output directory of another user: permission denied, after all the work


def refusal(capsys: pytest.CaptureFixture, *args: str) -> str:
    try:
        status = cli.main(list(args))
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.count("\n") == 1 and "Traceback" not in err
    return err


def test_output_directory_unwritable(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's folder. Root may write anywhere, so the system's answer is given in its place."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):
        real = os.access
        monkeypatch.setattr(os, "access", lambda path, mode, **k: Path(path) != folder and real(path, mode, **k))
    error = refusal(capsys, "mask", QUESTION, "--model", str(saved), "--output", str(folder / "mask.csv"))
    assert "cannot write" in error and str(folder) in error
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that even root cannot write to")
def test_output_directory_unwritable_for_everybody(saved: Path, capsys: pytest.CaptureFixture) -> None:
    """The folder says it is writable and the write fails all the same: still one line, no traceback."""
    assert "cannot write" in refusal(capsys, "mask", QUESTION, "--model", str(saved), "--output", "/proc/mask.csv")


def test_output_directory_is_made_or_is_a_file(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("kept")
    arguments = ("mask", QUESTION, "--model", str(saved), "--output")
    assert "cannot write" in refusal(capsys, *arguments, str(tmp_path / "file" / "mask.csv"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "kept"
    assert cli.main([*arguments, str(tmp_path / "new" / "folder" / "mask.csv")]) == 0
    assert (tmp_path / "new" / "folder" / "mask.csv").is_file()


def test_output_directory_is_checked_before_the_model_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("kept")
    output = str(tmp_path / "file" / "m.csv")
    assert "cannot write" in refusal(
        capsys, "mask", QUESTION, "--model", str(tmp_path / "no model"), "--output", output
    )


# --- `forward` bound twice


def bound(model: torch.nn.Module) -> dict[str, tuple[Any, bool]]:
    """For every module: the function behind its `forward`, and whether the instance carries one of its own."""
    return {name: (type(m).forward, "forward" in vars(m)) for name, m in model.named_modules()}


@pytest.mark.parametrize("backend", ["sdpa", "flex-eager"])
def test_forward_bound_twice(saved: Path, backend: str) -> None:
    """No layer is patched: loading and asking leave every `forward` the class's own function."""
    before = bound(models.random_model("llama"))
    lm = load_model(saved, device="cpu", backend=backend)
    assert bound(lm.model) == before
    for _ in range(2):
        ask(lm, QUESTION, OTHERS, methods=("all",), max_new_tokens=2)
    assert bound(lm.model) == before
    assert not any(instance for _, instance in before.values())
    hooks = [m for m in lm.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooks == []


def test_forward_bound_twice_state_of_the_model_is_untouched(lm: LanguageModel) -> None:
    """A request leaves nothing behind in the model: no attribute, no buffer, no weight."""

    def state() -> tuple[Any, Any]:
        return (
            {name: sorted(vars(m)) for name, m in lm.model.named_modules()},
            {name: value.clone() for name, value in lm.model.state_dict().items()},
        )

    names, weights = state()
    ask(lm, QUESTION, OTHERS, methods=("all",), max_new_tokens=2)
    names_after, weights_after = state()
    assert names == names_after
    assert all(torch.equal(weights[name], weights_after[name]) for name in weights)


# --- missing method: `apply_rotary_pos_emb` looked up on the attention class


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "cohere2"])
def test_missing_method(kind: str, prepared: Callable[..., LanguageModel]) -> None:
    """Works for attention classes without that method, also for models that have no rotary positions at all."""
    lm = prepared(kind)
    attentions = [m for m in lm.model.modules() if "Attention" in type(m).__name__]
    assert attentions and not any(hasattr(m, "apply_rotary_pos_emb") for m in attentions)
    assert ask(lm, QUESTION, OTHERS, max_new_tokens=2)["flex"].token_ids


# --- a `mask_mod` that returned a Python bool


@pytest.mark.parametrize("strategy", oracle.STRATEGIES)
def test_python_bool_from_a_mask_mod(strategy: str) -> None:
    layout = layout_of(strategy, SEGMENTS, answers=1, pads=1)
    mask_mod = make_mask_mod(layout)
    zero = torch.tensor(0)
    for q in range(7):
        for kv in range(7):
            cell = mask_mod(zero, zero, torch.tensor(q), torch.tensor(kv))
            assert isinstance(cell, torch.Tensor) and cell.dtype == torch.bool and cell.shape == ()
    index = torch.arange(7)
    rows = torch.vmap(torch.vmap(mask_mod, in_dims=(None, None, None, 0)), in_dims=(None, None, 0, None))
    cells = rows(zero, zero, index, index)
    assert cells.dtype == torch.bool and torch.equal(cells, dense_mask(layout)[0])


# --- tensors on different devices: the mask on the CPU while a layer ran on cuda:8


@pytest.mark.parametrize("strategy", oracle.STRATEGIES)
def test_tensors_on_different_devices_mask_mod(strategy: str) -> None:
    """A layout on a device gives a mask there; a vector left on the CPU would raise, as meta and CPU do not mix."""
    layout = layout_of(strategy, SEGMENTS).to("meta")
    assert layout.owners.device.type == layout.tables.device.type == "meta"
    mask_mod = make_mask_mod(layout)
    captured = [cell.cell_contents for cell in mask_mod.__closure__ or ()]
    assert captured and {t.device.type for t in captured if isinstance(t, torch.Tensor)} == {"meta"}
    index = torch.zeros(1, dtype=torch.long, device="meta")
    assert mask_mod(index, index, index, index).device.type == "meta"
    assert dense_mask(layout).device.type == "meta"
    assert BACKENDS["sdpa"].prompt_mask(layout).device.type == "meta"
    assert BACKENDS["flex"].prompt_mask(layout).kv_indices.device.type == "meta"


def test_tensors_on_different_devices_plans(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every plan holds, for each device that has a layer, tensors of that device only, made before the forward."""
    plans: list[Plan] = []

    def record(module: Any, args: Any, kwargs: Any) -> None:
        plans.append(kwargs["segment_plan"])

    hook = lm.model.register_forward_pre_hook(record, with_kwargs=True)
    try:
        ask(lm, QUESTION, OTHERS, methods=("all",), max_new_tokens=2)
    finally:
        hook.remove()
    assert len(plans) >= 3
    for plan in plans:
        assert set(plan.masks) == set(lm.devices)
        assert all(mask.device == device for device, mask in plan.masks.items())
        if plan.recorder is not None:
            assert all(group.device == device for device, group in plan.recorder.groups.items())


# --- segment bounds without BOS applied with it; separators in no segment; a paraphrase's last token saw nothing


@pytest.mark.parametrize("chat", [False, True])
def test_bounds_computed_without_bos(chat: bool) -> None:
    tokenizer = models.tokenizer(chat=chat)
    prompt = build_prompt(tokenizer, QUESTION, OTHERS, prefix="Be brief.")
    rows = Mask.over("segment", prompt.segments).cells()
    for segment in prompt.paraphrases:
        text = tokenizer.decode(prompt.token_ids[segment.start : segment.end], clean_up_tokenization_spaces=False)
        assert text == segment.text and (chat or text.endswith("\n"))
        last = rows[segment.end - 1]
        assert last[segment.start : segment.end].all() and last[: prompt.segments[0].end].all()
        assert int(last.sum()) == len(segment) + prompt.segments[0].end


def test_separator_tokens_in_no_segment(tokenizer: Any) -> None:
    prompt = build_prompt(tokenizer, QUESTION, OTHERS)
    covered = [t for s in prompt.segments for t in range(s.start, s.end)]
    assert covered == list(range(len(prompt.token_ids)))


# --- the last prompt token saw only the last paraphrase, so the first answer token was no ensemble


@pytest.mark.parametrize("strategy", [s for s in oracle.STRATEGIES if s != "late_fusion"])
def test_first_answer_token_is_an_ensemble(lm: LanguageModel, strategy: str) -> None:
    first = ask(lm, QUESTION, OTHERS, mask=strategy, max_new_tokens=1)["flex"].views[0].segment_mass[0]
    assert all(share > 0 for share in first[1:4])


def test_first_answer_token_is_an_ensemble_but_in_late_fusion(lm: LanguageModel) -> None:
    """There the predecessor's behaviour is kept, under its name."""
    rows = ask(lm, QUESTION, OTHERS, mask="late_fusion", max_new_tokens=2)["flex"].views[0].segment_mass
    assert rows[0][1:3] == (0, 0) and rows[0][3] > 0
    assert len(rows) == 1 or all(share > 0 for share in rows[1][1:4])


# --- any exception turned into plain causal attention and still called flex


def test_exceptions_are_not_turned_into_causal_attention(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no mask today")

    monkeypatch.setattr(slots, "dense_mask", broken)
    with pytest.raises(RuntimeError, match=r"no mask today"):
        ask(lm, QUESTION, OTHERS, max_new_tokens=1)


# --- no KV cache; the model patched every token; one sample at a time


def test_no_kv_cache(lm: LanguageModel) -> None:
    """After the suffix every forward pass reads one token a row, however long the prompt."""
    shapes: list[int] = []
    hook = lm.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        result = ask(lm, QUESTION, OTHERS, max_new_tokens=5)
    finally:
        hook.remove()
    tokens = len(result["flex"].token_ids)
    assert shapes == [result.prompt.suffix_start, len(result.prompt.segments[-1]), *[1] * (tokens - 1)]


def test_mask_is_not_made_for_every_token(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    original = Mask.over
    monkeypatch.setattr(Mask, "over", lambda text, *given, **more: made.append(text) or original(text, *given, **more))
    counts = []
    for tokens in (1, 6):
        made.clear()
        ask(lm, QUESTION, OTHERS, max_new_tokens=tokens)
        counts.append(len(made))
    assert counts[0] == counts[1] == 3  # the prompt's mask, the rows of suffix and answer, and the density that is told


def test_models_of_two_requests_do_not_share_their_attention_setting(tokenizer: Any) -> None:
    """Models built from one config object share its attention setting: a plain copy beside ours stays plain."""
    plain = models.random_model("llama")
    prepare(models.random_model("llama"), tokenizer, name="ours", backend="sdpa")
    assert plain.config._attn_implementation == "eager"
    assert plain(input_ids=torch.tensor([[1, 5, 6]])).logits.shape == (1, 3, 400)
