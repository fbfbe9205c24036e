"""What the page's buttons do: answer and stop, edit rows. Knows no widgets and no gradio.

Nothing is kept between requests but the stop flag of a running answer, under its visitor's session.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..answers.ask import stream
from ..answers.result import Result
from ..engine.loading import Models, offered
from ..engine.model import LanguageModel
from ..engine.reading import Reading
from ..errors import InputError, OutOfTime
from ..plan import LADDER, STANDARD
from ..prompt import SegmentedPrompt
from ..request import Limits
from ..serve.log import Interrupted, checkpoint, note, within_noted_memory
from ..serve.zerogpu import Gpu, answer_seconds
from . import pair as compared
from . import parts
from .entered import Form, compose
from .pair import PAIR, Pair, live_html
from .tabs.told import CANDIDATES, LastRun, finish, with_names

FRAME_SECONDS = 0.15  # a slow browser must keep time for its Stop button between pictures of the stream


@dataclass
class Run:
    """One running answer: its stop flag, and what it has so far."""

    flag: threading.Event
    last: Result | None = None
    stopped: str = "Stopped before the first token"
    cards: tuple[str | None, str | None] = (None, None)  # what they show where that is so

    def goes_on(self, last: Result | None) -> bool:
        """Take what there is so far; whether to go on."""
        self.last = last
        return not self.flag.is_set()


@dataclass
class Pace:
    """Which results are worth a picture: one each FRAME_SECONDS, the first token at once, what a stopped run ends with;
    none before the first token where the prompt is `known`."""

    run: Run
    known: bool
    shown: float = 0.0
    answering: bool = False

    def __call__(self, tokens: int) -> bool:
        now, begun, stopped = time.monotonic(), tokens > 0, self.run.flag.is_set()
        due = now - self.shown >= FRAME_SECONDS or begun > self.answering
        if stopped or not due or (self.known and not begun):
            return stopped
        self.shown, self.answering = now, begun
        return True


class Runs:
    """The running answer of each visitor's session, and what is to be said about one that was stopped."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._said: dict[str, tuple[str | None, ...]] = {}
        self._begun: Counter[str] = Counter()
        self._pairs: dict[str, Pair] = {}
        self._lock = threading.Lock()

    def start(self, session: str, pair: Pair | None = None) -> Run:
        """A run begins, of a pair of answers or of something else."""
        self.stop(session)  # one at a time: the later click counts
        with self._lock:
            if pair is not None:
                self._pairs[session] = pair
            self._said.pop(session, None)
            self._begun[session] += 1
            run = self._runs[session] = Run(threading.Event())
        return run

    def end(self, session: str, run: Run) -> None:
        note_result(run.last)
        if run.flag.is_set():
            note(outcome="stopped")
        with self._lock:
            if self._runs.get(session) is run:
                del self._runs[session]

    def stop(self, session: str) -> str | None:
        """Stop what runs in a session, within one token; a line that says what was stopped, None if nothing was.

        An answer that is complete stays so: then only its explanation is given up.
        """
        with self._lock:
            run = self._runs.get(session)
            if run is None:
                return None
            run.flag.set()
            line = run.stopped
            if run.last is not None:
                line = parts.progress_html(run.last, state="Done, not explained" if run.last.done else "Stopped")
            begun = run.last is not None and run.last.has_tokens
            self._said[session] = (line, *((None, None) if begun else run.cards))
        return line

    def last_word(self, session: str) -> tuple[str | None, ...]:
        """What is still to be said after a run's last picture, None where nothing is: that it was stopped, and both
        cards if they have no token."""
        with self._lock:
            return self._said.pop(session, (None, None, None))

    def begun(self, session: str) -> int:
        """How many runs a session has begun."""
        with self._lock:
            return self._begun[session]

    def pair(self, session: str) -> Pair | None:
        """The pair of which a session's last run is."""
        with self._lock:
            return self._pairs.get(session)

    def is_running(self, session: str) -> bool:
        with self._lock:
            return session in self._runs

    def forget(self, session: str) -> None:
        """The visitor has left: stop the work and keep nothing."""
        self.stop(session)
        self.last_word(session)
        with self._lock:
            del self._begun[session]
            self._pairs.pop(session, None)


