"""What coordinator and sites say to each other, as Flower's records: with its public API alone.

Every function here has an inverse, or checks what came from the other side. What
Flower keeps to itself, and we need all the same, is in `fedlearn.flower_private`.
"""

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
from fedlearn.flower.replies import (
    WEIGHT,
    aggregated_reply,
    check_train_reply,
    evaluate_reply,
    hello_reply,
    read_evaluate_reply,
    read_hello,
    read_refusal,
    read_spent,
    refusal_reply,
    summed_reply,
    train_reply,
    weight_of,
)
from fedlearn.flower.requests import (
    AFFORD,
    HELLO,
    JOIN,
    MESSAGE_KINDS,
    SECAGG,
    afford_request,
    invitation,
    note_of,
    read_invitation,
    read_note,
    read_train_request,
    with_request,
)
from fedlearn.flower.run_config import (
    config_of,
    run_config_of,
)

__all__ = [
    "AFFORD",
    "HELLO",
    "JOIN",
    "MESSAGE_KINDS",
    "SECAGG",
    "WEIGHT",
    "afford_request",
    "aggregated_reply",
    "arrays_of",
    "check_train_reply",
    "config_of",
    "config_record",
    "evaluate_reply",
    "hello_reply",
    "invitation",
    "large_bytes",
    "model_of",
    "note_of",
    "read_evaluate_reply",
    "read_hello",
    "read_invitation",
    "read_large_bytes",
    "read_note",
    "read_refusal",
    "read_small_bytes",
    "read_spent",
    "read_train_request",
    "refusal_reply",
    "run_config_of",
    "size_of",
    "small_bytes",
    "summed_reply",
    "train_reply",
    "vector_of",
    "weight_of",
    "with_request",
]
