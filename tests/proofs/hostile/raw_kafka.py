"""A record with a header name that is not UTF-8, written with librdkafka itself: the Python client refuses one."""

import ctypes
from pathlib import Path

import confluent_kafka

_TOPIC, _VALUE, _KEY, _FLAGS, _HEADER, _END, _COPY = 1, 4, 5, 7, 9, 0, 2


def write_header_name(bootstrap: str, topic: str, value: bytes, name: bytes) -> None:
    """Write one record that has one header with this name."""
    (path,) = (Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs").glob("librdkafka*.so*")
    lib = ctypes.CDLL(str(path))
    for function in (lib.rd_kafka_conf_new, lib.rd_kafka_new):
        function.restype = ctypes.c_void_p
    error = ctypes.create_string_buffer(512)
    conf = ctypes.c_void_p(lib.rd_kafka_conf_new())
    assert lib.rd_kafka_conf_set(conf, b"bootstrap.servers", bootstrap.encode(), error, 512) == 0, error.value
    producer = ctypes.c_void_p(lib.rd_kafka_new(0, conf, error, ctypes.c_size_t(512)))
    size, key = ctypes.c_size_t, b"sd-mini"
    code = lib.rd_kafka_producev(
        producer,
        *(_TOPIC, ctypes.c_char_p(topic.encode())),
        *(_VALUE, ctypes.c_char_p(value), size(len(value))),
        *(_KEY, ctypes.c_char_p(key), size(len(key))),
        *(_FLAGS, _COPY),
        *(_HEADER, ctypes.c_char_p(name), ctypes.c_char_p(b"x"), size(1)),
        _END,
    )
    assert code == 0, code
    assert lib.rd_kafka_flush(producer, 30_000) == 0
    lib.rd_kafka_destroy(producer)
