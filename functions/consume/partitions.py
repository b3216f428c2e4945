"""The partitions that this process owns: which of their records are open, and which offsets may be committed."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from tasks.log import Partition, Place
from tasks.ports import GroupMember
from tasks.watermark import Watermark


class OwnedPartitions:
    """Every task record is opened when it is read and closed once: when its task has an outcome, or when the record
    is in the dead letters. The offset that is committed is that of the oldest open record, so a new owner reads every
    unfinished task again."""

    def __init__(self, member: GroupMember, events_topic: str) -> None:
        """No partition is owned yet. Offsets are committed through `member`."""
        self._member = member
        self._events_topic = events_topic
        self._owned: set[Partition] = set()
        self._catching_up: dict[Partition, int] = {}
        self._watermarks: dict[tuple[str, Partition], Watermark] = defaultdict(Watermark)
        self._places: dict[str, list[Place]] = {}

    @property
    def owned(self) -> Collection[Partition]:
        """The partitions that are owned now."""
        return self._owned

    @property
    def unfinished(self) -> Collection[str]:
        """The ids of the tasks whose records are open."""
        return self._places.keys()

    @property
    def ready(self) -> bool:
        """Whether partitions are owned and every one has caught up, so that tasks may start."""
        return bool(self._owned) and not self._catching_up

    def add(self, events_until: Mapping[Partition, int]) -> None:
        """Note that these partitions were assigned. No task of a partition may start before its events are read up to
        the given offset, because they say what the previous owner did."""
        self._owned.update(events_until)
        self._catching_up.update(events_until)

    def drop(self, partitions: Collection[Partition]) -> None:
        """Note that these partitions were revoked: none of their offsets is committed from now on."""
        self._owned.difference_update(partitions)
        for partition in partitions:
            self._catching_up.pop(partition, None)
        self._places = {
            task_id: kept
            for task_id, places in self._places.items()
            if (kept := [place for place in places if place.partition not in partitions])
        }
        for key in [key for key in self._watermarks if key[1] in partitions]:
            del self._watermarks[key]

    def is_catching_up(self, partition: Partition) -> bool:
        """Whether events of the partition must still be read before its tasks may start."""
        return partition in self._catching_up

    def may_act(self, partition: Partition) -> bool:
        """Whether the partition is owned and its events have been read far enough."""
        return partition in self._owned and partition not in self._catching_up

    def caught_up(self, offsets: Mapping[tuple[str, Partition], int]) -> list[Partition]:
        """The partitions that have just caught up, given the offsets up to which everything was read."""
        done = [p for p, until in self._catching_up.items() if offsets.get((self._events_topic, p), 0) >= until]
        for partition in done:
            del self._catching_up[partition]
        return done

    def open(self, place: Place, task_id: str | None = None) -> None:
        """Note that a task record was read. `task_id` is given if its task has no outcome yet."""
        self._watermarks[place.topic, place.partition].opened(place.offset)
        if task_id is not None:
            self._places.setdefault(task_id, []).append(place)

    def end(self, task_id: str) -> None:
        """Close every record of the task: its Outcome event was read."""
        self.close(self._places.pop(task_id, ()))

    def close(self, places: Iterable[Place]) -> None:
        """Note that these records are done, and commit the offset of the oldest record that is not."""
        for place in places:
            watermark = self._watermarks.get((place.topic, place.partition))
            if watermark is not None and place.partition in self._owned:
                watermark.closed(place.offset)
                self._member.commit(place.topic, place.partition, watermark.value)
