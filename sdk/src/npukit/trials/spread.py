"""Trying all combinations: in this process, or spread over others by joblib."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs

from npukit.backend import Soc, Target
from npukit.calibration import Profile
from npukit.callbacks import load_function
from npukit.errors import PluginError, UsageError, one_line
from npukit.events import Event, OnEvent
from npukit.package import Manifest, Package, read_package, write_package
from npukit.plugins import Registry
from npukit.quantization import Options, Source
from npukit.trials.axes import Choices
from npukit.trials.trial import Evaluator, Stand, SweepRow

_MODEL, _PROFILE = "model.dlc", "profile.npz"
_DEFAULT = "loky"
_NEEDED = {"dask": ("distributed",), "ray": ("ray",)}
"""What joblib's backends of other packages need; both must be told of before joblib knows them."""


def check_joblib(jobs: int, backend: str) -> None:
    """Raise UsageError for what cannot spread work, PluginError for what is not installed: before anything is computed."""
    if jobs < 1:
        raise UsageError(f"a sweep has 1 job or more, found {jobs}")
    if jobs == 1:
        if backend:
            raise UsageError(f"joblib backend '{backend}' has no effect with one job", hint="--jobs N")
        return
    for package in ("joblib", *_NEEDED.get(backend, ())):
        if find_spec(package) is None:
            hint = 'pip install "npukit[sweep]"' if package == "joblib" else f"pip install {package}"
            raise PluginError(f"{jobs} jobs on {backend or 'joblib'} need {package}, which is not installed", hint=hint)
    if backend not in _NEEDED:
        import joblib

        try:
            with joblib.parallel_config(backend=backend or _DEFAULT):
                pass
        except ValueError as error:
            raise UsageError(f"joblib has no backend '{backend}': {one_line(error)}", hint="or dask, ray") from None


def try_all(
    stand: Stand, combinations: Sequence[Choices], evaluate: str | Evaluator | None, jobs: int, backend: str, on_event: OnEvent
) -> list[SweepRow]:
    """The rows of all combinations, in their order. ``evaluate`` is the evaluator as the user named it."""
    numbered = list(enumerate(combinations, 1))
    found: list[SweepRow] = []
    on_event(Event("sweep", 0, len(numbered)))
    for row in _spread(stand, numbered, evaluate, jobs, backend) if jobs > 1 else (stand.row(*item) for item in numbered):
        found.append(row)
        on_event(Event("sweep", len(found), len(numbered)))
    return sorted(found, key=lambda row: row.number)


def _spread(
    stand: Stand, numbered: Iterable[tuple[int, Choices]], evaluate: str | Evaluator | None, jobs: int, backend: str
) -> Iterator[SweepRow]:
    """The rows as they get ready; of a joblib backend that tells nothing before its end, then."""
    import joblib

    parcel = Parcel.of(stand, evaluate)
    with _cluster(backend, jobs):
        with joblib.parallel_config(backend=backend or _DEFAULT, n_jobs=jobs):
            parallel = _parallel()
        yield from parallel(joblib.delayed(_row)(parcel, number, choices) for number, choices in numbered)


def _parallel() -> Any:
    """joblib's Parallel as it is configured; it gives results as they get ready where the backend can."""
    import joblib

    try:
        return joblib.Parallel(return_as="generator_unordered")
    except ValueError:
        return joblib.Parallel()


@contextmanager
def _cluster(backend: str, jobs: int) -> Iterator[None]:
    """What a backend of joblib needs around it: the client of dask, which is that of DASK_SCHEDULER_ADDRESS, else a local one with
    ``jobs`` workers; the registration of ray."""
    around: AbstractContextManager[Any] = nullcontext()
    if backend == "ray":
        from ray.util.joblib import register_ray

        register_ray()
    elif backend == "dask":
        import dask
        from distributed import Client

        place = dask.config.get("scheduler-address", None)
        around = Client(place) if place else Client(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
    with around:
        yield


@attrs.frozen
class Parcel:
    """A stand as other processes get it: names, and ``folder``, which they read too. Model and profile lie in there."""

    folder: Path
    source: Mapping[str, Any] = attrs.field(eq=False)
    backend: str = attrs.field(eq=False)
    soc: Soc = attrs.field(eq=False)
    settings: Mapping[str, Any] = attrs.field(eq=False)
    options: Options = attrs.field(eq=False)
    evaluate: str | Evaluator | None = attrs.field(eq=False)
    plugins: tuple[str, ...] = attrs.field(eq=False)

    @classmethod
    def of(cls, stand: Stand, evaluate: str | Evaluator | None) -> Parcel:
        write_package(Package(Manifest(), stand.source.graph, {}), stand.folder / _MODEL)
        stand.profile.save(stand.folder / _PROFILE)
        rest = {field.name: getattr(stand.source, field.name) for field in attrs.fields(Source) if field.name != "graph"}
        files = tuple(s.distribution for s in stand.registry.statuses() if Path(s.distribution).suffix == ".py")
        target = stand.target
        plugins = tuple(str(Path(file).resolve()) for file in files)
        return cls(stand.folder, rest, target.backend.name, target.soc, target.given, stand.options, evaluate, plugins)


def _row(parcel: Parcel, number: int, choices: Choices) -> SweepRow:
    return _opened(parcel).row(number, choices)


@lru_cache(maxsize=1)
def _opened(parcel: Parcel) -> Stand:
    """The stand of a parcel, once per process."""
    registry = Registry.load(parcel.plugins)
    backend, _ = registry.resolve(parcel.backend)
    target = Target.of(backend, parcel.soc, registry.planner(backend), parcel.settings)
    source = Source(read_package(parcel.folder / _MODEL).graph, **parcel.source)
    return Stand(
        parcel.folder,
        source,
        target,
        parcel.options,
        Profile.load(parcel.folder / _PROFILE),
        read_evaluator(parcel.evaluate),
        registry,
    )


def read_evaluator(evaluate: str | Evaluator | None) -> Evaluator | None:
    """The function that is meant. Raises UsageError when a text names none."""
    return load_function(evaluate, "--evaluate") if isinstance(evaluate, str) else evaluate