@dataclass(frozen=True)
class Frame:
    """What the answer side shows next; None leaves a part as it is."""

    cards: tuple[str | None, str | None] = (None, None)
    table: str | None = None
    line: str | None = None
    message: str | None = None
    weights: str | None = None
    last: LastRun | None = None
    live: str | None = None
    result: Result | None = None


def note_result(result: Result | None) -> None:
    """Tell the log what ran: no text of the visitor's, unless it was started to be logged."""
    if result is None:
        return
    made = sum(len(view.token_ids) for answered in result.results for view in answered.views)
    methods = [answered.method for answered in result.results]
    note(methods=methods, prompt_tokens=len(result.prompt.token_ids), new_tokens=made)
    if result.request is not None:
        note(question=result.request.question, paraphrases=list(result.request.paraphrases))


class Remote:
    """The page's long work as calls that take and give plain data; None where they run as they are."""

    def __init__(self, lm: LanguageModel | Models, limits: Limits, gpu: Gpu) -> None:
        models = offered(lm)
        self.answers: Callable[..., Iterator[Frame]] | None = None
        self.ladder: Callable[..., Iterator[tuple[str | None, str, str]]] | None = None

        def frames(form: Form, pair: Pair) -> Iterator[Frame]:
            yield from _frames(models, limits, form, pair, Run(threading.Event()))

        def rungs(form: Form) -> Iterator[tuple[str | None, str, str]]:
            yield from _rungs(models, limits, form, Run(threading.Event()))

        if gpu.forks:
            self.answers, self.ladder = gpu.wrap(frames, _seconds), gpu.wrap(rungs, _seconds)


def _seconds(form: Form, pair: Pair | None = None) -> float:
    samples = (form.samples or 1) if form.by_confidence else 1
    return answer_seconds(form.max_new_tokens or 1, rows=len(form.wordings) * samples * max(1, len(form.methods)))


def answers(
    lm: LanguageModel | Models,
    limits: Limits,
    form: Form,
    run: Run,
    *,
    pair: Pair = PAIR,
    reading: Reading | None = None,
    remote: Callable[..., Iterator[Frame]] | None = None,
) -> Iterator[Frame]:
    """What is shown while a form runs: the answers as they grow, and at the end what explains them.

    The form names one of several models. `pair` are the schemes of the two cards; a prompt that `reading` holds is not
    read again. Ends within one token of the stop flag, whether or not anybody still takes what it yields, and when the
    time of a request is up; where a worker does it (`remote`), within one picture of the flag.
    """
    run.cards = compared.cards_html(form, pair, None, note="stopped")
    if remote is None:
        yield from _frames(offered(lm), limits, form, pair, run, reading=reading)
        return
    frames = remote(form, pair)
    for frame in frames:
        if not run.goes_on(frame.result or run.last):
            frames.close()
            return
        yield frame


def _frames(
    models: Models,
    limits: Limits,
    form: Form,
    pair: Pair,
    run: Run,
    *,
    reading: Reading | None = None,
) -> Iterator[Frame]:
    """The pictures of `answers`; ends within one token of the flag of `run`."""
    lm = models.of(form.model)
    last: Result | None = None

    def size() -> str:
        return f"{len(prompt.paraphrases)} wordings, {len(prompt.token_ids):,} tokens, {len(form.methods)} methods"

    def give_up() -> None:
        models.let_go()
        if reading is not None:
            reading.prefill = None

    try:
        prompt, until = compose(lm, limits, form), limits.until()
        options = {"schemes": pair.schemes, "reading": reading, "until": until, "check": checkpoint()}
        known = _only_decodes(form, prompt, reading)
        frames = stream(lm, form.request(mass=False, candidates=CANDIDATES), **options, wanted=Pace(run, known))
        if not known:  # else the answer follows at once: nothing is cleared
            cards = compared.cards_html(form, pair, None, note="reading the prompt")
            table = parts.table_html(form, None, pair.methods)
            yield Frame(cards, table, "Reading the prompt", "", parts.weights_html(None))
        with within_noted_memory(size, give_up=give_up):
            for last in frames:
                if not run.goes_on(last):
                    frames.close()
                    return
                yield _frame(form, pair, last)
            if last is not None and not last.done:
                yield _frame(form, pair, last, state="Stopped", why=limits.time_is_up())
            elif last is not None:
                try:
                    explained = finish(lm, form, last, until=until, check=checkpoint())
                except OutOfTime:
                    yield _frame(form, pair, last, state="Done, not explained", why=limits.time_is_up())
                    return
                except Interrupted as error:
                    note(outcome="stopped")
                    yield _frame(form, pair, last, state="Done, not explained", why=str(error))
                    return
                if run.goes_on(last):
                    yield Frame(last=explained, result=last)
    except InputError as error:
        note(outcome="refused", message=str(error))
        yield Frame(line="Not run", message=parts.alert_html(str(error)))


