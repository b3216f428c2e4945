"""One owner's share of the log: which partitions are its own, what of them it has read, and how far it may commit."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from tasks.log import Partition, Place
from tasks.ports import GroupMember
from tasks.watermark import Watermark


class OwnedPartitions:
    """Every record opened is closed once: when its task has an outcome, or when it lies with the dead letters."""

    def __init__(self, member: GroupMember, events_topic: str) -> None:
        """Nothing owned yet."""
        self._member = member
        self._events_topic = events_topic
        self._owned: set[Partition] = set()
        self._catching_up: dict[Partition, int] = {}
        self._watermarks: dict[tuple[str, Partition], Watermark] = defaultdict(Watermark)
        self._places: dict[str, list[Place]] = {}

    @property
    def partitions(self) -> Collection[Partition]:
        """Those that are ours."""
        return self._owned

    @property
    def unfinished(self) -> Collection[str]:
        """The tasks of open records."""
        return self._places.keys()

    @property
    def ready(self) -> bool:
        """Whether all events are read that must be known before a task is started."""
        return bool(self._owned) and not self._catching_up

    def add(self, events_until: Mapping[Partition, int]) -> None:
        """These partitions are ours; their events must be read to these offsets first."""
        self._owned.update(events_until)
        self._catching_up.update(events_until)

    def drop(self, partitions: Collection[Partition]) -> None:
        """These partitions are somebody else's: nothing of them is committed any more."""
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
        """Whether events of it are still to be read."""
        return partition in self._catching_up

    def may_act(self, partition: Partition) -> bool:
        """Whether it is ours and all that must be known of it is."""
        return partition in self._owned and partition not in self._catching_up

    def caught_up(self, offsets: Mapping[tuple[str, Partition], int]) -> list[Partition]:
        """The partitions whose events have just been read far enough, given the offsets read to."""
        done = [p for p, until in self._catching_up.items() if offsets.get((self._events_topic, p), 0) >= until]
        for partition in done:
            del self._catching_up[partition]
        return done

    def open(self, place: Place, task_id: str | None = None) -> None:
        """A record was read; `task_id`: of a task that has no outcome yet."""
        self._watermarks[place.topic, place.partition].opened(place.offset)
        if task_id is not None:
            self._places.setdefault(task_id, []).append(place)

    def end(self, task_id: str) -> None:
        """The task has its outcome."""
        self.close(self._places.pop(task_id, ()))

    def close(self, places: Iterable[Place]) -> None:
        """These records need nothing more: commit up to the first that does."""
        for place in places:
            watermark = self._watermarks.get((place.topic, place.partition))
            if watermark is not None and place.partition in self._owned:
                watermark.closed(place.offset)
                self._member.commit(place.topic, place.partition, watermark.value)
