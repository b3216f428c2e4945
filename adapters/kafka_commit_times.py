"""The append time that a consumer stores with each commit, so that the next owner need not read all events again."""

import bisect
from collections.abc import Collection, Sequence

from confluent_kafka import Message

from tasks.log import Partition

_RESOLUTION_MS = 1000


class CommitTimes:
    """The append times of the records that were read: for each partition, one for each second.

    An event of a task is appended after the task itself. All tasks below a committed offset are done, so no event that
    is older than the last of them can be about an unfinished task. That time goes into the metadata of the commit.
    """

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._times: dict[tuple[str, Partition], list[tuple[int, int]]] = {}

    def note(self, messages: Sequence[Message]) -> None:
        """Remember the offsets and times of these messages, which are in log order within each partition."""
        for message in messages:
            times = self._times.setdefault((message.topic() or "", message.partition() or 0), [])
            appended = message.timestamp()[1]
            if not times or appended - times[-1][1] >= _RESOLUTION_MS:
                times.append((message.offset() or 0, appended))

    def below(self, topic: str, partition: Partition, offset: int) -> int:
        """When the record below the offset was appended, or up to a second earlier (Unix milliseconds). 0 if no record
        below it was read. Forgets the times below, because commits never go back."""
        times = self._times.get((topic, partition), [])
        index = bisect.bisect_left(times, (offset, 0))
        if index > 1:
            del times[: index - 1]
            index = 1
        return times[0][1] if index else 0

    def forget(self, partitions: Collection[Partition]) -> None:
        """Drop everything about these partitions."""
        for key in [key for key in self._times if key[1] in partitions]:
            del self._times[key]


def metadata_ms(metadata: str | None) -> int:
    """The time in the metadata of a commit (Unix milliseconds). 0 if there is none, so that all events are read: other
    tools commit without metadata, and a newer version may write another format."""
    return int(metadata) if metadata and metadata.isdecimal() and metadata.isascii() else 0
