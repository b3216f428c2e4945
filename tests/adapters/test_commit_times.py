"""The append time in the metadata of a commit: from then on the next owner must read events."""

from dataclasses import dataclass

from adapters.kafka_commit_times import CommitTimes, metadata_ms


@dataclass(frozen=True)
class LaneMessage:
    """What CommitTimes reads of a message of the Kafka client."""

    number: int
    appended_ms: int
    of_partition: int = 0

    def topic(self) -> str:
        return "lane"

    def partition(self) -> int:
        return self.of_partition

    def offset(self) -> int:
        return self.number

    def timestamp(self) -> tuple[int, int]:
        return 2, self.appended_ms


def test_the_time_of_a_commit_is_that_of_the_record_below_or_up_to_a_second_earlier() -> None:
    times = CommitTimes()
    appended = [10_000 + 300 * offset for offset in range(100)]
    times.note([LaneMessage(offset, at) for offset, at in enumerate(appended)])  # type: ignore[misc] - a stub
    for offset in (1, 2, 50, 99, 100, 100):
        below = appended[offset - 1]
        assert below - 1000 < times.below("lane", 0, offset) <= below


def test_a_commit_below_everything_that_was_read_says_that_all_events_are_needed() -> None:
    times = CommitTimes()
    times.note([LaneMessage(7, 10_000)])  # type: ignore[list-item] - a stub
    assert times.below("lane", 0, 7) == 0
    assert times.below("lane", 1, 8) == 0


def test_the_times_of_a_revoked_partition_are_forgotten() -> None:
    times = CommitTimes()
    times.note([LaneMessage(0, 10_000, of_partition=p) for p in (0, 1)])  # type: ignore[misc] - a stub
    times.forget([1])
    assert (times.below("lane", 0, 1), times.below("lane", 1, 1)) == (10_000, 0)


def test_metadata_of_other_tools_means_that_all_events_are_read() -> None:
    assert metadata_ms("1800000000000") == 1_800_000_000_000
    assert [metadata_ms(other) for other in (None, "", "-5", "1.5", "²", '{"at": 1}')] == [0] * 6
