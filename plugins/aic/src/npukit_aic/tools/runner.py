"""qaic-runner: run a compiled model on raw files or random data, and say how fast a card would be.

Outputs are computed by the emulator. Rates and times are those of a model of the card, never measurements: nothing waits for
--time, and inferences with the same inputs are computed once.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import attrs

from npukit.errors import UsageError
from npukit.graph import write_atomic
from npukit_aic import cards
from npukit_aic.loaded import Loaded
from npukit_aic.qpc import Qpc, read_qpc
from npukit_aic.speed import Estimate, estimate_package
from npukit_aic.tools import batch, profiling
from npukit_aic.tools.edge import MICRO, Parser, guarded, number

NAME = "qaic-runner"
_RUNS = 40
_TYPES = ("stats", "trace", "latency", "stats_stream", "trace_stream", "latency_stream")
_MEBIBYTE = 1 << 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool and return its exit code."""
    return guarded(NAME, _run, argv)


def _parser() -> Parser:
    parser = Parser(NAME, __doc__)
    add, count, natural = parser.add_argument, number(1), number(0)
    add("-t", "--test-data", required=True, metavar="DIR", help="folder with programqpc.bin")
    add("-d", "--aic-device-id", type=natural, metavar="N", help="card (default: the first with enough free cores)")
    add("-D", "--aic-device-map", metavar="LIST", help="cards of a model on several of them, as in 0:1")
    add("-a", "--num-activations", type=count, default=1, metavar="N", help="copies of the model, which take turns (default: 1)")
    add("-n", "--num-iter", type=count, metavar="N", help=f"inferences (default: {_RUNS}, and at least all inputs)")
    add("--time", type=_positive, metavar="SECONDS", help="as many inferences as the card makes in this time")
    add("-S", "--set-size", type=count, metavar="N", help="inferences in flight per copy (default: that of the QPC, 10)")
    add("-T", "--num-threads", type=count, default=4, metavar="N", help="threads of the host that compute (default: 4)")
    add("-l", "--live-reporting", action="store_true", help="a line per computed inference")
    add("-v", "--verbose", action="store_true", help="say what the inputs and outputs are")
    add("-i", "--input-file", action="append", metavar="FILE", help="raw file of an input; once per input, in their order")
    add("--aic-batch-json-input", metavar="JSON", help="raw files by inference and input")
    add("--aic-batch-input-file-list", metavar="FILE", help="one inference per line, its raw files separated by commas")
    add("--aic-batch-input-directory", metavar="DIR", help="raw files, one inference each, for a model with one input")
    add("--aic-batch-max-memory", type=count, default=1024, metavar="MB", help="most that one inference may hold (default: 1024)")
    add("--auto-batch-input", action="store_true", help="inputs are single samples: as many as fill the batch are one inference")
    add("--unbound-random", action="store_true", help="random data of everything that the type of an input can hold")
    add("--dump-input-buffers", action="store_true", help="write the inputs beside the outputs")
    add("--write-output-dir", metavar="DIR", help="write OUTPUT-activation-A-inf-I.bin: raw values in the type of the output")
    add("--write-output-start-iter", type=natural, default=0, metavar="I", help="first inference to write (default: 0)")
    add("--write-output-num-samples", type=count, default=1, metavar="N", help="inferences to write (default: 1)")
    add("--aic-profiling-type", choices=_TYPES, help="latency writes CSV, the others what qaic-opstats reads; all modelled")
    add("--aic-profiling-start-iter", type=natural, default=0, metavar="I", help="first sample of a copy (default: 0)")
    add("--aic-profiling-num-samples", type=count, default=1, metavar="N", help="samples of a copy (default: 1)")
    add("--aic-profiling-start-delay", type=natural, metavar="MS", help="of a stream: time before the first sample")
    add("--aic-profiling-duration", type=count, metavar="MS", help="of a stream: time of the samples (default: to the end)")
    add("--aic-profiling-sampling-rate", choices=profiling.RATES, default="full", help="of a stream: the share of samples")
    add("--aic-profiling-reporting-rate", type=natural, metavar="MS", help="of a stream: no effect, it is written at the end")
    add("--aic-profiling-out-dir", default=".", metavar="DIR", help="where profiles go (default: here)")
    add("--aic-profiling-format", choices=["latency"], help="old form of --aic-profiling-type latency")
    add("--submit-timeout", type=natural, metavar="MS", help="no effect: the emulated card is never busy")
    add("--submit-retry-count", type=natural, metavar="N", help="no effect: the emulated card is never busy")
    return parser


