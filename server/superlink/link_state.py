"""What a SuperLink that keeps everything in memory knows of messages, beyond its own questions.

Flower's state can be asked for replies, but marks as delivered what it tells; it tells of a
reply as soon as its head has come; and it drops a message without its objects. So
`server.superlink.broker` looks into it, instead of keeping books beside it that could say
something else.

Uses private names of flwr 1.41 and 1.42; `tests/server/superlink/test_relay.py` fails loudly when
one of them changes.
"""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app.metadata import Metadata
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.date import now
from flwr.supercore.object_store import NoObjectInStoreError

from fedlearn.flower.envelopes import names_in


def messages_to(state: InMemoryLinkState, node: int) -> set[str]:
    """Ids of all messages to a node that the run has not collected an answer to."""
    with state.lock:
        stored = state.message_ins_store.items()
        return {name for name, one in stored if one.metadata.dst_node_id == node}


def is_waited_for(state: InMemoryLinkState, message_id: str) -> bool:
    """Whether an answer to a message can still reach its run."""
    message = state.message_ins_store.get(message_id)
    if message is None:
        return False  # collected, or counted as unanswered because its node was offline
    return message.metadata.created_at + message.metadata.ttl > now().timestamp()


def reply_to(state: InMemoryLinkState, message_id: str) -> str | None:
    """The id of the reply to a message, which may be on its way still."""
    return state.message_ins_id_to_message_res_id.get(message_id)


def is_whole(state: InMemoryLinkState, run_id: int, message_id: str) -> bool:
    """Whether all objects of a message are there.

    A reply that has been on its way for too long is forgotten by being asked for.
    """
    try:
        names = names_in([state.object_store.get_object_tree(message_id)])
    except NoObjectInStoreError:
        return False
    return all(state.get_object(run_id, name) for name in names)


def remove(state: InMemoryLinkState, message_ids: Iterable[str]) -> None:
    """Forget messages to nodes, what was answered to them, and all objects of both."""
    names = set(message_ids)
    with state.lock:
        replies = {reply for name in names if (reply := reply_to(state, name))}
        state.delete_messages(names)
    for name in names | replies:
        state.object_store.delete(name)


def make_room(state: InMemoryLinkState, answer: Metadata) -> None:
    """Forget a reply that is not whole, where its sender has another to the same message.

    It had to begin anew. Without this the first counts, until Flower gives it up.
    """
    with state.lock:
        old = reply_to(state, answer.reply_to_message_id)
        if old is None or old == answer.message_id:
            return
        same_sender = state.message_res_store[old].metadata.src_node_id == answer.src_node_id
    if same_sender and not is_whole(state, int(answer.run_id), old):
        state._on_push_session_expired({old})
        state.object_store.delete(old)
