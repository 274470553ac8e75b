"""qaic-model-configurator: the best options for a model on a card, by modelled speed.

All combinations are looked at, which takes no card and a moment. CONFIG is JSON. Its axes are lists or single values: "cores",
"mos" (default: cores), "ols", "batch", "instances", "set-size"; "objective" is max-throughput or min-latency; "options" are other
options of the compiler by the names of qaic.Session's keywords. The first value of each axis is the initial configuration.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from npukit import report
from npukit.errors import UsageError, did_you_mean
from npukit.graph import load
from npukit.package import Package
from npukit_aic import cards, options
from npukit_aic.compiler import compile_model
from npukit_aic.qpc import write_qpc
from npukit_aic.speed import Estimate, card_of, model_of_package, read_plan, solve
from npukit_aic.tools.edge import MILLI, Parser, guarded, number, say

NAME = "qaic-model-configurator"
OBJECTIVES = ("max-throughput", "min-latency")
_CORES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
_AXES: Mapping[str, tuple[int | None, ...]] = {
    "cores": _CORES,
    "mos": (None,),
    "ols": (1, 2, 3, 4),
    "batch": (1, 2, 4, 8, 16),
    "instances": _CORES,
    "set-size": (10,),
}
"""The axes, and the values that are tried when CONFIG has none; None is the default of the compiler."""


@attrs.frozen
class Choice:
    """One configuration; the cores are those of an instance, ``mos`` None stands for all of them."""

    cores: int
    mos: int | None
    ols: int
    batch: int | None
    instances: int
    set_size: int

    @property
    def options(self) -> dict[str, Any]:
        """It as options by the names of qaic.Session's keywords."""
        sizes = {"aic_num_cores": self.cores, "ols": self.ols, "num_activations": self.instances, "set_size": self.set_size}
        return sizes if self.mos is None else {**sizes, "mos": (self.mos,)}

    @property
    def folder(self) -> str:
        """The name of its QPC folder."""
        mos = self.cores if self.mos is None else self.mos
        batch = "" if self.batch is None else f"_batch{self.batch}"
        return f"qpc_cores{self.cores}_mos{mos}_ols{self.ols}{batch}_instances{self.instances}_setsize{self.set_size}"


@attrs.frozen
class Found:
    """A configuration and its modelled speed."""

    choice: Choice
    speed: Estimate


