# SPDX-License-Identifier: Apache-2.0
"""The run's secret key, and the streams of random numbers that are functions of it.

A stream is named by (purpose, step, index, rank). Its 256-bit subkey is BLAKE2b of that name, keyed with the
run's key (a pseudo-random function), and its bytes are the AES-256-CTR keystream of the subkey. So two
streams are independent, a stream does not depend on batch size, physical batches or device, and nothing has
to be stored to draw
the noise of a step: the key lives in memory for one run and is never written.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from confide.errors import InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext

KEY_BYTES = 32
SPARE = 15  # bytes that the cipher wants behind what it writes


class RunKey:
    """A 256-bit secret. It cannot be printed, copied or pickled.

    Attributes:
        private: False for a key made from a seed, which anybody can repeat: such a run protects nobody.
    """

    __slots__ = ("__secret", "private")

    def __init__(self, secret: bytes, *, private: bool) -> None:
        if len(secret) != KEY_BYTES:
            raise InputError(f"a run key has {KEY_BYTES} bytes, not {len(secret)}")
        self.__secret = bytes(secret)
        self.private = private

    @classmethod
    def from_os(cls) -> RunKey:
        """A fresh key from the operating system's entropy."""
        return cls(os.urandom(KEY_BYTES), private=True)

    @classmethod
    def from_bytes(cls, secret: bytes) -> RunKey:
        """A key that another process of the same run drew from its operating system."""
        return cls(secret, private=True)

    @classmethod
    def from_seed(cls, seed: int) -> RunKey:
        """A repeatable key for research; runs with it are stamped as not private."""
        if seed < 0:
            raise InputError(f"a seed is not negative: {seed}")
        return cls(
            hashlib.blake2b(str(seed).encode(), digest_size=KEY_BYTES, person=b"confide seed").digest(),
            private=False,
        )

    def stream(self, purpose: str, *, step: int, index: int = 0, rank: int = 0) -> Stream:
        """The stream of this name, from its beginning."""
        if min(step, index, rank) < 0 or max(step, index, rank) >= 2**64:
            raise InputError(f"a stream is numbered by 64-bit integers, not ({step}, {index}, {rank})")
        name = purpose.encode()
        # Length first and fixed widths after it: no two names have the same encoding.
        encoded = (
            len(name).to_bytes(4, "little")
            + name
            + b"".join(n.to_bytes(8, "little") for n in (step, index, rank))
        )
        return Stream(hashlib.blake2b(encoded, key=self.__secret, digest_size=KEY_BYTES).digest())

    def __repr__(self) -> str:
        return "RunKey(secret)" if self.private else "RunKey(seeded: not private)"

    def __reduce__(self) -> NoReturn:
        raise InputError(
            "a run key cannot be copied or written", why="Whoever has it can subtract the noise."
        )

    def __copy__(self) -> NoReturn:
        self.__reduce__()

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce__()


@functools.lru_cache(maxsize=4)
def _zeros(count: int) -> bytes:
    return bytes(count)


class Stream:
    """Random numbers from one keystream; each call goes on where the last one stopped."""

    __slots__ = ("__cipher",)

    def __init__(self, subkey: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        # The subkey is used for this stream only, so the counter may start at zero.
        self.__cipher: CipherContext = Cipher(algorithms.AES(subkey), modes.CTR(bytes(16))).encryptor()

    def bytes(self, count: int) -> bytes:
        """The next bytes of the keystream."""
        return self.__cipher.update(bytes(count))

    def fill(self, room: bytearray, count: int) -> NDArray[np.uint64]:
        """The next uniform 64-bit integers, (count,), written to `room` of 8·count + `SPARE` bytes at least.

        They are a view of `room`, which a caller may use again and again: fresh memory costs more than the
        numbers.
        """
        self.__cipher.update_into(_zeros(8 * count), memoryview(room)[: 8 * count + SPARE])
        return np.frombuffer(room, dtype="<u8", count=count)

    def words(self, count: int) -> NDArray[np.uint64]:
        """Uniform 64-bit integers, (count,)."""
        return np.frombuffer(self.bytes(8 * count), dtype="<u8")

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Uniform on the multiples of 2^-53 in [0, 1), (count,)."""
        return (self.words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def bernoulli(self, probability: float, count: int) -> NDArray[np.bool_]:
        """Independent coins, (count,): true with probability at most `probability`, and less by under 2^-64.

        Rounded down, because a larger sampling rate would be less private.
        """
        if probability >= 1:
            return np.ones(count, dtype=np.bool_)
        return self.words(count) < np.uint64(math.floor(probability * 2.0**64))

    def permutation(self, count: int) -> NDArray[np.int64]:
        """A uniformly random order of 0..count-1: by sorting 64-bit keys, drawn anew if two are equal."""
        while True:
            keys = self.words(count)
            order = np.argsort(keys, kind="stable")
            if count < 2 or (np.diff(keys[order]) > 0).all():
                return order.astype(np.int64)

    def __repr__(self) -> str:
        return "Stream(secret)"

    def __reduce__(self) -> NoReturn:
        raise InputError("a stream cannot be copied or written", why="Whoever has it can subtract the noise.")
