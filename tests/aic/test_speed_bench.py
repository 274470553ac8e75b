"""The comparison with published figures: its networks are the published ones, and the docs show what it prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from networks import NETWORKS  # noqa: E402

from npukit.graph import count_macs  # noqa: E402

# Parameters in millions (without batch norms, which are folded, or with them where nothing takes them) and 10^9
# multiply-accumulates per image: https://docs.pytorch.org/vision/stable/models.html.
PUBLISHED = {
    "AlexNet": (61.10, 0.71),
    "VGG-11": (132.86, 7.61),
    "VGG-16-bn": (138.36, 15.47),
    "VGG-19-bn": (143.67, 19.63),
    "ResNet-50": (25.56, 4.09),
    "ResNet-101": (44.55, 7.80),
    "DenseNet-121": (7.98, 2.83),
    "DenseNet-201": (20.01, 4.29),
    "SqueezeNet 1.1": (1.24, 0.35),
    "Inception v3": (23.83, 5.71),
    "EfficientNet-B0": (5.29, 0.39),
    "ViT-B/16": (86.57, 17.56),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_network_has_the_published_size(name: str) -> None:
    graph = NETWORKS[name](1)
    millions = sum(t.size for t in graph.tensors.values() if t.is_constant) / 1e6
    macs = sum(count_macs(graph, node) or 0 for node in graph.nodes) / 1e9
    assert (millions, macs) == pytest.approx(PUBLISHED[name], rel=0.015)


def test_the_docs_show_what_the_bench_prints() -> None:
    done = subprocess.run([sys.executable, "bench/roofline.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    page = (ROOT / "docs" / "explanation" / "aic-speed.md").read_text(encoding="utf-8")
    lines = [line for line in done.stdout.splitlines() if line]
    assert len(lines) > 30
    assert [line for line in lines if line not in page.splitlines()] == []
