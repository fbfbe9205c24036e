"""What Run does: a page's answers as they grow, as changes of the page by name. Knows no widgets and no gradio.

Nothing is kept between requests; closing the generator, or a request that nobody waits for, ends the work within one
token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from ..answers.ask import Pace, stream
from ..answers.explain import CANDIDATES, Explanation
from ..answers.methods import METHODS
from ..answers.recording import Recorded
from ..answers.result import MethodResult, Result
from ..engine.loading import Models
from ..engine.reading import Reading
from ..errors import InputError
from ..masks import parse
from ..prompt import SegmentedPrompt
from ..request import Limits
from ..serve.log import Interrupted, checkpoint, note, within_noted_memory
from ..serve.zerogpu import answer_seconds
from .sides import SIDES, alone_changes, answer_html, answers_changes
from .state import FORM, STANDARD, PageState, side_parts
from .widgets import Changes, alert_html

DECODING = ("max_new_tokens", "temperature", "ape_temperature", "ape_scale", "weights_from", "model")
OUTDATED = '<p role="note" class="changed">The settings have changed since these answers: press Run.</p>'
FRAME_SECONDS = 0.15  # a slow browser must keep time for its Stop button between pictures of the stream


@dataclass(frozen=True, eq=False)
class LastRun:
    """A finished run of a page; `result` has the page's names of wordings. `recorded` is the recording that is shown
    in place of a run; `explanation` is made when it is looked at, and `head` the layer and head that were."""

    state: PageState
    result: Result
    explanation: Explanation | None = None
    recorded: Recorded | None = None
    head: tuple[int, int] | None = None

    @property
    def key(self) -> str:
        """The same for as long as this run's result is shown, whatever is looked at."""
        return f"{id(self.result)} {self.result.seconds['total']}"

    @property
    def methods(self) -> dict[str, MethodResult]:
        return {answered.method: answered for answered in self.result.results}


def status_html(state: str, text: str) -> str:
    """The line on what happens; `state` is ready, which a run that ended early is as well, running or done."""
    told = ' role="status"' if state != "running" else ""
    return f'<span data-state="{state}"{told}>{escape(text)}</span>'


def answers(models: Models, limits: Limits, state: PageState, reading: Reading | None = None) -> Iterator[Changes]:
    """The page while it runs; a prompt that `reading` holds is not read again. The last change is `last`.

    Ends when the time of a request is up, with what there is then.
    """
    lm, result = models.of(state.model), None
    room = limits.paraphrases

    def size() -> str:
        return f"{len(state.wordings)} wordings, {len(prompt.token_ids):,} tokens, {len(state.methods)} methods"

    def give_up() -> None:
        models.let_go()
        if reading is not None:
            reading.prefill = None

    try:
        # 1. What is asked, and whether it can run.
        prompt, until = state.compose(lm, limits), limits.until()
        sides = [getattr(state, side) for side in SIDES]
        methods = dict.fromkeys([*(["flex"] if state.asks_fused else []), *state.methods])
        apart = [state.scheme(each) for each in sides if side_parts(each)[0] != FORM]
        apart = [each for each in apart if each != state.scheme(STANDARD) or "causal" not in methods]
        schemes = [each.renamed(state.numbers) for each in apart]
        known = only_decodes(state, prompt, reading)
        if not known:  # else the answer follows at once: nothing is cleared
            cleared = dict.fromkeys([f"{side}_figures" for side in SIDES] + [f"alone-{i}" for i in range(room + 1)], "")
            cleared |= {"live": "", **{f"{side}_answer": answer_html(side) for side in SIDES}}
            yield {**cleared, "status": status_html("running", "Reading the prompt"), "message": ""}

        # 2. Answers as they grow.
        asked = state.asked(methods=tuple(methods), mass=False, candidates=CANDIDATES)
        options = {"reasoning": limits.new_tokens, "until": until, "check": checkpoint()}
        with within_noted_memory(size, give_up=give_up):
            for result in stream(
                lm, asked, schemes=schemes, reading=reading, **options, wanted=Pace(FRAME_SECONDS, known)
            ):
                named = state.told(result)
                yield frame(state, named, room)

        # 3. What is kept for the tabs and the tools.
        if result is not None and result.done:
            yield {"last": LastRun(state, named)}
        elif result is not None:
            yield {"status": status_html("ready", "Stopped"), "message": alert_html(limits.time_is_up())}
    except Interrupted as error:
        note(outcome="stopped")
        yield {"status": status_html("ready", "Stopped"), "message": alert_html(str(error))}
    except InputError as error:
        note(outcome="refused", message=str(error))
        yield {"status": status_html("ready", "Not run"), "message": alert_html(str(error), refused=True)}
    finally:
        if result is not None:
            note_result(result)


