"""The entry point of group ``npukit``: it tells a vendor's .dlc from npukit's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npukit.plugins import hookimpl

if TYPE_CHECKING:
    from npukit.graph import Graph


@hookimpl
def load_model(source: Any) -> Graph | None:
    from npukit_qairt.vendor import refuse_vendor_dlc

    refuse_vendor_dlc(source)
    return None
