from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedlearn.crypto.keystream import BLOCK_BYTES, SecureWords, add_masks

KEYS = [bytes([index]) * 32 for index in range(5)]


def oracle_keystream(key: bytes, length: int) -> bytes:
    """CTR by hand: the block cipher applied to a big-endian counter."""
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    blocks = -(-length // 16)
    return cipher.update(b"".join(at.to_bytes(16, "big") for at in range(blocks)))[:length]


@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<u8"])
@pytest.mark.parametrize("length", [0, 1, 7, 1000, BLOCK_BYTES // 4 + 3])
def test_add_masks__equals_counter_mode_by_hand(dtype: str, length: int) -> None:
    word = np.dtype(dtype)
    start = np.arange(length).astype(word)
    vector = start.copy()
    add_masks(vector, KEYS[:2], KEYS[2:])
    expected = start.copy()
    for index, key in enumerate(KEYS):
        mask = np.frombuffer(oracle_keystream(key, length * word.itemsize), word)
        expected = expected + mask if index < 2 else expected - mask
    assert np.array_equal(vector, expected)


@pytest.mark.parametrize("parts", [2, 3, 7, 64])
def test_add_masks__does_not_depend_on_parts_or_threads(parts: int) -> None:
    length = 3 * BLOCK_BYTES // 4 + 5
    plain, split, threaded = (np.zeros(length, "<u4") for _ in range(3))
    add_masks(plain, KEYS)
    add_masks(split, KEYS, parts=parts)
    with ThreadPoolExecutor(2) as pool:
        add_masks(threaded, KEYS, parts=parts, run=pool.map)
    assert np.array_equal(plain, split)
    assert np.array_equal(plain, threaded)


def test_add_masks__takes_away_what_it_added() -> None:
    vector = np.arange(100_000).astype("<u4")
    add_masks(vector, KEYS)
    add_masks(vector, minus=KEYS)
    assert np.array_equal(vector, np.arange(100_000))


@pytest.mark.parametrize(
    "vector", [np.zeros(8, ">u4"), np.zeros(8, "<i4"), np.zeros(16, "<u4")[::2]]
)
def test_add_masks__refuses_other_words(vector: np.ndarray) -> None:
    with pytest.raises(ValueError, match="contiguous little-endian words"):
        add_masks(vector, KEYS)


def test_masks__are_uniform() -> None:
    # Chi-square of bytes against 255 degrees of freedom: mean 255, sd 22.6. A bound of 420
    # has a false-alarm rate below 1e-9 per key; the keys are fixed, so it cannot flicker.
    for key in KEYS:
        vector = np.zeros(250_000, "<u4")
        add_masks(vector, [key])
        counts = np.bincount(vector.view(np.uint8), minlength=256)
        expected = vector.nbytes / 256
        assert ((counts - expected) ** 2 / expected).sum() < 420


def test_secure_words__are_the_keystream_and_continue_it() -> None:
    words = SecureWords(KEYS[3])
    first, second = words.words(np.uint32, 100_003), words.words(np.uint16, 7)
    stream = oracle_keystream(KEYS[3], 100_003 * 4 + 14)
    assert first.tobytes() + second.tobytes() == stream


def test_secure_words__of_two_streams_differ_and_hide_their_key() -> None:
    one, two = SecureWords(), SecureWords()
    assert not np.array_equal(one.words(np.uint64, 4), two.words(np.uint64, 4))
    assert "32 bytes" in repr(SecureWords(b"s3cr" * 8))
    assert "s3cr" not in repr(SecureWords(b"s3cr" * 8))
