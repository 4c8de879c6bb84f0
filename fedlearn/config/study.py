"""The terms of a study: one canonical text of everything that decides what a run computes.

Coordinator and sites make it from the config that each holds. What belongs to one machine
(where results go, how a simulation shares its cores) is left out. The coordinator signs its
hash; channels, sums, requests and the entries of ledgers are bound to it, so that nobody trains,
sums or pays under terms that another one does not have.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from fedlearn.crypto.identity import Identity, verify

SCHEMA: Final = "fedlearn/study/v1"

OF_ONE_MACHINE: Final = ("engine", "init", "out", "report", "resume", "sites", "tracking")
"""The keys of a config that change nothing of what a site computes or sends.

But for `engine.threads`: sums are split by thread, so that it is in the last bits of a result.
"""


def study_text(tree: dict[str, Any]) -> str:
    """The terms that a config, as plain values, stands for: canonical JSON.

    Keys are sorted, there are no blanks, and numbers are the shortest that are read back.
    """
    config = {key: value for key, value in tree.items() if key not in OF_ONE_MACHINE}
    config["threads"] = tree["engine"]["threads"]
    terms = {"schema": SCHEMA, "config": config}
    return json.dumps(terms, sort_keys=True, separators=(",", ":"))


def study_hash(text: str) -> bytes:
    """SHA-256 of the terms: what everything is bound to."""
    return hashlib.sha256(text.encode()).digest()


def sign_terms(identity: Identity, terms: bytes) -> bytes:
    """The coordinator's signature on the hash of the terms."""
    return identity.sign("study/terms", terms)


def are_signed(public: bytes, terms: bytes, signature: bytes) -> bool:
    """Whether the owner of `public` has signed these terms."""
    return verify(public, signature, "study/terms", terms)


def sign_run(identity: Identity, terms: bytes, run_id: bytes, helper: bytes) -> bytes:
    """The coordinator's signature on one run under these terms, and on its second server's key."""
    return identity.sign("study/run", terms, run_id, helper)


def sign_helper(
    identity: Identity, terms: bytes, run_id: bytes, helper: bytes, sites: str
) -> bytes:
    """A second server's signature on its key for one run under these terms.

    `sites` is the digest of the run's list, by which it counts how many a sum needs.
    """
    return identity.sign("study/helper", terms, run_id, helper, sites.encode())


def is_helper_signed(
    public: bytes, terms: bytes, run_id: bytes, helper: bytes, sites: str, signature: bytes
) -> bool:
    """Whether the owner of `public` has signed that key for this run and this list of sites."""
    return verify(public, signature, "study/helper", terms, run_id, helper, sites.encode())


def is_run_signed(
    public: bytes, terms: bytes, run_id: bytes, helper: bytes, signature: bytes
) -> bool:
    """Whether the owner of `public` has signed this run."""
    return verify(public, signature, "study/run", terms, run_id, helper)
