"""The runner's binary frames."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.frames import BrokenFrame, Decoder, encode


@given(
    frames=st.lists(st.tuples(st.sampled_from(["step", "image", "end"]), st.binary(max_size=300)), max_size=8),
    cuts=st.lists(st.integers(0, 2000), max_size=10),
)
def test_frames_survive_any_cutting_of_the_stream(frames: list[tuple[str, bytes]], cuts: list[int]):
    stream = b"".join(encode(kind, payload, n=index) for index, (kind, payload) in enumerate(frames))
    decoder = Decoder()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    got = [frame for a, b in pairwise(edges) for frame in decoder.feed(stream[a:b])]
    assert [(frame.kind, frame.payload) for frame in got] == frames
    assert [frame.header["n"] for frame in got] == list(range(len(frames)))


@pytest.mark.parametrize(
    "data", [b"\xff" * 8, b"\x00\x00\x00\x02\x00\x00\x00\x00[]", b"\x00\x00\x00\x02\x00\x00\x00\x00{}"]
)
def test_bytes_that_are_no_frames_are_refused(data: bytes):
    with pytest.raises(BrokenFrame):
        list(Decoder().feed(data))
