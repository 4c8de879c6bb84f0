"""Whatever a first server asks of the second, and however often that one dies: of the sums that
are opened in a round no two have a site in common, and none is of fewer than its least, or of
no more than half of those that were asked for it.

Here every site signs whatever it is asked for, under any cohort and round, as often as it is
asked, and some seal garbage: nothing but the second server stands between sums that differ by
one site.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.core.errors import ProtocolError
from fedlearn.core.ring import Ring
from fedlearn.secagg import proven, two_server
from fedlearn.secagg.framing import decode, encode
from fedlearn.secagg.messages import Params
from fedlearn.secagg.proofs.norm import NormBound
from fedlearn.secagg.proven import ProvingHelper, ProvingServer
from fedlearn.secagg.proven_messages import Statements, Verdicts
from fedlearn.secagg.two_server import FirstServer, Helper
from fedlearn.secagg.two_server_messages import MaskSum
from tests.effort import examples
from tests.fedlearn.secagg.federation import RUN_ID, federation, identity

BITS, LENGTH, LEAST = 20, 4, 3
FED = federation(7, bits=BITS, length=LENGTH)
BOUND = NormBound(bits=BITS, values=LENGTH - 1, counters=1, norm=3000)
KEPT = ProvingHelper(RUN_ID, FED.sites, min_cohort=LEAST).secrets()
OTHER = Helper(RUN_ID, FED.sites).public

some = st.lists(st.sampled_from(FED.names), unique=True).map(lambda x: tuple(sorted(x)))
most = some.map(lambda left: tuple(x for x in FED.names if x not in left[:2]))


@dataclass(frozen=True)
class Asked:
    """One request, and what becomes of the second server over it."""

    number: int
    cohort: tuple[str, ...]
    rows: tuple[str, ...]
    proved: bool
    garbage: tuple[str, ...]
    """They have sealed what is no seed."""
    spoiled: tuple[str, ...]
    """Of these the first server says that their proofs do not hold."""
    fate: str

    @property
    def params(self) -> Params:
        return replace(FED.params(self.number, self.cohort), bits=BITS)

    def request(self) -> bytes:
        """As a first server makes it that has got a contribution of every row."""
        rows = [name for name in self.rows if name in self.cohort]
        sent = {n: _sent(n, self.params, self.proved, n in self.garbage) for n in rows}
        first = _first(self.params, self.proved)
        for name, data in sent.items():
            first.receive(name, data)
        if not self.proved:
            return first.request()
        whole = decode(Statements, first.request(), self.params.context())
        lied = {n: (share, bytes(len(x))) for n, (share, x) in whole.table.items()}
        table = {n: (lied if n in self.spoiled else whole.table)[n] for n in whole.table}
        return encode(replace(whole, table=table), self.params.context())

    def opened(self, reply: bytes) -> frozenset[str]:
        """Whose keystreams are in the sum of a reply; nobody where it holds none."""
        context = self.params.context()
        if not self.proved:
            masks = decode(MaskSum, reply, context)
            return frozenset(masks.opened if masks.packed else ())
        verdicts = decode(Verdicts, reply, context)
        return frozenset(verdicts.table.keys() - set(self.spoiled) if verdicts.packed else ())


def _first(params: Params, proved: bool) -> FirstServer | ProvingServer:
    if proved:
        return ProvingServer(params, FED.sites, BOUND)
    return FirstServer(params, FED.sites)


@lru_cache(maxsize=4096)
def _sent(name: str, params: Params, proved: bool, garbage: bool) -> bytes:
    vector = Ring(bits=BITS).zeros(LENGTH)
    key = OTHER if garbage else ProvingHelper(RUN_ID, FED.sites, kept=KEPT).public
    if proved:
        return proven.contribute(identity(name), name, params, vector, 1, BOUND, key)
    return two_server.contribute(identity(name), name, params, vector, key)


@dataclass
class Second:
    """The second server as its disk has it, and all that it has opened, by round."""

    kept: two_server.Kept = KEPT
    sums: dict[int, list[frozenset[str]]] = field(default_factory=dict)

    def asked(self, one: Asked) -> None:
        """Started anew for every request, as its program is for every message."""
        helper = ProvingHelper(RUN_ID, FED.sites, min_cohort=LEAST, kept=self.kept)
        request = one.request()
        try:
            reply = helper.answer(one.params, request)
        except ProtocolError:
            assert helper.secrets() == self.kept, "a refusal spends nothing"
            return
        if one.fate == "dies before it has written":  # so nothing leaves either
            return
        self.kept = helper.secrets()
        if one.fate == "answers" and (found := one.opened(reply)):
            assert 2 * len(found) > len(one.cohort)
            self.sums.setdefault(one.number, []).append(found)


requests = st.builds(
    Asked,
    number=st.integers(1, 3),
    cohort=st.one_of(most, some.filter(lambda x: len(x) >= LEAST)),
    rows=most,
    proved=st.sampled_from((False, False, True)),
    garbage=some.map(lambda x: x[:2]),
    spoiled=some.map(lambda x: x[:2]),
    fate=st.sampled_from(("answers",) * 4 + ("dies before it has written", "dies after")),
)


@settings(max_examples=examples(40, few=4), deadline=None)
@given(asked=st.lists(requests, min_size=2, max_size=5))
def test_sums_of_a_round__have_no_site_in_common_whatever_is_asked(asked: list[Asked]) -> None:
    second = Second()
    for one in asked:
        second.asked(one)
    _apart(second.sums)


def test_sums_of_a_round__are_really_opened_here() -> None:
    """Two of disjoint cohorts, one of each kind; another that has a site of them is not."""
    names, second = FED.names, Second()
    plain = Asked(1, names[:3], names, False, (), (), "answers")
    whole = Asked(1, names[3:], names, True, (names[3],), (), "answers")
    for one in (plain, replace(whole, cohort=names[2:], proved=False), whole, whole):
        second.asked(one)
    assert second.sums == {1: [frozenset(names[:3]), frozenset(names[4:])]}
    _apart(second.sums)


def _apart(sums: Mapping[int, Collection[frozenset[str]]]) -> None:
    for of_round in sums.values():
        assert all(len(one) >= LEAST for one in of_round)
        assert not any(one & other for one, other in combinations(of_round, 2))