@attrs.frozen(eq=False)
class _Task:
    """A model, the options that are fixed, the symbol of its batch (None: it has no open one), and the axes."""

    model: Path
    given: Mapping[str, Any]
    symbol: str | None
    axes: Mapping[str, Sequence[Any]]
    objective: str

    def package(self, choice: Choice, note: Callable[[str], None]) -> Package:
        """The model compiled for one configuration; ``note`` hears of what the compiler warns of."""
        symbols = dict(self.given.get("onnx_define_symbol") or {})
        if self.symbol is not None and choice.batch is not None:
            symbols[self.symbol] = choice.batch
        values = options.read({**self.given, **choice.options, "onnx_define_symbol": symbols}, where=NAME)
        return compile_model(self.model, values, card=cards.info(0).soc.name, note=note)

    def cost(self, found: Found) -> tuple[float, float]:
        """What is made as small as possible; of equals the one that is better in the other objective."""
        rate, latency = -found.speed.rate, found.speed.latency
        return (rate, latency) if self.objective == OBJECTIVES[0] else (latency, rate)

    def shown(self, found: Found) -> str:
        """The objective's value, in words."""
        speed = found.speed
        return f"{speed.rate:.1f} inferences/s" if self.objective == OBJECTIVES[0] else f"{speed.latency * MILLI:.3f} ms"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool and return its exit code."""
    return guarded(NAME, _run, argv)


def _run(words: Sequence[str]) -> int:
    parser = Parser(NAME, __doc__)
    parser.add_argument("-m", "--model", required=True, metavar="ONNX", help="the model")
    parser.add_argument("-c", "--config", metavar="CONFIG", help="JSON file, see above (default: all axes, max-throughput)")
    parser.add_argument("-o", "--output-dir", metavar="DIR", help="write the QPC of the best into a folder named by its values")
    parser.add_argument("--top", type=number(1), default=10, metavar="N", help="how many to list (default: 10)")
    args = parser.read(words)
    task = _task(Path(args.model), Path(args.config) if args.config else None)
    found, refused = search(task)
    best = min(found, key=task.cost).choice
    text = _text(task, found, refused, args.top)
    if args.output_dir:
        text += f"\nQPC of the best: {write_qpc(task.package(best, say), Path(args.output_dir) / best.folder)}"
    print(text)
    return 0


def _task(model: Path, config: Path | None) -> _Task:
    document = _document(config)
    for key in document:
        if key not in (*_AXES, "objective", "options"):
            hint = did_you_mean(key, [*_AXES, "objective", "options"])
            raise UsageError(f"config '{config}' has the unknown key '{key}'", hint=hint)
    objective = document.get("objective", OBJECTIVES[0])
    if objective not in OBJECTIVES:
        raise UsageError(f"config '{config}': objective is {objective!r}", hint=f"one of {' and '.join(OBJECTIVES)}")
    chosen = document.get("options") or {}
    if not isinstance(chosen, dict):
        raise UsageError(f"config '{config}': options is {chosen!r}, not an object of options and values")
    given = options.given_values(chosen, where=f"config '{config}'", strict=True)
    graph = load(model)
    first = (graph.tensor(graph.inputs[0]).shape or ())[:1] if graph.inputs else ()
    symbol = next((d for d in first if isinstance(d, str) and d not in given.get("onnx_define_symbol", {})), None)
    axes = {name: _axis(document, name, f"config '{config}'") for name in _AXES}
    if symbol is None:
        if "batch" in document:
            raise UsageError(f"config '{config}': the batch of '{model}' is fixed", hint="leave 'batch' out")
        axes["batch"] = (None,)
    if "set-size" not in document and objective == OBJECTIVES[1]:
        axes["set-size"] = (1,)
    return _Task(model, given, symbol, axes, objective)


def _document(config: Path | None) -> Mapping[str, Any]:
    if config is None:
        return {}
    try:
        found = json.loads(config.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read config '{config}': {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"config '{config}' is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"config '{config}' is no object", hint=f"its keys are {', '.join(_AXES)}, objective, options")
    return found


def _axis(document: Mapping[str, Any], name: str, where: str) -> Sequence[int | None]:
    if name not in document:
        return _AXES[name]
    values = document[name] if isinstance(document[name], list) else [document[name]]
    if not values or not all(type(value) is int and value >= 1 for value in values):
        raise UsageError(f"{where}: '{name}' is a whole number from 1 on or a list of them, found {document[name]!r}")
    return list(dict.fromkeys(values))


def search(task: _Task) -> tuple[list[Found], int]:
    """All configurations that the card can take, in the order of the axes, and how many it cannot take.

    Raises UsageError when it can take none.
    """
    card = card_of(cards.info(0).soc)
    models = {batch: model_of_package(task.package(Choice(1, None, 1, batch, 1, 1), _silent)) for batch in task.axes["batch"]}
    found, refused, reason = [], 0, ""
    for values in itertools.product(*(task.axes[name] for name in _AXES)):
        choice = Choice(*values)
        try:
            plan = read_plan({**task.given, **choice.options}, card.cores)
        except UsageError as error:
            refused, reason = refused + 1, error.message
        else:
            found.append(Found(choice, solve(models[choice.batch], card, plan)))
    if not found:
        raise UsageError(f"no configuration fits the card: {reason}")
    return found, refused


def _cells(found: Found) -> tuple[Any, ...]:
    plan, speed = found.speed.plan, found.speed
    sizes = (plan.cores, plan.mos, plan.ols, speed.batch, plan.activations, plan.set_size)
    return (*sizes, f"{speed.rate:.1f}", f"{speed.latency * MILLI:.3f}", speed.bound)


def _silent(text: str) -> None:
    """What is compiled to be looked at is not spoken of."""


def _text(task: _Task, found: Sequence[Found], refused: int, top: int) -> str:
    """The result, the initial configuration beside the best, and a table of the best ones."""
    ranked = sorted(found, key=task.cost)
    rows = [(rank, *_cells(one)) for rank, one in enumerate(ranked[:top], 1)]
    lines = [
        f"Status: done, {len(found)} configurations modelled, {refused} that the card cannot take",
        f"Objective: {task.objective}",
        f"Initial value: {task.shown(found[0])} ({found[0].choice.folder})",
        f"Best value: {task.shown(ranked[0])} ({ranked[0].choice.folder})",
        report.table(("Rank", "Cores", "Mos", "Ols", "Batch", "Instances", "Set size", "Inf/s", "Latency ms", "Bound"), rows),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
