"""The readers: each is called as its users call it, and what it returns is used."""

from __future__ import annotations

import os
import shutil
import warnings
from argparse import Namespace
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from npukit.backend import load_socs
from npukit.calibration import Profile, all_observers, open_data, read_input_list
from npukit.encoding import fake_quantize
from npukit.encoding.formats import read_encodings
from npukit.errors import UsageError
from npukit.graph import Graph
from npukit.package import describe, read_package
from npukit.plugins import Registry
from npukit.quantization import read_source
from npukit.quantization.optimize import choose
from npukit_aic.crt.describe import IoDesc
from npukit_aic.crt.slices import SlicingSpec
from npukit_aic.external import read_external
from npukit_aic.files.io_list import read_io_list
from npukit_aic.files.mdp import read_partitions
from npukit_aic.files.node_precision import read_node_precision
from npukit_aic.files.specializations import read_specializations
from npukit_aic.options import read as read_options
from npukit_aic.profile_yaml import load_profile
from npukit_aic.qpc import Qpc, read_qpc
from npukit_aic.samples import InputFiles
from npukit_aic.tools import batch, configurator
from npukit_aimet.amp.search import Memory
from npukit_qairt.algorithms import chosen_algorithms
from npukit_qairt.io_config import read_ports

from .models import network

COMMON = "common"
_NOTHING = ("source_model_input_layout", "desired_input_layout", "source_model_output_layout", "desired_output_layout")


@attrs.frozen
class Reader:
    """``read`` gets a damaged file of the corpus in folder ``corpus``; beside it are the undamaged ones of ``common``.

    ``corpus`` is the folder of its files when it is not called ``name``; ``weight`` is how often it has its turn.
    """

    name: str
    read: Callable[[Path], Any]
    corpus: str = ""
    weight: int = 10

    @property
    def folder(self) -> str:
        return self.corpus or self.name


@cache
def _graph() -> Graph:
    return network()


@cache
def _registry() -> Registry:
    return Registry.load()


def _onnx(path: Path) -> None:
    read_source(path, registry=_registry())


def _package(path: Path) -> None:
    package = read_package(path)
    for name, encoding in package.encodings.items():
        values = package.graph.tensor(name).data
        if values is not None and encoding.axis is not None:
            fake_quantize(values, encoding)
    describe(package.graph, package.encodings)
    read_source(path, registry=_registry())


def _overrides(path: Path) -> None:
    graph = _graph()
    for name, encoding in read_encodings(path, graph, lenient=True).encodings.items():
        values = graph.tensor(name).data
        fake_quantize(np.zeros((1, 2, 6, 6), np.float32) if values is None else values, encoding)


def _profile(path: Path) -> None:
    profile = Profile.load(path)
    for name in list(profile.tensors)[:2]:
        for observer in all_observers(_registry().observers()):
            found = profile.range(name, observer, "uint8")
            assert not found.low > found.high
    profile.merge(profile)


def _data(path: Path) -> None:
    for feeds in open_data(path, _graph(), limit=3):
        assert feeds["x"].shape == (1, 2, 6, 6)


def _folder_of_data(path: Path) -> None:
    folder = path.parent / "samples"
    folder.mkdir(exist_ok=True)
    shutil.copy(path, folder / path.name)
    _data(folder)


def _input_list(path: Path) -> None:
    list(read_input_list(path, _graph()))


def _configured(path: Path) -> None:
    choose("adaround,amp", _registry(), config=path)


def _algorithms(path: Path) -> None:
    args = {"use_aimet_quantizer": True, "apply_algorithms": (), "config": str(path), "input_list": "list.txt"}
    chosen_algorithms(Namespace(**args))


def _io_config(path: Path) -> None:
    flags: dict[str, Any] = dict.fromkeys((*_NOTHING, "source_model_input_datatype", "desired_input_color_encoding"), ())
    read_ports(Namespace(config=str(path), **flags), _graph())


def _memory(path: Path) -> None:
    memory = Memory(path, "key")
    memory.put("a", 1.0)
    assert Memory(path, "key").get("a") == 1.0


def _compiler_options(path: Path) -> None:
    read_options({"options_path": str(path)})


@cache
def _qpc(folder: Path) -> Qpc:
    return read_qpc(folder / "model.qpc")


def _batch(path: Path) -> None:
    batch.from_json(path, _qpc(path.parent), join=False)


def _batch_list(path: Path) -> None:
    batch.from_list(path, _qpc(path.parent), join=True)


def _io_desc(path: Path) -> None:
    try:
        IoDesc().ParseFromString(path.read_bytes())
    except ValueError as error:  # that of protobuf, which it stands for
        raise UsageError(str(error)) from None


READERS: tuple[Reader, ...] = (
    Reader("onnx", _onnx, weight=12),
    Reader("external", _onnx, weight=4),
    Reader("dlc", _package),
    Reader("encodings", _overrides, weight=14),
    Reader("profile", _profile, weight=3),
    Reader("data", _data, weight=14),
    Reader("raw", _folder_of_data, weight=2),
    Reader("input_list", _input_list),
    Reader("soc", load_socs),
    Reader("config", _configured),
    Reader("algorithms", _algorithms, corpus="config", weight=3),
    Reader("io_config", _io_config),
    Reader("amp_memory", _memory, weight=3),
    Reader("aic_options", _compiler_options),
    Reader("aic_input_list", lambda path: list(InputFiles(path, _graph())), weight=5),
    Reader("io_list", lambda path: read_io_list(path, _graph())),
    Reader("node_precision", read_node_precision),
    Reader("specializations", read_specializations),
    Reader("partitions", lambda path: read_partitions(path, _graph(), devices=range(8), cores=16)),
    Reader("qpc", read_qpc, weight=5),
    Reader("aic_profile", lambda path: load_profile(path, _graph()), weight=6),
    Reader("external_lists", lambda path: read_external(path, _graph())),
    Reader("batch", _batch, weight=5),
    Reader("batch_list", _batch_list, weight=3),
    Reader("slicing", lambda path: SlicingSpec(path.read_text(encoding="utf-8", errors="replace")), weight=3),
    Reader("io_desc", _io_desc, weight=3),
    Reader("configurator", lambda path: configurator._task(path.parent / "model.onnx", path), weight=5),
)


def quiet() -> None:
    """No warnings, no notes of ONNX Runtime, no more threads than one."""
    warnings.simplefilter("ignore")
    os.environ["OMP_NUM_THREADS"] = "1"
