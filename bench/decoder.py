"""A decoder layer of real size on the HTP emulator beside ONNX Runtime's float32, on one thread, and the memory of running it.

python bench/decoder.py

Hidden size 2048, 16 heads, MLP of 5632, random weights (52 million), 16-bit activations, 4-bit weights, a cache of 256 tokens.
Times are the best of interleaved runs; memory is the peak of ``npukit run`` in a process of its own (RssAnon of /proc/PID/status).
The exit code is 1 when the fast form, which is the default, takes more than 10 times as long or ``npukit run`` more than 1500 MB.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

from memory import peak_of
from speed import THREADS, best_of

TIMES, MEMORY = 10, 1500
"""What it may cost: times ONNX Runtime's float32, and MB."""


def main() -> None:
    import numpy as np

    import npukit as nk
    from npukit.backend.ort import OrtModel
    from npukit.demo import decoder
    from npukit.quantization import Options, open_session
    from npukit.report import table

    parser = argparse.ArgumentParser(description="Speed and memory of a decoder layer on the HTP emulator, one thread.")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    sizes = decoder.Sizes(layers=1, hidden=2048, heads=16, key_heads=16, inner=5632, words=256, cache=256)
    rng, rows = np.random.default_rng(0), []
    for tokens in (1, 64):
        model = decoder.decoder(sizes, tokens)
        sample = {**decoder.feeds(sizes, rng.integers(sizes.words, size=tokens), sizes.cache), **decoder.empty(sizes)}
        plain = partial(OrtModel(model, threads=1).run, sample)
        for name, blocks in (("per channel", {}), ("LPBQ, blocks of 64", {"lpbq": 64})):
            options = Options(activations="uint16", weights="int4", **blocks)
            made = nk.quantize(model, "htp", data=[sample], options=options)
            runs = [partial(open_session(made, kernels=kernels).run, sample) for kernels in ("fast", "numpy")]
            fast, slow, other = best_of(args.repeats, *runs, plain)
            with tempfile.TemporaryDirectory() as folder:
                package, data = Path(folder) / "layer.dlc", Path(folder) / "data.npz"
                made.save(package)
                np.savez(data, **sample)
                peak, _ = peak_of(["run", str(package), "--data", str(data)])
            rows.append((tokens, name, fast, fast / other, slow, slow / other, other, peak))
    cells = [(n, name, *(f"{x:.1f}" for x in found[:-1]), f"{found[-1]:.0f}") for n, name, *found in rows]
    headers = [
        "Tokens",
        "int4 weights",
        "fast ms",
        "of float32",
        "numpy ms",
        "of float32",
        "ORT float32 ms",
        "npukit run, MB",
    ]
    print(table(headers, cells))
    sys.exit(any(row[3] > TIMES or row[-1] > MEMORY for row in rows))


if __name__ == "__main__":
    if any(os.environ.get(name) != "1" for name in THREADS):
        # BLAS reads these when it is loaded, so they must be set before numpy is imported.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **dict.fromkeys(THREADS, "1")})
    main()
