"""Names of what stays on the card between two inferences: the output X_RetainedState is what the input X is next time."""

from __future__ import annotations

from collections.abc import Iterable

SUFFIXES = ("_RetainedState", "_InternalRetainedState")
"""How such outputs end; of two for one input the first suffix counts."""


def state_of(output: str) -> str:
    """What stays on the card by the name of an output; "" when nothing does."""
    suffix = next((suffix for suffix in SUFFIXES if output.endswith(suffix)), None)
    return output.removesuffix(suffix) if suffix else ""


def input_of(output: str, inputs: Iterable[str]) -> str | None:
    """The input that an output of such a name is for. The path that a name begins with may be there in one of the two alone."""
    names = list(inputs)
    known = {name.rpartition("/")[2]: name for name in names} | {name: name for name in names}
    state = state_of(output)
    return known.get(state) or known.get(state.rpartition("/")[2])