def _positive(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is no time above 0")
    return found


@attrs.frozen(eq=False)
class _Job:
    """What is to be done: ``runs`` inferences, whose inputs are the ``items`` in turn; ``written`` are numbers of inferences."""

    qpc: Qpc
    items: Sequence[batch.Item | batch.RandomItem]
    runs: int
    speed: Estimate
    written: range

    def runs_by_item(self) -> dict[int, list[int]]:
        """The items that have to be computed, and the inferences written for each: all of ``written``, or one that is not."""
        found: dict[int, list[int]] = {}
        for run in self.written:
            found.setdefault(run % len(self.items), []).append(run)
        return found or {0: []}


def _run(words: Sequence[str]) -> int:
    args = _parser().read(words)
    qpc = read_qpc(args.test_data)
    devices = _devices(args, qpc)
    with ExitStack() as held:
        for device in devices:
            held.enter_context(cards.claim(device, qpc.options["aic_num_cores"] * args.num_activations))
        job = _job(args, qpc)
        if args.verbose:
            for binding in qpc.bindings:
                shapes = " or ".join(str(list(shape)) for shape in binding.shapes)
                print(f"{'input' if binding.is_input else 'output'} {binding.index}: {binding.name} {binding.dtype} {shapes}")
        _compute(args, job)
        _profile(args, job)
    _report(job)
    return 0


def _devices(args: argparse.Namespace, qpc: Qpc) -> Sequence[int]:
    """The cards to use; a program on several cards has its cores on each."""
    if args.aic_device_map is not None:
        if args.aic_device_id is not None:
            raise UsageError("-d and -D exclude one another", hint="give one of them")
        words = args.aic_device_map.replace(",", ":").split(":")
        if not all(word.isdecimal() for word in words):
            raise UsageError(f"-D takes ids of cards as in 0:1, found '{args.aic_device_map}'")
        return [int(word) for word in words]
    if args.aic_device_id is not None:
        return [args.aic_device_id]
    needed = qpc.options["aic_num_cores"] * args.num_activations
    return [next((d for d in cards.devices() if cards.info(d).free >= needed), 0)]


def _job(args: argparse.Namespace, qpc: Qpc) -> _Job:
    if args.dump_input_buffers and not args.write_output_dir:
        raise UsageError("--dump-input-buffers needs a folder", hint="--write-output-dir names it")
    items = _items(args, qpc)
    size = max(sum(binding.size for binding in qpc.bindings), 1)
    if size > args.aic_batch_max_memory * _MEBIBYTE:
        hint = f"--aic-batch-max-memory {-(-size // _MEBIBYTE)}"
        raise UsageError(f"one inference holds {size} bytes, allowed are {args.aic_batch_max_memory} MB", hint=hint)
    settings = {**qpc.options, "num_activations": args.num_activations}
    if args.set_size is not None:
        settings["set_size"] = args.set_size
    speed = estimate_package(qpc.package, settings, items[0].shapes)
    limits = [args.num_iter] if args.num_iter else []
    if args.time is not None:
        limits.append(max(1, int(args.time * speed.rate / speed.batch)))
    runs = min(limits, default=max(_RUNS, len(items)))
    start = args.write_output_start_iter
    if args.write_output_dir and start >= runs:
        raise UsageError(f"--write-output-start-iter {start} is behind the last of {runs} inferences")
    stop = min(runs, start + args.write_output_num_samples) if args.write_output_dir else start
    return _Job(qpc, items, runs, speed, range(start, stop))


def _items(args: argparse.Namespace, qpc: Qpc) -> Sequence[batch.Item | batch.RandomItem]:
    json, files, folder = args.aic_batch_json_input, args.aic_batch_input_file_list, args.aic_batch_input_directory
    if sum(given is not None for given in (json, files, folder, args.input_file)) > 1:
        raise UsageError("inputs are given twice", hint="one of -i and the --aic-batch- flags")
    if json is not None:
        return batch.from_json(Path(json), qpc, join=args.auto_batch_input)
    if files is not None:
        return batch.from_list(Path(files), qpc, join=args.auto_batch_input)
    if folder is not None:
        return batch.from_folder(Path(folder), qpc, join=args.auto_batch_input)
    if args.input_file is not None:
        return batch.from_files([Path(word) for given in args.input_file for word in given.split(",")], qpc)
    return [batch.RandomItem(args.unbound_random)]


def _compute(args: argparse.Namespace, job: _Job) -> None:
    """Run what is needed, on several threads, and write what is asked for as soon as it is there."""
    folder = Path(args.write_output_dir or ".")
    folder.mkdir(parents=True, exist_ok=True)
    loaded = Loaded(job.qpc)

    def one(index: int) -> int:
        feeds = job.items[index].load(job.qpc.inputs)
        found = loaded.run(feeds)
        dumped = {**feeds, **found} if args.dump_input_buffers else found
        for run in runs[index]:
            for name, value in dumped.items():
                file = folder / f"{name.replace('/', '_')}-activation-{run % args.num_activations}-inf-{run}.bin"
                write_atomic(file, [value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes()])
        return index

    runs = job.runs_by_item()
    with ThreadPoolExecutor(args.num_threads) as pool:
        for index in pool.map(one, runs):
            if args.live_reporting:
                print(f"computed input {index} of {len(job.items)}")
    loaded.close()


def _profile(args: argparse.Namespace, job: _Job) -> None:
    kind = args.aic_profiling_type or ("latency" if args.aic_profiling_format else None)
    if kind is None:
        return
    folder = Path(args.aic_profiling_out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if not kind.startswith("latency"):
        profiling.write_stats(folder, job.speed)
        return
    window = profiling.Window(args.aic_profiling_start_iter, args.aic_profiling_num_samples)
    if kind.endswith("_stream"):
        pace = job.speed.rate / job.speed.batch / job.speed.plan.activations / 1000  # runs of one copy per millisecond
        start = int(pace * (args.aic_profiling_start_delay or 0))
        count = int(pace * args.aic_profiling_duration) if args.aic_profiling_duration else job.runs
        window = profiling.Window(start, count, 2 ** profiling.RATES.index(args.aic_profiling_sampling_rate))
    profiling.write_latency(folder, job.speed, job.runs, window)


def _report(job: _Job) -> None:
    """The block that scripts look for; a run counts as stats_batchsize inferences."""
    micros = max(1, round(job.runs * job.speed.batch / job.speed.rate * MICRO))
    size = job.qpc.options["stats_batchsize"] or job.speed.batch
    print(f"computed {len(job.runs_by_item())} of {job.runs} inferences; the times are modelled, limited by {job.speed.bound}")
    print(" ---- Stats ----")
    print(f"InferenceCnt {job.runs} TotalDuration {micros}us BatchSize {size} Inf/Sec {job.runs * size / micros * MICRO:.3f}")


if __name__ == "__main__":
    raise SystemExit(main())
