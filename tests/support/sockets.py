"""The sockets on which other processes can reach a part."""

import contextlib
import socket
from collections.abc import Iterable

import psutil


def open_to_others(processes: Iterable[psutil.Process]) -> set[str]:
    """Each socket of the processes that another process can connect or send to: `tcp HOST:PORT`, `udp HOST:PORT`, or
    `unix PATH`."""
    sockets = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in process.net_connections("all"):
                if connection.family == socket.AF_UNIX:
                    if connection.laddr:
                        sockets.add(f"unix {connection.laddr}")
                elif connection.laddr and not connection.raddr:
                    kind = "tcp" if connection.type == socket.SOCK_STREAM else "udp"
                    sockets.add(f"{kind} {connection.laddr.ip}:{connection.laddr.port}")
    return sockets
