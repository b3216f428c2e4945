"""The low watermark of one lane partition: everything below it has an outcome, so it may be committed."""

from sortedcontainers import SortedSet


class Watermark:
    """Offsets of the records read and not yet done with. The watermark never goes back."""

    def __init__(self) -> None:
        """Nothing read yet."""
        self._open: SortedSet = SortedSet()
        self._next = 0

    def opened(self, offset: int) -> None:
        """A record was read."""
        if offset >= self._next:
            self._next = offset + 1
            self._open.add(offset)

    def closed(self, offset: int) -> None:
        """The record needs nothing more: its task has an outcome, or it went to the dead letters."""
        self._open.discard(offset)

    @property
    def value(self) -> int:
        """The offset to commit: of the oldest open record, else of the next one to come."""
        return self._open[0] if self._open else self._next
