"""Freed memory is kept: what is allocated again costs no page faults."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fedlearn.training.allocator import keep_freed_memory

PROGRAM = """
import resource
import sys
import torch
from fedlearn.training.allocator import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.zeros(2**22) for _ in range(4)]
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    command = [sys.executable, "-c", PROGRAM, mode]
    # glibc raises this limit by itself, sooner or later; given so, it stays.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own interface")
def test_allocator__keeps_what_was_freed() -> None:
    pages = 4 * 2**22 * 4 // 4096
    assert faults("default") > pages // 2
    assert faults("keep") < pages // 20


def test_allocator__does_nothing_where_there_is_no_such_allocator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
