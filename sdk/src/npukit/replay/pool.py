"""Independent work side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from npukit.backend.ort import environment_threads

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


@contextmanager
def side_by_side(function: Callable[[_Task], _Result], tasks: Iterable[_Task], workers: int = 0) -> Iterator[Iterator[_Result]]:
    """The results of ``function`` for all tasks, in their order; ``workers`` run at a time.

    0 workers: as many as OMP_NUM_THREADS says, or one per processor (ONNX Runtime works outside of Python's lock). When the block
    is left early, tasks that have not begun are dropped.
    """
    with ThreadPoolExecutor(workers or environment_threads() or os.cpu_count() or 1) as pool:
        try:
            yield pool.map(function, tasks)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
