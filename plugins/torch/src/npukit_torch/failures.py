"""What an exception of torch says, and the module that it is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from traceback import walk_tb
from typing import Any

from npukit.errors import one_line
from npukit_torch.names import module_of


def reason(error: BaseException) -> str:
    """The first paragraph of what the innermost cause of an exception says, on one line."""
    *_, cause = _chain(error)
    return one_line(RuntimeError(str(cause).strip().partition("\n\n")[0] or type(cause).__name__))


def culprit(error: BaseException, module: Any = None) -> str:
    """ "module 'layers.0'" for the innermost module that was at work when an exception was raised, else "the module".

    ``module`` is the outermost one, None for an exported program: there the exporter was at a node, which knows its module.
    """
    paths = {} if module is None else {id(part): path for path, part in module.named_modules()}
    found = ""
    for names in _frames(_chain(error)):
        found = paths.get(id(names.get("self")), "") or found
        node = names.get("node")
        if hasattr(node, "meta") and hasattr(node, "users"):
            found = module_of(node) or found
    return f"module '{found}'" if found else "the module"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, then what it was raised from."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _frames(errors: Iterable[BaseException]) -> Iterator[Mapping[str, Any]]:
    """The local variables of all frames that exceptions came through, the outermost first."""
    for error in errors:
        for frame, _ in walk_tb(error.__traceback__):
            yield frame.f_locals
