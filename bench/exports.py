"""Networks of today as PyTorch exports them: does the emulator stand for the vendor's simulator, output by output?

    python bench/exports.py [--zoo ../shared/zoo/exports] [--case PATTERN] [--types a8w8,a16w8,a16w4] [--soc SM8750]

Makes small networks with random weights (needs torch, onnxscript and transformers), with embeddings of scale 0.02 and 1, quantizes
them and runs them on the emulator and on the vendor's simulator (needs onnxruntime-qnn). --zoo takes those of a folder as well.
Prints the SQNR of both against float, per output, and their difference; exit code 1 when one side accepts what the other refuses.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import attrs
import numpy as np

import npukit as nk
from npukit.diagnosis import compare
from npukit.errors import ConstraintError

TYPES = {"a8w8": ("uint8", "int8"), "a16w8": ("uint16", "int8"), "a16w4": ("uint16", "int4")}
SAMPLES = 12
_HELD_OUT = 4  # of them are measured on, the others calibrated on
_TOKENS = 24


@attrs.frozen(eq=False)
class Case:
    name: str
    source: Any
    samples: list[dict[str, Any]]


def _decoder(kind: str, head: str = "ForCausalLM", **extra: Any) -> Callable[[float], tuple[Any, tuple[Any, ...]]]:
    """A causal language model whose embeddings are scaled; it gets token ids."""

    def make(scale: float) -> tuple[Any, tuple[Any, ...]]:
        import torch
        import transformers

        sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 256}
        config = getattr(transformers, f"{kind}Config")(**{**sizes, **extra}, use_cache=False, attn_implementation="eager")
        model = getattr(transformers, f"{kind}{head}")(config)
        embedding = model.get_input_embeddings().weight
        with torch.no_grad():
            embedding.mul_(scale / embedding.std())
        return _Logits(model), (torch.randint(0, 256, (1, _TOKENS)),)

    return make


def _Logits(model: Any) -> Any:  # noqa: N802  a class that needs torch to be defined
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any) -> Any:
            found = self.model(x)
            return found.logits if hasattr(found, "logits") else found[0]

    return Logits()


def _vision(kind: str, head: str, shape: tuple[int, ...], **config: Any) -> Callable[[float], tuple[Any, tuple[Any, ...]]]:
    """A network for images or spectra, whose inputs are scaled."""

    def make(scale: float) -> tuple[Any, tuple[Any, ...]]:
        import torch
        import transformers

        model = getattr(transformers, f"{kind}{head}")(getattr(transformers, f"{kind}Config")(**config))
        model = model.encoder if kind == "Whisper" else model
        return _Logits(model), (scale * torch.randn(shape),)

    return make


MAKERS = {
    "qwen3": _decoder("Qwen3", num_key_value_heads=2, head_dim=16),
    "gemma": _decoder("Gemma", num_key_value_heads=1, head_dim=16),
    "gpt2": _decoder("GPT2", "LMHeadModel", n_embd=64, n_layer=2, n_head=4),
    "phi": _decoder("Phi", partial_rotary_factor=0.5),
    "convnext": _vision(
        "ConvNext", "ForImageClassification", (1, 3, 64, 64), depths=[1, 1, 2, 1], hidden_sizes=[16, 32, 48, 64], num_labels=10
    ),
    "segformer": _vision(
        "Segformer", "ForSemanticSegmentation", (1, 3, 64, 64), depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 40, 64],
        num_attention_heads=[1, 2, 5, 8], decoder_hidden_size=64,
    ),
    "whisper": _vision(
        "Whisper", "Model", (1, 16, 64), d_model=64, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=128,
        decoder_layers=1, decoder_attention_heads=4, num_mel_bins=16, max_source_positions=32, vocab_size=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    ),
}  # fmt: skip


def made_cases(pattern: str) -> Iterator[Case]:
    """The networks made here, each at two scales."""
    import torch

    for name, make in MAKERS.items():
        for scale in (0.02, 1.0):
            if not fnmatch.fnmatchcase(name, pattern):
                continue
            torch.manual_seed(0)
            model, example = make(scale)
            graph = nk.quantization.read_source(nk.Request(model.eval(), example=example)).graph
            x = graph.inputs[0]
            shape = example[0].shape
            ids = example[0].dtype == torch.int64
            values = [torch.randint(0, 256, shape) if ids else scale * torch.randn(shape) for _ in range(SAMPLES)]
            yield Case(f"{name} {scale:g}", graph, [{x: v.numpy()} for v in values])


def zoo_cases(folder: Path, pattern: str) -> Iterator[Case]:
    """The exports of a folder, with inputs as their description asks for."""
    rng = np.random.default_rng(0)
    for path in sorted(folder.glob("*.onnx")):
        if not fnmatch.fnmatchcase(path.stem, pattern):
            continue
        graph = nk.load(path)
        samples = []
        for _ in range(SAMPLES):
            feeds = {}
            for name in graph.inputs:
                tensor = graph.tensor(name)
                if tensor.is_float:
                    feeds[name] = rng.normal(size=tensor.static_shape).astype(np.float32)
                elif "mask" in name:
                    feeds[name] = (np.arange(tensor.shape[-1]) < rng.integers(12, tensor.shape[-1] + 1))[None].astype(np.int64)
                else:
                    feeds[name] = rng.integers(0, 100, tensor.static_shape)
            samples.append(feeds)
        yield Case(path.stem, graph, samples)


def measured(case: Case, types: str, soc: str) -> list[tuple[str, float | str, float | str]]:
    """Output, SQNR of the emulator, SQNR of the simulator; what was refused in place of a figure."""
    activations, weights = TYPES[types]
    options = nk.Options(activations=activations, weights=weights)
    try:
        result = nk.quantize(case.source, f"htp:{soc}", data=case.samples[_HELD_OUT:], options=options)
    except ConstraintError as error:
        asked = nk.quantize(case.source, f"htp:{soc}", data=case.samples[_HELD_OUT:], options=attrs.evolve(options, strict=False))
        vendor = nk.check(asked.package, f"qnn:{soc}").verdict
        return [(str(error)[:160], "refused", vendor)]
    try:
        found = compare(result, [f"htp:{soc}", f"qnn:{soc}"], data=case.samples[:_HELD_OUT])
    except ConstraintError as error:
        return [(str(error)[:160], "accepted", "refused")]
    return [(row.name, *row.sqnr.values()) for row in found.outputs]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--case", default="*")
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--soc", default="SM8750")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    apart = 0
    print("| Model | Types | Output | Emulator | Simulator | Difference |\n| --- | --- | --- | --- | --- | --- |")
    cases = zoo_cases(args.zoo, args.case) if args.zoo else iter(())
    for case in chain(cases, made_cases(args.case)):
        for types in args.types.split(","):
            for name, ours, vendor in measured(case, types, args.soc):
                if isinstance(ours, str) or isinstance(vendor, str):
                    apart += (ours == "refused") != (vendor == "refused")
                    print(f"| {case.name} | {types} | {name} | {ours} | {vendor} | |", flush=True)
                else:
                    print(f"| {case.name} | {types} | {name} | {ours:.1f} | {vendor:.1f} | {ours - vendor:+.1f} |", flush=True)
    return 1 if apart else 0


if __name__ == "__main__":
    sys.exit(main())
