"""The emulated ``qaicrt``: the low level API of Cloud AI 100, on cards that npukit emulates."""

from npukit_aic.crt import *  # noqa: F403
