"""Measuring privacy: what an attacker on a known seat learns about canaries of secret fate.

Pure: scores and coins go in, bounds and verdicts come out. Running the attack,
reading files and showing results is `simulations.attacks.audit`'s business. The
estimators need SciPy, which takes a while to import: ask for their modules.
"""

from fedlearn.auditing.settings import Audit, MislabelledAudit, NoAudit, SlotAudit

__all__ = ["Audit", "MislabelledAudit", "NoAudit", "SlotAudit"]
