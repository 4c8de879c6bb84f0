"""Every name of Flower's that the project uses, and what users of Flower take from it.

- `fedlearn.flower.apps` is for apps that are written with Flower and not with us. Its names
  are offered here as well: `secure`, `protect`, `Protection`, `spend`, `run_apps`.
- All other names here are how our own coordinator and sites talk, as Flower's records and
  with its public API alone: every function has an inverse, or checks what came from the
  other side.
- What Flower keeps to itself, and we need all the same, is in `fedlearn.flower.private`, and
  for messages in transit in `fedlearn.flower.envelopes`.
"""

from fedlearn.flower.apps.grid import SecureGrid, secure
from fedlearn.flower.apps.local import run_apps
from fedlearn.flower.apps.mod import SiteMod, protect
from fedlearn.flower.apps.owner import spend
from fedlearn.flower.apps.protection import Protection
from fedlearn.flower.messages import (
    AFFORD,
    DESCRIBE,
    HELLO,
    JOIN,
    KNOWN,
    MESSAGE_KINDS,
    SECAGG,
    WEIGHT,
    afford_request,
    check_train_reply,
    config_of,
    description_reply,
    evaluate_reply,
    hello_reply,
    hello_request,
    invitation,
    noised_reply,
    note_of,
    read_description,
    read_evaluate_reply,
    read_hello,
    read_invitation,
    read_noised_reply,
    read_note,
    read_offer,
    read_refusal,
    read_spent,
    read_train_request,
    refusal_reply,
    round_messages,
    run_config_of,
    summed_reply,
    train_reply,
    weight_of,
    with_request,
)
from fedlearn.flower.records import (
    arrays_of,
    config_record,
    large_bytes,
    model_of,
    read_large_bytes,
    read_small_bytes,
    size_of,
    small_bytes,
    vector_of,
)

__all__ = [
    "AFFORD",
    "DESCRIBE",
    "HELLO",
    "JOIN",
    "KNOWN",
    "MESSAGE_KINDS",
    "SECAGG",
    "WEIGHT",
    "Protection",
    "SecureGrid",
    "SiteMod",
    "afford_request",
    "arrays_of",
    "check_train_reply",
    "config_of",
    "config_record",
    "description_reply",
    "evaluate_reply",
    "hello_reply",
    "hello_request",
    "invitation",
    "large_bytes",
    "model_of",
    "noised_reply",
    "note_of",
    "protect",
    "read_description",
    "read_evaluate_reply",
    "read_hello",
    "read_invitation",
    "read_large_bytes",
    "read_noised_reply",
    "read_note",
    "read_offer",
    "read_refusal",
    "read_small_bytes",
    "read_spent",
    "read_train_request",
    "refusal_reply",
    "round_messages",
    "run_apps",
    "run_config_of",
    "secure",
    "size_of",
    "small_bytes",
    "spend",
    "summed_reply",
    "train_reply",
    "vector_of",
    "weight_of",
    "with_request",
]
