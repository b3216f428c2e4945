"""The wire between consumer and runner: typed frames, and their bytes."""

import json
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.capabilities import RunnerDescription, ServedModel
from tasks.runner_api import BrokenFrame, Decoder, End, Frame, Image, Input, Request, Started, Step, encode
from tests.proofs.upgrade.reading import VERSIONS, sample


def raw(header: object, payload: bytes = b"") -> bytes:
    """A frame with any header."""
    head = json.dumps(header).encode()
    return struct.pack(">II", len(head), len(payload)) + head + payload


FRAMES = st.one_of(
    st.builds(Step, step=st.integers(1, 99), steps=st.integers(1, 99)),
    st.builds(
        Image,
        index=st.integers(0, 9),
        content_type=st.just("image/png"),
        width=st.just(64),
        height=st.just(32),
        seed=st.integers(0, 2**63 - 1),
        payload=st.binary(max_size=300),
    ),
    st.builds(End, seconds_generating=st.none() | st.floats(0, 1e6), images=st.integers(0, 9)),
    st.builds(Request, payload=st.binary(max_size=300)),
    st.builds(Input, name=st.just("mask"), content_type=st.just("image/webp"), payload=st.binary(max_size=300)),
)


@given(frames=st.lists(FRAMES, max_size=8), cuts=st.lists(st.integers(0, 2000), max_size=10))
def test_frames_survive_any_cutting_of_the_stream(frames: list[Frame], cuts: list[int]):
    stream = b"".join(map(encode, frames))
    decoder = Decoder()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    assert [frame for a, b in pairwise(edges) for frame in decoder.feed(stream[a:b])] == frames
    assert decoder.at_boundary


@pytest.mark.parametrize(
    "data", [b"\xff" * 8, b"\x00\x00\x00\x02\x00\x00\x00\x00[]", b"\x00\x00\x00\x02\x00\x00\x00\x00{}"]
)
def test_bytes_that_are_no_frames_are_refused(data: bytes):
    with pytest.raises(BrokenFrame):
        list(Decoder().feed(data))


@pytest.mark.parametrize(
    ("header", "field"),
    [
        ({"kind": "step", "step": 0, "steps": 5}, "step"),
        ({"kind": "step", "step": "1", "steps": 5}, "step"),
        ({"kind": "step", "step": 1}, "steps"),
        ({"kind": "image", "index": 0, "content_type": "x\r\ny", "width": 1, "height": 1, "seed": 1}, "content_type"),
        ({"kind": "error", "code": "x"}, "message"),
        ({"kind": "end", "seconds_generating": float("nan")}, "seconds_generating"),
    ],
)
def test_a_frame_that_does_not_fit_its_kind_is_broken(header: object, field: str):
    with pytest.raises(BrokenFrame, match=field):
        list(Decoder().feed(raw(header)))


def test_a_kind_or_a_field_of_a_newer_version_is_skipped():
    stream = raw({"kind": "thought", "x": 1}, b"abc") + raw({"kind": "started", "queued_seconds": 1, "mood": "good"})
    assert list(Decoder().feed(stream)) == [Started(queued_seconds=1)]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_frames_of_every_version_are_read_and_written_byte_for_byte(version: str):
    frozen = [bytes.fromhex(frame) for frame in sample(version, "frames")]
    frames = list(Decoder().feed(b"".join(frozen)))
    assert [frame.kind for frame in frames] == ["accepted", "started", "step", "preview", "image", "end"]
    assert list(map(encode, frames)) == frozen


def test_a_served_model_has_the_fields_that_older_versions_read():
    frozen = sample("0.1.0", "card")
    newer = {"stand_ins": {}, "inputs": [], "loading": 0}
    assert ServedModel.model_validate(frozen).model_dump(mode="json") == frozen | newer


def test_a_description_of_a_newer_runner_is_read_as_far_as_it_is_known():
    served = ServedModel.model_validate(sample("0.1.0", "card"))
    document = json.loads(RunnerDescription.of_served(served).model_dump_json())
    document["mood"] = document["status"]["mood"] = document["status"]["models"]["sd-mini"]["mood"] = "good"
    document["status"]["models"]["not described"] = {"loaded": True, "pixel_budget": 1}
    assert RunnerDescription.model_validate(document).served() == {"sd-mini": served}
