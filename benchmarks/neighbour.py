"""A busy neighbour: a process that goes through memory as fast as it can. On the proxy's core it takes half of the time
and empties the caches, as another container of the node does.
"""

from __future__ import annotations

BLOCK_BYTES = 8 * 2**20
"""More than a core's own caches hold."""


def main() -> None:
    blocks = bytearray(BLOCK_BYTES), bytearray(BLOCK_BYTES)
    while True:
        blocks[0][:] = blocks[1]
        blocks[1][:] = blocks[0]


if __name__ == "__main__":
    main()