def frame(state: PageState, result: Result, room: int) -> Changes:
    """The page with what there is so far; `result` has the page's names."""
    if not result.results:
        said = f"Sampling each wording for its weight, {result.seconds['total']:.2f} s"
        return {"status": status_html("running", said)}
    changes = answers_changes(state, result) | alone_changes(state, result, room)
    status = status_html("done" if result.done else "running", progress(result))
    return changes | {"status": status, "message": notes_html(result) if result.done else ""}


def progress(result: Result) -> str:
    """One line on a run: what it has done so far, or did."""
    every = [view for each in result.answered for view in each.views]
    rows = len({(view.weights, view.suffix_position, view.logprobs) for view in every})  # methods share some
    tokens = max((len(view.token_ids) for view in every), default=0)
    state = "Done" if result.done else "Running"
    told = [f"{count} {what}{'' if count == 1 else 's'}" for count, what in ((rows, "row"), (tokens, "token"))]
    return f"{state}: {told[0]}, longest {told[1]}, {result.seconds['total']:.2f} s"


def only_decodes(state: PageState, prompt: SegmentedPrompt, reading: Reading | None) -> bool:
    """Whether `reading` holds this prompt and its weights are the visitor's: then only the decode is to be done."""
    return state.weights_from == "mine" and reading is not None and reading.known(prompt) is not None


def decoding_of(state: PageState) -> list[Any]:
    """What answers depend on and no mask shows, but for weights of the visitor's own: moved, they decode at once."""
    names, samples = list(DECODING), state.weights_from == "confidence"
    names += ["top_p", "seed"] if state.temperature or samples else []
    names += ["samples", "sample_temperature"] if samples else []
    return [getattr(state, name) for name in names]


def notes_html(result: Result) -> str:
    """What is to be known of a finished run's answers."""
    return "".join(f'<p role="note">{escape(text)}</p>' for text in result.notes)


def seconds_of(state: PageState, *_: Any) -> float:
    """How long a run may take, for whoever lends a GPU for it."""
    samples = state.samples if state.weights_from == "confidence" else 1
    return answer_seconds(state.max_new_tokens, rows=len(state.wordings) * samples * max(1, len(state.methods)))


def note_result(result: Result) -> None:
    """Tell the log what ran: no text of the visitor's, unless it was started to be logged."""
    made = sum(len(view.token_ids) for answered in result.results for view in answered.views)
    methods = [answered.method for answered in result.results]
    note(methods=methods, prompt_tokens=len(result.prompt.token_ids), new_tokens=made)
    note(question=result.request.question, paraphrases=list(result.request.paraphrases))


def belongs_html(last: LastRun) -> str:
    """Whose run this is: the page may have changed since."""
    settings = f"{parse(last.state.mask).label}, {last.state.positions.replace('_', ' ')}"
    if not last.result.ape.is_plain:
        settings += f", T = {last.result.ape.temperature:g}, S = {last.result.ape.scale:g}"
    count = len(last.result.prompt.paraphrases)
    wordings = f"{count} wording{'' if count == 1 else 's'}"
    whose = "Last run" if last.recorded is None else escape(f"Recorded {last.recorded.date} with {last.result.model}")
    return f'<p class="belongs">{whose}: <q>{escape(last.state.question)}</q> {wordings}, {escape(settings)}</p>'


def lacking_html(last: LastRun, *methods: str) -> str:
    """What to choose so that a run has what is to be seen."""
    labels = " and ".join(f"<b>{escape(METHODS[name].label)}</b>" for name in methods)
    return f"<p>To see this, choose {labels} under Methods, then Run.</p>{belongs_html(last)}"


def method_label(answered: MethodResult) -> str:
    """Name of a method, and of the wording that speaks for it where every wording has an answer of its own."""
    method = METHODS[answered.method]
    return f"{method.label}: {answered.views[0].name}" if method.answers_each else method.label
