"""The low watermark: every record below it is done, and it never goes back."""

from hypothesis import given
from hypothesis import strategies as st

from tasks.watermark import Watermark


def read(*offsets: int) -> Watermark:
    watermark = Watermark()
    for offset in offsets:
        watermark.opened(offset)
    return watermark


def test_the_watermark_is_the_oldest_record_that_is_not_done():
    watermark = read(5, 6, 7)
    watermark.closed(6)
    assert watermark.value == 5
    watermark.closed(5)
    assert watermark.value == 7


def test_the_watermark_is_one_past_the_last_record_if_all_are_done():
    watermark = read(5, 6)
    watermark.closed(6)
    watermark.closed(5)
    assert watermark.value == 7


def test_offsets_without_a_record_are_skipped():
    watermark = read(5, 9)
    watermark.closed(5)
    assert watermark.value == 9


def test_a_record_read_again_is_not_opened_again():
    watermark = read(5, 6)
    watermark.closed(5)
    watermark.opened(5)
    watermark.closed(6)
    assert watermark.value == 7


def test_closing_an_offset_that_was_never_read_changes_nothing():
    watermark = read(5)
    watermark.closed(4)
    watermark.closed(99)
    assert watermark.value == 5


@given(st.data())
def test_every_record_below_the_watermark_is_done_and_it_never_goes_back(data: st.DataObject):
    watermark, read_so_far, done = Watermark(), set[int](), set[int]()
    offset, last = data.draw(st.integers(0, 1000)), 0
    for _ in range(data.draw(st.integers(0, 40))):
        undone = sorted(read_so_far - done)
        if undone and data.draw(st.booleans()):
            closing = data.draw(st.sampled_from(undone))
            watermark.closed(closing)
            done.add(closing)
        else:
            offset += data.draw(st.integers(1, 3))
            watermark.opened(offset)
            read_so_far.add(offset)
        assert watermark.value >= last
        last = watermark.value
        assert {read for read in read_so_far if read < last} <= done
        assert last == min(read_so_far - done, default=max(read_so_far) + 1)