def has_read(lm: LanguageModel, limits: Limits, form: Form, reading: Reading) -> bool:
    """Whether `reading` holds a form's prompt and its weights are the visitor's: then only the decode is to be done."""
    try:
        return _only_decodes(form, compose(lm, limits, form), reading)
    except InputError:  # the redraw says why
        return False


def _only_decodes(form: Form, prompt: SegmentedPrompt, reading: Reading | None) -> bool:
    return not form.by_confidence and reading is not None and reading.known(prompt) is not None


def _frame(form: Form, pair: Pair, result: Result, *, state: str = "", why: str = "") -> Frame:
    """The answers so far, or at the end; `why` there are no more, where there was no time."""
    weights = parts.weights_html(with_names(form, result)) if result.done else None
    cards, table = compared.cards_html(form, pair, result), parts.table_html(form, result, pair.methods)
    line, message = parts.progress_html(result, state=state), parts.alert_html(why)
    return Frame(cards, table, line, message, weights, live=live_html(form, pair, result), result=result)


def ladder(
    lm: LanguageModel | Models,
    limits: Limits,
    form: Form,
    run: Run,
    *,
    reading: Reading | None = None,
    remote: Callable[..., Iterator[tuple[str | None, str, str]]] | None = None,
) -> Iterator[tuple[str | None, str, str]]:
    """The ladder as it grows: (table, status line, message). Ends as `answers` does."""
    run.stopped = "Ladder stopped"
    if remote is None:
        yield from _rungs(offered(lm), limits, form, run, reading=reading)
        return
    steps = remote(form)
    for step in steps:
        if run.flag.is_set():
            steps.close()
            return
        yield step


def _rungs(
    models: Models, limits: Limits, form: Form, run: Run, *, reading: Reading | None = None
) -> Iterator[tuple[str | None, str, str]]:
    lm, began = models.of(form.model), time.monotonic()
    result: Result | None = None
    try:
        compose(lm, limits, form)
        # The form's weights, mask and positions are no part of it, and what is read for it is not kept in their place.
        equal = {"methods": (STANDARD.strategy,), "weights": None, "mask": "segment", "positions": "aligned"}
        asked = {"schemes": LADDER, "until": limits.until(), "check": checkpoint()}
        asked |= {"reading": None if reading is None else replace(reading)}
        yield None, "Ladder: reading the prompt under three encodings", ""
        request = form.request(mass=False).model_copy(update=equal)
        steps = stream(lm, request, **asked, wanted=Pace(run, known=False))
        with within_noted_memory(give_up=models.let_go):
            for result in steps:
                if run.flag.is_set():
                    steps.close()
                    return
                if not result.done:
                    yield compared.ladder_html(form, result.sides), "Ladder: running", ""
        if result is None:
            return
        table, seconds = compared.ladder_html(form, result.sides), time.monotonic() - began
        if result.done:
            yield table, f"Ladder done: {len(result.sides)} answers, {seconds:.2f} s", ""
        else:
            yield table, "Ladder stopped", parts.alert_html(limits.time_is_up())
    except InputError as error:
        note(outcome="refused", message=str(error))
        yield None, "Not run", parts.alert_html(str(error))
