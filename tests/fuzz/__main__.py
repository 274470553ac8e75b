"""``python -m tests.fuzz --count N``: N damaged files for all readers. Exit code 1 when one of them broke a promise."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from .commands import COMMANDS, schedule
from .engine import Finding, Fuzzer, corpus_in, damaged_inputs
from .readers import READERS

parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
parser.add_argument("--count", type=int, default=20_000, metavar="N", help="how many inputs (default: 20000)")
parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed; input i has seed N + i")
parser.add_argument("--minutes", type=float, default=float("inf"), metavar="M", help="begin no more inputs after M minutes")
parser.add_argument("--commands", type=float, default=0.01, metavar="S", help="share that goes through commands (default: 0.01)")
parser.add_argument("--reader", metavar="NAME", help="this reader only")
parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write the file of the first finding of each kind there")
parser.add_argument("--undamaged", action="store_true", help="the corpus as it is, which every reader has to accept")
parser.add_argument("--files", type=Path, metavar="FOLDER", help="files that were kept, READER--WHAT.SUFFIX")
args = parser.parse_args()

readers, shares = (*READERS, *COMMANDS), schedule(share=args.commands)
if args.reader:
    readers = tuple(reader for reader in readers if reader.name == args.reader) or parser.error(f"no reader '{args.reader}'")
    shares = [1.0] * len(readers)

begin = time.time()
with tempfile.TemporaryDirectory() as place:
    folder = Path(place)
    corpus_in(folder)
    make, seeds = damaged_inputs(readers, shares, folder), range(args.seed, args.seed + args.count)
    if args.undamaged or args.files:
        by_name = {reader.name: reader for reader in readers}
        chosen = (
            [(by_name[path.name.partition("--")[0]], path) for path in sorted(args.files.iterdir())]
            if args.files
            else [(reader, path) for reader in READERS for path in sorted((folder / reader.folder).iterdir())]
        )
        inputs = [(reader, path.suffix, path.read_bytes()) for reader, path in chosen]
        make, seeds = inputs.__getitem__, range(len(inputs))
    seen: set[tuple[str, str]] = set()

    def show(finding: Finding) -> None:
        """The first finding of its kind: same reader, same place."""
        kind = finding.reader, finding.problem.rpartition("[")[2]
        if kind in seen:
            return
        seen.add(kind)
        print(f"{finding.reader}, seed {finding.seed}: {finding.problem}", flush=True)
        if args.keep:
            _, suffix, data = make(finding.seed)
            args.keep.mkdir(parents=True, exist_ok=True)
            (args.keep / f"{finding.reader}--{finding.seed}{suffix}").write_bytes(data)

    tally = Fuzzer(make, folder).run(seeds, show, begin + 60 * args.minutes)

print(f"{'reader':<28}{'inputs':>10}{'accepted':>10}{'refused':>10}{'slowest':>12}")
for name in (reader.name for reader in readers):
    accepted, refused = tally.accepted[name], tally.refused[name]
    total = accepted + refused + sum(finding.reader == name for finding in tally.findings)
    print(f"{name:<28}{total:>10}{accepted:>10}{refused:>10}{tally.slowest.get(name, 0):>9.0f} ms")
print(f"{tally.count} inputs, seeds {seeds.start}..{seeds.start + tally.count - 1}, {time.time() - begin:.0f} s: ", end="")
print(f"{len(tally.findings)} findings of {len(seen)} kinds")
raise SystemExit(bool(tally.findings or (args.undamaged and tally.refused)))
