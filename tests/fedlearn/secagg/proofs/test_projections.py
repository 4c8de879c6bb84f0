import numpy as np
import pytest

from fedlearn.secagg.proofs.projections import project
from tests.fedlearn.secagg.proofs import slow

KEY = bytes(range(32))


@pytest.mark.parametrize("size", [1, 7, 8, 9, 300, 4097])
def test_images__are_sums_by_the_signs_of_the_stream(size: int) -> None:
    vector = np.random.default_rng(size).integers(0, 2**64, size, dtype=np.uint64)
    count = 5 if size > 300 else 37
    expected = [one % 2**64 for one in slow.images(vector.tolist(), KEY, count)]
    assert project(vector, KEY, count).tolist() == expected


def test_images__of_parts_add_up_to_those_of_the_sum() -> None:
    one, other = np.random.default_rng(1).integers(0, 2**64, (2, 5000), dtype=np.uint64)
    both = project(one, KEY, 64) + project(other, KEY, 64)
    assert np.array_equal(both, project(one + other, KEY, 64))


def test_signs__are_0_half_of_the_time_and_1_as_often_as_minus_1() -> None:
    # One coordinate: its images are its signs. Each count is within 6 deviations.
    count = 1 << 16
    for at in (0, 3, 7):
        vector = np.zeros(8, np.uint64)
        vector[at] = 1
        signs = project(vector, KEY, count).view(np.int64)
        for sign, share in ((0, 0.5), (1, 0.25), (-1, 0.25)):
            found = np.count_nonzero(signs == sign)
            assert abs(found - share * count) < 6 * (share * (1 - share) * count) ** 0.5
    assert not np.array_equal(project(vector, KEY, 64), project(vector, bytes(32), 64))
