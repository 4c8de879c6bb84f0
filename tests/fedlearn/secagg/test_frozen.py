"""Our own frozen vectors: a change of format, order of bytes or key schedule shows here."""

import pytest

from fedlearn.core.errors import UnauthenticatedError
from fedlearn.secagg.messages import Params
from tests.vectors import load
from tests.vectors.freeze import PARAMS, receiver, values

FROZEN = load("fedlearn_v1")[0]


@pytest.mark.parametrize("name", FROZEN["values"])
def test_frozen__value_is_reproduced(name: str) -> None:
    assert values()[name] == FROZEN["values"][name]


def test_frozen__parameters_decode() -> None:
    assert Params.decode(bytes.fromhex(FROZEN["values"]["params"])) == PARAMS


@pytest.mark.parametrize("name", FROZEN["bad_params"])
def test_frozen__bad_message_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"message|name|utf-8"):
        Params.decode(bytes.fromhex(FROZEN["bad_params"][name]))


def test_frozen__sealed_message_opens_and_any_change_of_its_header_does_not() -> None:
    message = bytes.fromhex(FROZEN["sealed"])
    assert receiver().open(9, message).data == b"sealed with a fixed root"
    for at in range(84):
        bad = bytearray(message)
        bad[at] ^= 0x80
        with pytest.raises(UnauthenticatedError):
            receiver().open(9, bytes(bad))
