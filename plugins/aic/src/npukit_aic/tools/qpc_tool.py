"""qaic-qpc: what a compiled model (programqpc.bin) needs."""

from __future__ import annotations

from collections.abc import Sequence

from npukit_aic.qpc import read_qpc
from npukit_aic.tools.edge import Parser, guarded

NAME = "qaic-qpc"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool and return its exit code."""
    return guarded(NAME, _run, argv)


def _run(words: Sequence[str]) -> int:
    parser = Parser(NAME, __doc__)
    parser.add_argument("verb", choices=["validate"], help="read the whole file and say how many cores it needs")
    parser.add_argument("-i", "--input", required=True, metavar="PATH", help="programqpc.bin, or its folder")
    args = parser.read(words)
    cores = read_qpc(args.input).options["aic_num_cores"]
    print(f"Number of NSP required: {cores}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
