"""The ``npukit`` command: parse, call the public API, print.

stdout carries the result (text, or JSON with ``--json``), stderr the progress and the errors. Exit codes: 0 fine, 1 the model,
its data or its accuracy has problems, 2 usage or environment, 3 a bug, 130 interrupted. Nothing heavy is imported before a
command runs, so ``npukit --help`` is quick.
"""

from npukit.cli.main import main

__all__ = ["main"]
