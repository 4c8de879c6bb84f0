"""Differential privacy: where the noise comes from, what it costs, and what was promised.

One direction only: a `RecordPrivacy` config becomes a `PrivacyPlan`; the plan
gives the noise and the clip norm to the training, and the events to the
accountant. Nothing else pairs an epsilon with a noise multiplier.
"""
