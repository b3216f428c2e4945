"""Hostile input as hypothesis strategies: values at every edge, records, request bodies, headers and paths."""

import json
from collections.abc import Sequence

from hypothesis import strategies as st

GOOD_ID = "0123456789abcdef" * 2
NUMBERS = (
    *(
        "0",
        "-0",
        "-0.0",
        "1",
        "-1",
        "1.5",
        "true",
        "false",
        "null",
        "1e2",
        "64.0",
        "1e-400",
        "1e400",
        "-1e400",
        "1E+99999",
    ),
    *("NaN", "Infinity", "-Infinity", "1" * 400, "1" * 5000, "-" + "9" * 400, "0x10", "01", "1_000", "+1", ".5", "1."),
    *(str(2**power + off) for power in (31, 32, 53, 63, 64, 128) for off in (-1, 0, 1)),
    *(str(-(2**63) + off) for off in (-1, 0, 1)),
    *("253402300799", "253402300800", "-62135596801", "1e308", "5e-324", "604800", "604801", "16384", "10000"),
)
STRINGS = (
    *(
        "",
        " ",
        ".",
        "..",
        "../../etc/passwd",
        "..\\..\\windows",
        "/etc/passwd",
        "a/../b",
        "%2e%2e%2f",
        "file:///etc/passwd",
    ),
    *(
        "sd-mini/../flux-mini",
        "sd-mini\n",
        "sd-mini\x00",
        "\x00",
        "a\x00b",
        "\n",
        "\r\nX-Forged: 1",
        "\x1b[31mred",
        "~",
        "$HOME",
    ),
    *(
        "{0.__class__}",
        "%s%s%n",
        "${jndi:ldap://x}",
        "'; DROP TABLE tasks; --",
        "<script>alert(1)</script>",
        "CON",
        "-rf",
    ),
    *(
        "\u202eevil\u202c",
        "e" + "\u0301" * 500,
        "\ufeff",
        "\uffff",
        "\U0010ffff",
        "\U0001f4a9" * 100,
        "مرحبا",
        "ﷺ" * 200,
    ),
    *(
        "\u2028",
        "\x7f",
        "\x85",
        "sd-mini",
        "night",
        "online_task",
        "ai_image_gen.events",
        "events",
        "anonymous",
        "euler",
    ),
    *(
        "x" * 200,
        "x" * 201,
        "x" * 100_000,
        "x" * 100_001,
        "\U0001f600" * 25_000,
        GOOD_ID,
        GOOD_ID.upper(),
        "0" * 32,
        "g" * 32,
    ),
    *("png", "PNG", "gif", "system/id_secret", "tasks/../system/id_secret", "outcome.json"),
)
RAW_STRINGS = (
    r'"\ud800"',
    r'"\udfff"',
    r'"\ud83d\ude00"',
    r'"\ude00\ud83d"',
    r'"\u0000"',
    r'"\uD800\u0041"',
    '"\t"',
    '"\\x"',
)
NESTED = ("[" * 50 + "]" * 50, "[" * 5000 + "]" * 5000, '{"a":' * 3000 + "1" + "}" * 3000, "[" * 100_000)
FIELDS = (
    *(
        "task_id",
        "model_name",
        "prompt",
        "negative_prompt",
        "image_params",
        "loras",
        "user_id",
        "topic",
        "start_within",
    ),
    *(
        "max_runtime",
        "previews",
        "created_at",
        "alias",
        "fingerprint",
        "request_sha256",
        "traceparent",
        "cost",
        "__class__",
        "kind",
        "attempt",
    ),
)
PARAMS = ("width", "height", "steps", "guidance_scale", "seed", "num_images", "format", "scheduler", "unknown")

strings = st.sampled_from(STRINGS) | st.text(max_size=60)
numbers = st.sampled_from(NUMBERS) | st.integers().map(str) | st.floats().map(json.dumps)
scalars = numbers | strings.map(json.dumps) | strings.map(lambda text: json.dumps(text, ensure_ascii=False))
_lists = st.lists(scalars, max_size=4).map(lambda items: f"[{','.join(items)}]")
_maps = st.lists(st.tuples(strings.map(json.dumps), scalars), max_size=4).map(lambda pairs: written(pairs))
values = st.one_of(scalars, scalars, scalars, st.sampled_from(RAW_STRINGS + NESTED), _lists, _maps)
"""Text that is valid or almost valid JSON."""


def written(pairs: Sequence[tuple[str, str]]) -> str:
    """A JSON object of these keys and values, which are JSON already. Keys may repeat."""
    return "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"


def _objects(fields: Sequence[str]) -> st.SearchStrategy[str]:
    keys = st.sampled_from(fields).map(json.dumps) | strings.map(json.dumps)
    return st.lists(st.tuples(keys, values), max_size=3).map(written)


_loras = st.lists(strings.map(json.dumps) | _objects(("name", "weight")), max_size=5).map(
    lambda items: f"[{','.join(items)}]"
)
_special = {"image_params": _objects(PARAMS) | values, "loras": _loras | values}


