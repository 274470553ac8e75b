"""The .dlc container: a model with its encodings and its history in one file."""

from npukit.package.container import Package, is_package, read_package, write_package
from npukit.package.describe import Info, LayerRow, TensorRow, describe
from npukit.package.diff import Difference, diff_packages
from npukit.package.manifest import Manifest

__all__ = [
    "Difference",
    "Info",
    "LayerRow",
    "Manifest",
    "Package",
    "TensorRow",
    "describe",
    "diff_packages",
    "is_package",
    "read_package",
    "write_package",
]
