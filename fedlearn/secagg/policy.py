"""What a client decides for itself, and the checks that hold a server to it.

Nothing here is adopted from a message: roster, ring, threshold rule, smallest
cohort, layout and plan are the client's, and a proposal that differs is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedlearn.core.errors import ConfigError, ProtocolError
from fedlearn.crypto.codec import name_bytes
from fedlearn.crypto.identity import verify
from fedlearn.crypto.roster import SERVER
from fedlearn.secagg.graph import degree_of
from fedlearn.secagg.messages import Params, RoundKeys, Survivors
from fedlearn.secagg.settings import SecAggMasked, ring_of


@dataclass(frozen=True, kw_only=True)
class ClientPolicy:
    """What a client knows and decides for itself; a server's values are compared with it.

    `sites` is the pinned roster (name to Ed25519 public key), `length` the ring
    elements of a contribution, `after_round` the last round that the client took
    part in (-1 for none). The caller stores a round as taken before it sends the
    first reply, so that a restart cannot take it twice. `min_cohort` is what the client
    demands beside the settings, which are those of all.
    """

    name: str
    sites: Mapping[str, bytes]
    settings: SecAggMasked
    run_id: bytes
    after_round: int
    length: int
    layout_hash: bytes
    plan_hash: bytes
    min_cohort: int = 0

    @property
    def least(self) -> int:
        """The fewest clients in a sum that this one helps to open."""
        return max(self.min_cohort, self.settings.min_cohort)


def check_params(params: Params, policy: ClientPolicy) -> None:
    """Compares everything that the server proposes with what the client decided.

    Raises:
        ProtocolError: something is not what the policy says.
    """

    def refuse(reason: str) -> ProtocolError:
        return ProtocolError(SERVER, "advertise", reason)

    strangers = [name for name in params.cohort if name not in policy.sites]
    if strangers:
        raise refuse(f"not on the roster: {', '.join(strangers)}")
    if policy.name not in params.cohort or len(params.cohort) < policy.least:
        raise refuse(
            f"the cohort of {len(params.cohort)} lacks this client, or has fewer than "
            f"{policy.least}"
        )
    if params.run_id != policy.run_id or params.round <= policy.after_round:
        raise refuse(f"another run, or round {params.round} again (last: {policy.after_round})")
    own = (ring_of(policy.settings).bits, policy.length, policy.layout_hash, policy.plan_hash)
    if (params.bits, params.length, params.layout_hash, params.plan_hash) != own:
        raise refuse("bits, length, layout or plan differ from this client's configuration")
    try:
        degree = degree_of(policy.settings, len(params.cohort))
    except ConfigError as error:
        raise refuse(str(error)) from None
    if (params.neighbours, params.threshold) != (degree.neighbours, degree.threshold):
        raise refuse(
            f"{params.threshold} of {params.neighbours} is not this client's rule for "
            f"{len(params.cohort)} clients ({degree.threshold} of {degree.neighbours})"
        )
    if degree.neighbours < len(params.cohort) - 1 and policy.least > degree.smallest_part:
        raise refuse(
            f"parts of {degree.smallest_part} could be opened, and this client wants to be among "
            f"{policy.least}: set secagg.min_cohort to that"
        )


def check_roll(
    roll: Mapping[str, RoundKeys], mine: tuple[bytes, bytes], params: Params, policy: ClientPolicy
) -> None:
    """Checks everybody's keys: own ones untouched, none twice, all signed by cohort members.

    Raises:
        ProtocolError: one of these does not hold.
    """
    own = roll.get(policy.name)
    if own is None or (own.cipher_key, own.mask_key) != mine:
        raise ProtocolError(SERVER, "share", "the own keys were left out or replaced")
    if len(roll) < policy.least:
        raise ProtocolError(SERVER, "share", f"only {len(roll)} clients are left")
    public = [key for one in roll.values() for key in (one.cipher_key, one.mask_key)]
    if len(set(public)) != len(public):
        raise ProtocolError(SERVER, "share", "a key appears twice")
    # All of them, not only the neighbours': the graph is drawn from the whole list.
    for name, one in roll.items():
        if name not in params.cohort:
            raise ProtocolError(name, "share", "is not in the cohort")
        if not check_keys(policy.sites[name], name, one, params.context()):
            raise ProtocolError(name, "share", "the signature on its keys is wrong")


def check_keys(public: bytes, name: str, one: RoundKeys, context: bytes) -> bool:
    """Whether `name` signed its keys for this round."""
    fields = (context, name_bytes(name), one.cipher_key, one.mask_key)
    return verify(public, one.signature, "secagg/keys", *fields)


def check_agreement(public: bytes, signature: bytes, survivors: Survivors, context: bytes) -> bool:
    """Whether the owner of `public` signed this survivor list in this round."""
    return verify(public, signature, "secagg/survivors", context, survivors.hash())