@st.composite
def bodies(draw: st.DrawFn, fields_of: Sequence[str] = FIELDS, **good: str) -> bytes:
    """A valid object (`good`: its fields as JSON) with a few hostile fields; sometimes not an object at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300) | values.map(_bytes))
    fields = dict(good)
    for name in draw(st.lists(st.sampled_from(fields_of), max_size=4, unique=True)):
        fields[name] = draw(_special.get(name, values))
    for name in draw(st.lists(st.sampled_from(sorted(good)), max_size=1)) if draw(st.integers(0, 19)) == 0 else []:
        fields.pop(name, None)
    text = written([(json.dumps(name), value) for name, value in fields.items()])
    body = _bytes(text)
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.binary(max_size=4)) + body[at + draw(st.integers(0, 4)) :]
    return body


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


record_bodies = bodies(task_id=f'"{GOOD_ID}"', model_name='"sd-mini"', prompt='"a red circle"')
request_bodies = bodies(model_name='"sd-mini"', prompt='"a red circle"')
_EVENTS: tuple[dict[str, str], ...] = (
    {"kind": '"started"', "attempt": "1", "owner": '"o"'},
    {"kind": '"progress"', "attempt": "1", "owner": '"o"', "step": "1", "steps": "9"},
    {"kind": '"released"', "attempt": "1", "owner": '"o"', "delay": "0.5", "counts": "true"},
    {"kind": '"cancel_requested"'},
    {"kind": '"outcome"', "status": '"failed"', "attempt": "1", "task": "{}", "error": '{"code":"x","message":"y"}'},
    {"kind": '"from_tomorrow"'},
)
event_bodies = st.sampled_from(_EVENTS).flatmap(
    lambda event: bodies(sorted({"task_id", "at", *event}), **{"task_id": f'"{GOOD_ID}"', "at": "1.0", **event})
)
_CARD = {
    "model": '"other"', "family": '"stable_diffusion"', "width": "64", "height": "64", "size_multiple": "8", "min_side": "32",
    "max_side": "256", "max_pixels": "65536", "steps": "10", "max_steps": "100", "guidance_scale": "5.0",
    "schedulers": '["euler"]', "default_scheduler": '"euler"', "max_prompt_length": "1000", "pixel_budget": "8192",
    "seconds_per_megapixel_step": "10.0", "max_num_images": "4", "max_loras": "4", "runners": "1", "waiting": "0",
}  # fmt: skip
card_bodies = bodies(sorted(_CARD.keys() - {"model"}), **_CARD)
record_keys = st.sampled_from(("sd-mini", "", "sd-mini/7", "nobody's", "\x00", "../..", "x" * 5000)) | st.text(
    max_size=20
)
record_headers = st.dictionaries(st.text(max_size=20), st.binary(max_size=40), max_size=3)

_latin = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=60)
_values: dict[str, tuple[str, ...]] = {
    "Prefer": ("wait=0", "wait=-1", "wait=99999999999", "wait=0, wait=60", "wait", "wait=1e9", 'wait="0"', "x" * 4000),
    "Accept": ("image/*", "*/*;q=nan", "image/png;q=1_0", "a/b", ",,,;;;", "image/*;q=-1", "text/html", ", " * 2000),
    "Idempotency-Key": ("k", "", "x" * 300, "é", "../../", "' OR 1=1"),
    "Content-Type": (
        "application/json", "application/json; charset=utf-16", "application/json;charset=\"", "text/plain", "",
        "application/x+json", "multipart/form-data; boundary=x", "application/json, text/plain", "APPLICATION/JSON",
    ),
    "Content-Length": ("0", "-1", "9" * 30, "9" * 5000, "²", "1e3", " 5", "٣"[:0]),
    "traceparent": ("00-" + "0" * 32 + "-" + "0" * 16 + "-00", "zz", "00-" + "f" * 5000),
    "If-None-Match": ("*", '"', 'W/"x", *', ", " * 2000),
    "Range": ("bytes=0-", "bytes=-0", "bytes=9-1", "bytes=" + "9" * 30 + "-", "bytes=0-0,1-1", "lines=1-2", "bytes=--1"),
    "If-Range": ('"x"', "Tue, 24 Nov 2026 10:00:00 GMT", "\xff"),
    "Last-Event-ID": ("1", "-1", "9" * 4000, "\xff\xfe", "../x"),
    "Authorization": ("Bearer", "Bearer ", "Basic Og==", "Bearer aig_x_y", "bearer\t\xff", "Bearer " + "x" * 4000),
    "X-API-Key": ("", "aig_", "aig_000000000000_" + "0" * 64, "\xff"),
    "Host": ("", "[", "a:b:c", "x" * 300, "evil.example/..", "\xff"),
    "X-Forwarded-For": ("' OR 1=1", "127.0.0.1" * 100),
}  # fmt: skip
headers = st.lists(
    st.sampled_from(sorted(_values)).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from(_values[name]) | _latin)
    ),
    max_size=5,
)
"""Header lines; a name may repeat."""

_ids = st.sampled_from(
    (GOOD_ID, "0" * 32, "..", "%2e%2e", "..%2f..%2fsystem%2fid_secret", "%00", "%ff%fe", "x" * 3000, "*")
)
_places = (
    "/check_status/{}",
    "/get_image/{}",
    "/events/{}",
    "/cancel_task/{}",
    "/docs/{}",
    "/{}",
    "/static-offline-docs/{}",
)
_queries = (
    "",
    "?index=0",
    "?index=-1",
    "?index=1e3",
    "?index=%00",
    "?index=²",
    "?index=9999999999",
    "?index=0&index=1",
    "?" + "a=b&" * 500,
)
paths = st.builds(
    lambda place, name, query: place.format(name) + query, st.sampled_from(_places), _ids, st.sampled_from(_queries)
)
methods = st.sampled_from(("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "get", "BREW"))
