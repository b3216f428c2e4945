"""The low watermark of one lane partition: the offset below which every record is done, so it may be committed."""

from sortedcontainers import SortedSet


class Watermark:
    """The offsets of records that were read and are not done. The watermark never decreases."""

    def __init__(self) -> None:
        """No record read yet."""
        self._open: SortedSet = SortedSet()
        self._next = 0

    def opened(self, offset: int) -> None:
        """A record was read."""
        if offset >= self._next:
            self._next = offset + 1
            self._open.add(offset)

    def closed(self, offset: int) -> None:
        """The record is done: its task has an outcome, or the record is with the dead letters."""
        self._open.discard(offset)

    @property
    def value(self) -> int:
        """The offset to commit: that of the oldest record that is not done, else one past the last record read."""
        return self._open[0] if self._open else self._next
