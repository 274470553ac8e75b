"""A network on its cores."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from npukit.encoding import Array
from npukit.errors import NpukitError, UsageError
from npukit_aic import cards
from npukit_aic.crt.context import Context
from npukit_aic.crt.network import Handed, Network, State
from npukit_aic.crt.values import QAicProgramProperties
from npukit_aic.qpc import Qpc


class Activation:
    """One copy of a network, which runs one inference at a time in the order of arrival, and keeps its state between them.

    It holds its cores until ``close``, or until nobody has it any more.
    """

    def __init__(self, network: Network, cores: ExitStack) -> None:
        self.network, self._cores = network, cores
        self._state: State = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="qaicrt")

    def start(self, handed: Mapping[int, Handed], wanted: Collection[int] = ()) -> Future[dict[int, Array]]:
        """Read the inputs and queue an inference (``Network.inference``); what is wrong with them is the future's exception."""
        try:
            inference = self.network.inference(handed, wanted)
        except NpukitError as error:
            failed: Future[dict[int, Array]] = Future()
            failed.set_exception(error)
            return failed
        return self._worker.submit(self.network.run, inference, self._state)

    def close(self) -> None:
        """Finish what is queued, then give the cores back."""
        self._worker.shutdown()
        self._cores.close()


def place(context: Context, device: int | None, properties: QAicProgramProperties) -> tuple[int, ...] | None:
    """The cards to run on together; None for any single one. Raises UsageError for cards that the context has not."""
    text = str(properties.devMapping)
    if not text:
        return None if device is None else (context.checked(device),)
    if not all(part.isdecimal() for part in text.split(":")):
        raise UsageError(f"devMapping is '{text}'", hint="ids of cards with colons between them, as 0:1")
    return tuple(context.checked(int(part)) for part in text.split(":"))


def activate(network: Network, qpc: Qpc, context: Context, devices: tuple[int, ...] | None) -> Activation:
    """One copy of a network on as many cores of each card as it was compiled for; without ``devices`` on the first card of the
    context that has them free. Raises UsageError when they are not."""
    cores = cores_of(qpc)
    if devices is None:
        devices = (next((d for d in context.devices if cards.info(d).free >= cores), context.devices[0]),)
    group = str(qpc.options.get("oversubscription_name") or "")
    with ExitStack() as taken:
        for device in devices:
            taken.enter_context(cards.claim(device, cores, group=group))
            context.debug(f"{cores} cores of card {device} are taken")
        return Activation(network, taken.pop_all())


def cores_of(qpc: Qpc) -> int:
    """The neural cores that a QPC is compiled for. Raises UsageError when its options do not say so sensibly."""
    found = qpc.options.get("aic_num_cores") or 1
    if type(found) is not int:
        raise UsageError(f"the QPC is compiled for '{found}' cores", hint="compile it again")
    return found
