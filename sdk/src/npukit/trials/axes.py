"""Axes: what is tried in several ways, as data, and what a combination of them means."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs

from npukit.backend import Option, Port, Target, is_weight
from npukit.backend.ports import input_ports, output_ports
from npukit.calibration import Observer, all_observers, find_observer
from npukit.encoding import FLOAT_BITS, INT_BITS
from npukit.errors import UsageError, did_you_mean
from npukit.graph import Graph
from npukit.quantization import Options

Choices: TypeAlias = dict[str, str]
Over: TypeAlias = str | Sequence[str] | Mapping[str, Any]

SETTING = "set."
"""How the names of axes that are settings of the backend begin."""
_WIDEST = 16
_BIASES = ("int8", "int16", "int32")


@attrs.frozen
class Axis:
    """What is tried in several ways: ``values`` as ``--over NAME=VALUE,...`` takes them."""

    name: str
    values: tuple[str, ...]


@attrs.frozen(eq=False)
class _Place:
    """Where the sweep takes place: that decides which values there are. ``graph`` is prepared."""

    target: Target
    graph: Graph
    observers: tuple[Observer, ...]

    def types(self, wanted: Callable[[Port], bool]) -> set[str]:
        """The types that ops of this model take at such ports; all where a port takes any."""
        found: set[str] = set()
        for node in self.graph.nodes:
            for row in self.target.rules.of_op(node):
                for _, port in (*input_ports(node, row), *output_ports(node, row)):
                    found |= (port.dtypes or set(INT_BITS)) if wanted(port) else set()
        return found


@attrs.frozen(eq=False)
class _Kind:
    """One axis: the values it has at a place, the check of one, and what a value replaces in options."""

    every: Callable[[_Place], Iterable[str]]
    check: Callable[[str, _Place], object]
    fields: Callable[[str, Options], Mapping[str, Any]]
    taken: Callable[[Options], bool]


# ------------------------------------------------------------------------------------------------------- the axes, one by one


def _calibration(text: str, options: Options) -> dict[str, Any]:
    method, _, percentile = text.partition(":")
    return {"calibration": method} | ({"percentile": float(percentile)} if percentile else {})


def _check_calibration(text: str, place: _Place) -> None:
    method, colon, number = text.partition(":")
    find_observer(method, place.observers)
    if not colon:
        return
    if method != "percentile":
        raise UsageError(f"calibration method '{method}' takes no number, found '{text}'", hint="percentile:99.9 does")
    try:
        fine = 90 <= float(number) <= 100
    except ValueError:
        fine = False
    if not fine:
        raise UsageError(f"the percentile must lie in 90..100, found '{number}'")


def _one_of(what: str, known: Callable[[_Place], Iterable[str]]) -> Callable[[str, _Place], None]:
    def check(text: str, place: _Place) -> None:
        names = tuple(known(place))
        if text not in names:
            raise UsageError(f"{what}: there is no '{text}'", hint=did_you_mean(text, names))

    return check


def _schemas(place: _Place) -> tuple[str, ...]:
    return place.target.scheme.schemas


def _both(place: _Place) -> tuple[str, ...]:
    return ("false", "true")


def _types(name: str, every: Callable[[_Place], Iterable[str]]) -> _Kind:
    """An axis of types, which is a field of Options with the same name."""
    check = _one_of(name, lambda place: (*INT_BITS, *FLOAT_BITS))
    return _Kind(every, check, lambda text, options: {name: text}, lambda options: bool(getattr(options, name)))


def _activations(place: _Place) -> list[str]:
    """8 and 16 bits: fewer only when they are named."""
    found = place.types(lambda port: not (port.bias or port.derived or is_weight(port)))
    return [dtype for dtype, bits in INT_BITS.items() if dtype in found and 8 <= bits <= _WIDEST]


def _weights(place: _Place) -> list[str]:
    found = place.types(lambda port: is_weight(port) and not port.derived)
    return [dtype for dtype, bits in INT_BITS.items() if dtype in found and bits <= _WIDEST]


def _biases(place: _Place) -> list[str]:
    found = place.types(lambda port: port.bias or port.derived)
    return [dtype for dtype in _BIASES if dtype in found]


def _methods(place: _Place) -> list[str]:
    here = ("", place.target.backend.name)
    return [observer.name for observer in all_observers(place.observers) if observer.backend in here]


KINDS: Mapping[str, _Kind] = {
    "calibration": _Kind(
        _methods,
        _check_calibration,
        _calibration,
        lambda options: options.calibration != Options().calibration,
    ),
    "schema": _Kind(
        _schemas,
        _one_of("schema", _schemas),
        lambda text, options: {"scheme": {**options.scheme, "activations": text}},
        lambda options: "activations" in options.scheme,
    ),
    "activations": _types("activations", _activations),
    "weights": _types("weights", _weights),
    "bias": _types("bias", _biases),
    "per-channel": _Kind(
        _both,
        _one_of("per-channel", _both),
        lambda text, options: {"per_channel": text == "true"},
        lambda options: options.per_channel is not None,
    ),
}


# ----------------------------------------------------------------------------------------------------------------- reading


def read_axes(over: Over, options: Options, target: Target, graph: Graph, observers: Iterable[Observer]) -> tuple[Axis, ...]:
    """The axes that ``over`` names, with their values: those given, else all that make sense for the target and the graph.

    Raises UsageError for an axis or a value that is unknown, named twice, or decided by ``options`` or a setting already.
    """
    place = _Place(target, graph, tuple(observers))
    settings = {SETTING + option.name: option for option in target.backend.options()}
    found: dict[str, Axis] = {}
    for name, given in _pairs(over):
        if name in found:
            raise UsageError(f"axis '{name}' is named twice", hint=f"--over {name}=VALUE,VALUE")
        if name not in KINDS and name not in settings:
            raise UsageError(f"there is no axis '{name}'", hint=did_you_mean(name, (*KINDS, *settings)))
        if name in settings:
            taken, values = settings[name].name in target.given, _setting(settings[name], given, target)
        else:
            taken, values = KINDS[name].taken(options), tuple(given) or tuple(KINDS[name].every(place))
            for value in values:
                KINDS[name].check(value, place)
        if taken:
            raise UsageError(
                f"'{name}' is an axis of the sweep and given by a flag or option as well", hint="leave one of them out"
            )
        if not values:
            raise UsageError(f"{target.name} has no values for axis '{name}' in this model", hint=f"--over {name}=VALUE,VALUE")
        found[name] = Axis(name, tuple(dict.fromkeys(values)))
    if not found:
        raise UsageError("a sweep goes over at least one axis", hint=f"--over {','.join(KINDS)}")
    return tuple(found.values())


def _setting(option: Option, given: Sequence[str], target: Target) -> tuple[str, ...]:
    every = option.choices or ((False, True) if option.type is bool else ())
    if not given and not every:
        hint = f"--over {SETTING}{option.name}=VALUE,VALUE"
        raise UsageError(f"setting '{option.name}' of {target.name} has no list of values to go over", hint=hint)
    return tuple(_text(option.read(value, target.name)) for value in given or every)


def _pairs(over: Over) -> list[tuple[str, tuple[str, ...]]]:
    """Names of axes and their values, () for all of them."""
    if isinstance(over, Mapping):
        return [(name, _texts(values)) for name, values in over.items()]
    return [pair for word in ([over] if isinstance(over, str) else over) for pair in _split(word)]


def _split(word: str) -> list[tuple[str, tuple[str, ...]]]:
    """ "a,b=1,2,c=3" is a with all values, b with 1 and 2, c with 3."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for part in filter(None, (part.strip() for part in word.split(","))):
        name, equals, value = part.partition("=")
        if equals or part in KINDS or part.startswith(SETTING) or not found or not found[-1][1]:
            found.append((name.strip(), (value.strip(),) if equals else ()))
        else:
            found[-1] = (found[-1][0], (*found[-1][1], part))
    return found


def _texts(values: Any) -> tuple[str, ...]:
    several = isinstance(values, Iterable) and not isinstance(values, str)
    return tuple(map(_text, values)) if several else (_text(values),)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# ------------------------------------------------------------------------------------------------------------ combinations


def combinations(axes: Iterable[Axis]) -> list[Choices]:
    """All of them, the last axis changing fastest."""
    axes = tuple(axes)
    return [dict(zip((a.name for a in axes), values, strict=True)) for values in itertools.product(*(a.values for a in axes))]


def applied(choices: Choices, options: Options, target: Target) -> tuple[Options, Target]:
    """The options and the target of a combination. Raises UsageError for options that exclude one another."""
    settings = {name.removeprefix(SETTING): value for name, value in choices.items() if name.startswith(SETTING)}
    for name, value in choices.items():
        if name in KINDS:
            options = attrs.evolve(options, **KINDS[name].fields(value, options))
    return options, target.with_settings(settings) if settings else target
