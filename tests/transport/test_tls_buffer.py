"""Where buffers of TLS connections come from, in processes of their own."""

from __future__ import annotations

import asyncio
import gc
import mmap
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.transport import tls_buffer
from meshproxy.transport.tls_buffer import give_back, map_apart

PROGRAM = """
import asyncio, ctypes, sys
from meshproxy.transport.tls_buffer import APART, map_apart
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype, libc.free.argtypes = [ctypes.c_size_t], ctypes.c_void_p, [ctypes.c_void_p]
class Usage(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks".split()] + [
        ("rest", ctypes.c_size_t * 4)
    ]
libc.mallinfo2.restype = Usage
def made(size):
    before = libc.mallinfo2().hblks
    kept = [libc.malloc(size) for _ in range(10)]
    return libc.mallinfo2().hblks - before
async def main():
    libc.free(libc.malloc(1 << 20))  # from now on, glibc has blocks of this size in its heap
    loop = asyncio.get_running_loop()
    print(made(APART), end=" ")
    map_apart(loop)
    print(made(APART), made(98_304), end=" ")
    await asyncio.sleep(0)
    print(made(APART))
asyncio.run(main())
"""


def test_one_turn_of_the_loop_maps_them_apart() -> None:
    """Large bodies, before and after it and in the pieces that are read, come from the heap."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "10", "0", "0"]


def buffer_of(transport: asyncio.BaseTransport) -> memoryview:
    (protocol,) = (each for each in gc.get_referents(transport) if type(each).__name__ == "SSLProtocol")
    found: memoryview = protocol.get_buffer(1)
    return found


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_buffer_is_given_back_and_used_again(tmp_path: Path) -> None:
    authority = DevelopmentCA.create("m.example")
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown.load_cert_chain(*authority.issue(dns=["localhost"]).write(tmp_path, "server"))
    trusting = ssl.create_default_context(cafile=str(authority.write(tmp_path)))
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    async with await asyncio.start_server(
        lambda *streams: accepted.put_nowait(streams), "127.0.0.1", 0, ssl=shown
    ) as server:
        port = server.sockets[0].getsockname()[1]
        _, client = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname="localhost")
        reader, writer = await accepted.get()
        body = bytes(range(256)) * 400
        buffer = buffer_of(writer.transport)
        inner = slice(mmap.PAGESIZE, -mmap.PAGESIZE)  # the rest of the first and of the last page may be others'
        for _ in range(3):
            client.write(body)
            assert await reader.readexactly(len(body)) == body
            assert any(buffer[inner])
            give_back(writer.transport)
            assert not any(buffer[inner]), "pages that are gone are read as zeros"
        client.close()
        writer.close()
        await client.wait_closed()


async def test_plain_connections_have_none() -> None:
    give_back(asyncio.Transport())


async def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_buffer, "_libc", lambda: tls_buffer._Libc(None, None))
    map_apart(asyncio.get_running_loop())
