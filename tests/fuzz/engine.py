"""Many damaged files in child processes that may hang, run out of memory or die, and what came of each."""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import TypeAlias

import attrs

from npukit.errors import NpukitError, one_line

from . import corpus
from .damage import Original, damaged
from .readers import COMMON, Reader, quiet

Input: TypeAlias = tuple[Reader, str, bytes]
SECONDS, MEMORY = 20, 2 << 30
_CHUNK = 1000


@attrs.frozen
class Finding:
    """An input that broke a promise: the reader, the seed that makes the file, and what happened."""

    reader: str
    seed: int
    problem: str


@attrs.define
class Tally:
    """What came of the inputs: by reader how many were accepted and refused, and the longest time in ms; the findings."""

    accepted: Counter[str] = attrs.field(factory=Counter)
    refused: Counter[str] = attrs.field(factory=Counter)
    slowest: dict[str, float] = attrs.field(factory=dict)
    findings: list[Finding] = attrs.field(factory=list)

    @property
    def count(self) -> int:
        return self.accepted.total() + self.refused.total() + len(self.findings)


class HangError(BaseException):
    """A reader took too long; no reader can catch it by mistake."""


def damaged_inputs(readers: Sequence[Reader], shares: Sequence[float], folder: Path) -> Callable[[int], Input]:
    """A damaged file of the corpus in ``folder`` for every seed; ``shares`` says how often each reader has its turn."""
    originals = {
        name: [Original.of(file.suffix, file.read_bytes()) for file in sorted((folder / name).iterdir())]
        for name in {reader.folder for reader in readers}
    }

    def make(seed: int) -> Input:
        random = Random(seed)
        (reader,) = random.choices(readers, shares)
        return reader, *damaged(random, originals[reader.folder])

    return make


def corpus_in(folder: Path) -> None:
    """Make the corpus, in a process of its own: this one stays free of threads, so that it may fork."""
    child = os.fork()
    if not child:
        _leave(lambda: corpus.make(folder))
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the corpus could not be made")


@attrs.frozen(eq=False)
class Fuzzer:
    """Tries inputs by their numbers; ``folder`` is the corpus. A reader may take ``seconds``, and ``grace`` more until it is
    killed: for what hangs outside of Python."""

    input: Callable[[int], Input]
    folder: Path
    seconds: float = SECONDS
    grace: float = 10

    def run(self, seeds: range, on_finding: Callable[[Finding], None], until: float = float("inf")) -> Tally:
        """Try all seeds, or as many as are begun before ``until`` (of time.time())."""
        tally, at = Tally(), seeds.start
        while at < seeds.stop and time.time() < until:
            at = self._chunk(range(at, min(at + _CHUNK, seeds.stop)), tally, on_finding)
        return tally

    def _chunk(self, seeds: range, tally: Tally, on_finding: Callable[[Finding], None]) -> int:
        """Try seeds in one child; the first one that was not tried."""
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            os.close(ours)
            _leave(lambda: self._work(seeds, theirs))
        os.close(theirs)
        at = seeds.start

        def found(problem: str) -> None:
            finding = Finding(self.input(at)[0].name, at, problem)
            tally.findings.append(finding)
            on_finding(finding)

        with open(ours, "rb", buffering=0) as pipe:
            rest = b""
            while True:
                ready = select.select([pipe], [], [], self.seconds + self.grace)[0]
                piece = pipe.read(1 << 16) if ready else b""
                if not piece:
                    break
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    name, outcome, ms = line.decode("utf-8", "replace").split("\t")
                    tally.slowest[name] = max(tally.slowest.get(name, 0.0), float(ms))
                    if outcome == "accepted":
                        tally.accepted[name] += 1
                    elif outcome == "refused":
                        tally.refused[name] += 1
                    else:
                        found(outcome)
                    at += 1
        if not ready:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if at < seeds.stop:
            found(
                f"hangs outside of Python, over {self.seconds + self.grace:g} s"
                if not ready
                else f"the process ended with status {status}"
            )
            at += 1
        return at

    def _work(self, seeds: range, pipe: int) -> None:
        with tempfile.TemporaryDirectory(dir=_fast()) as place:
            folder = Path(place)
            shutil.copytree(self.folder / COMMON, folder, dirs_exist_ok=True)
            with guarded():
                for seed in seeds:
                    reader, suffix, data = self.input(seed)
                    begin = time.perf_counter()
                    outcome = attempt(reader, suffix, data, folder, self.seconds)
                    ms = 1000 * (time.perf_counter() - begin)
                    os.write(pipe, f"{reader.name}\t{' '.join(outcome.split())}\t{ms:.1f}\n".encode("utf-8", "replace"))


class guarded:  # noqa: N801  (used as a function)
    """No more than MEMORY on top of what there is, and an alarm that ends what takes too long."""

    def __enter__(self) -> None:
        quiet()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, self._before[1]))
        self._handler = signal.signal(signal.SIGALRM, _ring)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGALRM, self._handler)
        resource.setrlimit(resource.RLIMIT_AS, self._before)


def attempt(reader: Reader, suffix: str, data: bytes, folder: Path, seconds: float) -> str:
    """What comes of one file: "accepted", "refused", or the promise that was broken. ``folder`` is left as it was."""
    path = folder / f"input{suffix}"
    path.write_bytes(data)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        reader.read(path)
        return "accepted"
    except NpukitError as error:
        return _refusal(error)
    except HangError:
        return f"takes over {seconds:g} s in {_place(traceback.format_exc())}"
    except BaseException as error:
        return f"{type(error).__name__}: {one_line(error)} [{_place(traceback.format_exc())}]"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        path.unlink(missing_ok=True)


def _refusal(error: NpukitError) -> str:
    """A refusal is no finding, unless memory ran out before it."""
    cause: BaseException | None = error
    while cause is not None:
        trace = "".join(traceback.format_tb(cause.__traceback__))
        # Python's own parser, which numpy reads headers with, has no other word for what is nested too deep.
        if isinstance(cause, MemoryError) and "ast.py" not in trace:
            return f"wants over {MEMORY >> 30} GB: {one_line(cause)} [{_place(trace)}]"
        cause = cause.__cause__ or cause.__context__
    return "refused"


def _place(trace: str) -> str:
    """Where a traceback ends: the last two places of npukit, then the last of all."""
    lines = [line.strip().removeprefix("File ") for line in trace.splitlines() if line.lstrip().startswith('File "')]
    own = [line for line in lines if "npukit" in line]
    shown = [*own[-2:], *(lines[-1:] if lines[-1:] != own[-1:] else [])]
    return " <- ".join(line.replace('"', "").rpartition("/src/")[2] for line in reversed(shown))


def _ring(*_: object) -> None:
    raise HangError


def _fast() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _leave(work: Callable[[], None]) -> None:
    """Do some work as the last thing of a forked process."""
    code = 1
    try:
        quiet()
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
