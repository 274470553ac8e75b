"""qaic-util: the cards and what is free on them. Cards are emulated: counts of cores follow live sessions, the rest is fixed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from npukit.commands import check_writable
from npukit.graph import write_atomic
from npukit_aic import cards
from npukit_aic.speed import card_of
from npukit_aic.tools.edge import Parser, guarded, number

NAME = "qaic-util"
TEMPERATURE = 48.0
"""Degrees Celsius of a card that never gets warm: scripts wait for 65 or less before they measure."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool and return its exit code."""
    return guarded(NAME, _run, argv)


def _run(words: Sequence[str]) -> int:
    parser = Parser(NAME, __doc__)
    parser.add_argument("-q", "--query", action="store_true", help="say what the cards are and have free (the default)")
    parser.add_argument("-d", "--aic-device-id", type=number(0), metavar="N", help="of one card only")
    parser.add_argument("-j", "--json", metavar="FILE", help="write it as JSON")
    args = parser.read(words)
    target = check_writable(args.json) if args.json else None
    found = [cards.info(d) for d in ([args.aic_device_id] if args.aic_device_id is not None else cards.devices())]
    print("\n".join(_lines(card) for card in found))
    if target is not None:
        write_atomic(target, [json.dumps({"device_info": [_entry(card) for card in found]}, indent=2).encode()])
    return 0


def _lines(card: cards.CardInfo) -> str:
    """A line with the id, then one indented ``Key:value`` per fact; scripts look for these keys."""
    facts = {
        "Status": card.status,
        "SKU Type": card.soc.name,
        "Board Serial": f"npukit-{os.getuid()}-{card.qid}",
        "FW Variant": "emulated by npukit",
        "Nsp Total": card.total,
        "Nsp Free": card.free,
        "Nsp Frequency(Mhz)": round(card_of(card.soc).clock_hz / 1e6),
        "Dram Total": f"{card.soc.features['dram_gb'] * 1024} MB",
        "SoC Temperature(degree C)": TEMPERATURE,
    }
    return "\n".join([f"QID {card.qid}", *(f"\t{key}:{value}" for key, value in facts.items())])


def _entry(card: cards.CardInfo) -> dict[str, Any]:
    return {
        "qid": card.qid,
        "dev_status": card.status,
        "sku_type": card.soc.name,
        "nsp_total": card.total,
        "nsp_free": card.free,
    }


if __name__ == "__main__":
    raise SystemExit(main())
