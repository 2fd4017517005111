# SPDX-License-Identifier: Apache-2.0
"""Keys stay secret; streams are the published ciphers, named without collisions."""

from __future__ import annotations

import copy
import hashlib
import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.errors import InputError
from confide.mechanisms.keys import RunKey, Stream

SECRET = bytes(range(32))


def test_the_keystream_is_aes_256_in_counter_mode() -> None:
    # Counter zero encrypts the zero block: NIST AESAVS, VarKey, 256 bit, first answer.
    key = bytes.fromhex("80" + "00" * 31)
    assert Stream(key).bytes(16).hex() == "e35a6dcb19b201a01ebcfa8aa22b5759"
    # RFC 3686, test vector 9 (AES-256-CTR, 36 octets) ...
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    vector = bytes.fromhex("ff7a617ce69148e4f1726e2f43581de2aa62d9f805532edff1eed687fb54153d")
    start = bytes.fromhex("001cc5b7" + "51a51d70a1c11148" + "00000001")
    plain = bytes(range(36))
    known = "eb6c52821d0bbbf7ce7594462aca4faab407df866569fd07f48cc0b583d6071f1ec0e6b8"
    assert Cipher(algorithms.AES(vector), modes.CTR(start)).encryptor().update(plain).hex() == known
    # ... and a stream is that cipher from counter zero, block after block.
    blocks = b"".join(
        Cipher(algorithms.AES(vector), modes.ECB()).encryptor().update(i.to_bytes(16, "big"))
        for i in range(5)
    )
    assert Stream(vector).bytes(80) == blocks


def test_the_subkey_is_keyed_blake2b_of_the_name() -> None:
    # RFC 7693, appendix A, pins the hash itself.
    assert hashlib.blake2b(b"abc").hexdigest().startswith("ba80a53f981c4d0d")
    name = b"\x05\x00\x00\x00noise" + b"".join(n.to_bytes(8, "little") for n in (7, 2, 1))
    subkey = hashlib.blake2b(name, key=SECRET, digest_size=32).digest()
    stream = RunKey(SECRET, private=True).stream("noise", step=7, index=2, rank=1)
    assert stream.bytes(64) == Stream(subkey).bytes(64)


def test_a_stream_goes_on_where_it_stopped() -> None:
    whole = RunKey(SECRET, private=True).stream("noise", step=0).bytes(1000)
    parts = RunKey(SECRET, private=True).stream("noise", step=0)
    assert b"".join(parts.bytes(n) for n in (1, 0, 16, 333, 650)) == whole


NAME = st.tuples(
    st.text(max_size=6), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)
)


@given(NAME, NAME)
def test_streams_of_different_names_differ(
    one: tuple[str, int, int, int], two: tuple[str, int, int, int]
) -> None:
    key = RunKey(SECRET, private=True)
    a, b = (key.stream(p, step=s, index=i, rank=r).bytes(32) for p, s, i, r in (one, two))
    assert (a == b) == (one == two)  # a chance collision has probability 2^-256


def test_neighbouring_names_do_not_collide() -> None:
    key = RunKey.from_os()
    numbers = (0, 1, 2, 255, 256, 257, 2**32, 2**63)
    names = itertools.product(("", "a", "aa", "noise", "noise\0", "\0"), numbers, numbers, (0, 1, 256))
    seen = [key.stream(p, step=s, index=i, rank=r).bytes(32) for p, s, i, r in names]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("numbers", [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (2**64, 0, 0)])
def test_numbers_outside_the_encoding_are_refused(numbers: tuple[int, int, int]) -> None:
    step, index, rank = numbers
    with pytest.raises(InputError, match="64-bit"):
        RunKey.from_os().stream("noise", step=step, index=index, rank=rank)


def test_keys_of_the_operating_system_differ_between_calls_and_processes() -> None:
    code = (
        "from confide.mechanisms.keys import RunKey\n"
        "print(RunKey.from_os().stream('n', step=0).bytes(32).hex())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in "ab"
    ]
    here = [RunKey.from_os().stream("n", step=0).bytes(32).hex() for _ in range(50)]
    seen = [*here, *(run.stdout.strip() for run in runs)]
    assert len(set(seen)) == 52
    assert RunKey.from_os().private


def test_seeds_repeat_and_are_marked() -> None:
    one, two, other = RunKey.from_seed(7), RunKey.from_seed(7), RunKey.from_seed(8)
    first = one.stream("n", step=0).bytes(32)
    assert two.stream("n", step=0).bytes(32) == first != other.stream("n", step=0).bytes(32)
    assert not one.private
    assert "not private" in repr(one)
    with pytest.raises(InputError, match="negative"):
        RunKey.from_seed(-1)


def test_secrets_are_not_shown_copied_or_written() -> None:
    key = RunKey(SECRET, private=True)
    stream = key.stream("n", step=0)
    for thing in (key, stream):
        shown = repr(thing) + str(thing) + f"{thing!a}"
        assert SECRET.hex() not in shown
        assert repr(SECRET)[2:-1] not in shown
        assert not hasattr(thing, "__dict__")
        for forbidden in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(InputError, match="cannot be copied or written"):
                forbidden(thing)
        with pytest.raises(InputError, match="cannot be copied or written"):
            pickle.dumps({"inside": [thing]}, protocol=2)


def test_an_error_with_a_key_of_wrong_length_does_not_show_it() -> None:
    with pytest.raises(InputError) as raised:
        RunKey(b"too short", private=True)
    assert "too short" not in str(raised.value)


def test_uniforms_are_uniform() -> None:
    # False alarm: 31 degrees of freedom above 80, 3e-6; the mean, five standard deviations, 6e-7.
    values = RunKey.from_os().stream("u", step=0).uniform(320_000)
    assert ((values >= 0) & (values < 1)).all()
    counts = np.bincount((values * 32).astype(int), minlength=32)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 80
    assert abs(values.mean() - 0.5) < 5 * np.sqrt(1 / 12 / 320_000)


@pytest.mark.parametrize("probability", [1e-3, 0.3, 0.999])
def test_coins(probability: float) -> None:
    # False alarm: five standard deviations, 6e-7 for each.
    count = 400_000
    heads = int(RunKey.from_os().stream("c", step=0).bernoulli(probability, count).sum())
    assert abs(heads - count * probability) < 5 * np.sqrt(count * probability * (1 - probability)) + 1


def test_sure_coins() -> None:
    stream = RunKey.from_os().stream("c", step=0)
    assert stream.bernoulli(1.0, 1000).all()
    assert not stream.bernoulli(1e-30, 1000).any()


def test_orders_are_permutations() -> None:
    stream = RunKey.from_os().stream("p", step=0)
    for count in (0, 1, 2, 100):
        assert sorted(stream.permutation(count)) == list(range(count))
    # All six orders of three: five degrees of freedom above 45 has probability 1.4e-8.
    seen = np.array([int("".join(map(str, stream.permutation(3)))) for _ in range(6000)])
    counts = np.unique(seen, return_counts=True)[1]
    assert len(counts) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 45
