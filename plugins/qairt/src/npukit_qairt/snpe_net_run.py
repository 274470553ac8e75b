"""snpe-net-run."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from npukit import __version__
from npukit.errors import UsageError
from npukit.plugins import FLOAT_BACKEND, Registry
from npukit_qairt.net_run import Wish, positive, run_dlc
from npukit_qairt.paths import model_file

# The vendor's runtimes, by the backends here.
_RUNTIMES = {"cpu": FLOAT_BACKEND, "gpu": "gpu", "gpu_float16": "gpu", "aip": "htp", "dsp": "htp"}
_LEVELS = {"off": "", "moderate": "basic"}


def run(args: Namespace) -> int:
    if args.version:
        print(f"npukit-qairt {__version__}")
        return 0
    registry = Registry.load()
    path = model_file(args.container)
    buffers = [name for name in args.given if name.startswith("--userbuffer")]
    for flag in ("use_native_input_files", "use_native_output_files"):
        if getattr(args, flag) and not buffers:
            raise UsageError(f"--{flag} needs a --userbuffer flag", hint="--userbuffer_auto")
    level = args.profiling_level or "off"
    wish = Wish(
        () if args.use_native_input_files else None,
        ("native",) if args.use_native_output_files else ("float",),
        tuple(n for n in (args.set_output_tensors or "").split(" ")[-1].split(",") if n),
        args.debug,
        seconds=args.duration or 0.0,
        keep=positive("--keep_num_outputs", args.keep_num_outputs),
        profile=_LEVELS.get(level, level),
        unread=args.set_unconsumed_as_output,
        float_fallback=args.enable_cpu_fallback,
    )
    run_dlc(path, Path(args.input_list), Path(args.output_dir or "output"), _runtime(args, registry), wish, registry)
    return 0


def _runtime(args: Namespace, registry: Registry) -> str:
    """The backend that the flags name, the CPU in float without any."""
    named = [name for name in ("gpu", "dsp", "aip") if getattr(args, f"use_{name}")]
    ways = [*named, *(["--runtime_order"] if args.runtime_order else []), *(["--backend"] if args.backend else [])]
    if len(ways) > 1:
        raise UsageError(
            "more than one runtime is named", hint="one of --use_gpu, --use_dsp, --use_aip, --runtime_order, --backend"
        )
    if args.backend:
        return str(args.backend)
    if args.enable_cpu_fxp and not ways:
        return f"{FLOAT_BACKEND}:qdq"
    order = args.runtime_order.split(",") if args.runtime_order else named or ["cpu"]
    here = {backend.name for backend in registry.backends()}
    for name in order:
        if name not in _RUNTIMES:
            raise UsageError(f"--runtime_order: no runtime '{name}'", hint=f"one of {', '.join(_RUNTIMES)}")
    found = next((_RUNTIMES[name] for name in order if _RUNTIMES[name] in here), _RUNTIMES[order[0]])
    return found if found != FLOAT_BACKEND else f"{FLOAT_BACKEND}:float32"
