"""Names of what stays on the card between two inferences: the output X_RetainedState is what the input X is next time."""

from __future__ import annotations

from collections.abc import Collection

SUFFIXES = ("_RetainedState", "_InternalRetainedState")
"""How such outputs end."""


def state_of(output: str) -> str:
    """What stays on the card by the name of an output; "" when nothing does."""
    suffix = next((suffix for suffix in SUFFIXES if output.endswith(suffix)), None)
    return output.removesuffix(suffix) if suffix else ""


def input_of(output: str, inputs: Collection[str]) -> str | None:
    """The input that an output of such a name is for. The path that a name begins with may be missing in one of the two."""
    state = state_of(output)
    if state in inputs:
        return state
    _, path, end = state.rpartition("/")
    if path:
        return end if end in inputs else None
    return next((name for name in inputs if state and name.endswith(f"/{state}")), None)
