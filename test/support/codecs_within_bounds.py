"""Run every codec's kernels over hostile bytes; a script for ``NUMBA_BOUNDSCHECK=1``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from packet_bytes import WORD_BYTES, random_payload

from scaleevent_ros.events import encode_evt2, encode_evt3, make_decoder
from scaleevent_ros.events.compile import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENCODE = {"evt3": encode_evt3, "evt2": encode_evt2}


@kernel
def read(values: NDArray[np.float64], index: int) -> float:
    """Read what may not be there."""
    return float(values[index])


def is_checked() -> bool:
    """Return whether kernels check bounds."""
    try:
        read(np.zeros(3), 3)
    except IndexError:
        return True
    return False


def main() -> None:
    """Decode random words, noise and the fullest words, on small and large sensors."""
    for encoding, word_bytes in WORD_BYTES.items():
        for side in (1, 50, 2048):
            decoder = make_decoder(encoding, side, side)
            for seed in range(20):
                decoder.decode(random_payload(encoding, seed, 500), seed).validate()
                noise = np.random.default_rng(seed).bytes(3001)
                decoder.decode(noise, seed + 100).validate()
            for byte in range(256):
                decoder.decode(bytes([0xFF] * (word_bytes - 1) + [byte]) * 50, 200).validate()
            decoder.triggers()
    for encoding, encode in ENCODE.items():
        batch = make_decoder(encoding, 2048, 2048).decode(random_payload(encoding, 1, 3000))
        encode(batch)
    if is_checked():
        print("bounds were checked and kept")  # noqa: T201 - what the test reads


if __name__ == "__main__":
    main()
