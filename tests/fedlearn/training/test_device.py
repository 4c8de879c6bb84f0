"""Where training computes: nothing is left behind on the CPU, and a GPU computes the same.

A device that is not there (`tests.far`) shows the first, model by model and bit by
bit; the second takes a real one and is skipped without.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedlearn.algorithms.algorithm import Correction
from fedlearn.algorithms.pull import pull
from fedlearn.core.errors import ConfigError, FedlearnError
from fedlearn.core.vector import load_vector, to_vector
from fedlearn.mechanisms import RecordPlan
from fedlearn.mechanisms.distributed import DistributedPrivacy, Population, make_plan
from fedlearn.models.cnn import Cnn
from fedlearn.models.slots import attach
from fedlearn.privacy import SeededNoise
from fedlearn.tasks import ClassificationTask, TableInput
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training import device
from fedlearn.training.dp import ClippedGradients
from fedlearn.training.local import predict, train
from fedlearn.training.private import clipped_gradient_sum, train_private
from fedlearn.training.settings import Training
from fedlearn.training.trials import try_out
from tests.effort import slow_but, thinned
from tests.far import CUDA, Far, far_device
from tests.fedlearn.models.cases import CASES, COLOUR, Case, perturb

REAL = pytest.mark.skipif(
    not torch.cuda.device_count(), reason="this machine has no CUDA device that torch can use"
)
N = 12
TRAINING = Training(
    optimizer="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.01, local_steps=3,
    sample_rate=0.5, nominal_records=N, dp_engine="fast", max_batch=4,
)  # fmt: skip
PLAN = RecordPlan(
    clip_norm=0.5, noise_multiplier=1.0, delta=1e-5, sample_rate=0.5, steps_per_round=3, rounds=1
)
SHARED = make_plan(
    DistributedPrivacy(noise_multiplier=1.0, clip_norm=0.5),
    Population(num_clients=3, dimension=10, records_per_step=6.0),
    sample_rate=0.5,
    rounds=1,
)
TASK = ClassificationTask(input=TableInput(numeric=1), classes=("a", "b"))

Work = Callable[[nn.Module, Tensor, Tensor], np.ndarray]
"""What is done with a model and records, and what comes of it."""


PULLS: WeakKeyDictionary[nn.Module, Correction] = WeakKeyDictionary()


def pulled(model: nn.Module) -> Correction:
    """Towards where a model stood first: the model of a round is brought to the device once."""
    if model not in PULLS:
        PULLS[model] = pull(model, to_vector(model), 0.1)
    return PULLS[model]


def plain(model: nn.Module, features: Tensor, labels: Tensor) -> np.ndarray:
    loss = train(
        model,
        features,
        labels,
        TRAINING,
        loss=cross_entropy,
        correct=pulled(model),
        rng=np.random.default_rng(1),
    )
    return np.append(to_vector(model), loss)


def private(model: nn.Module, features: Tensor, labels: Tensor) -> np.ndarray:
    noise = SeededNoise(b"device")
    train_private(
        model,
        features,
        labels,
        TRAINING,
        PLAN,
        loss=cross_entropy,
        correct=pulled(model),
        noise=noise,
    )
    return to_vector(model)


def shared(model: nn.Module, features: Tensor, labels: Tensor) -> np.ndarray:
    noise = SeededNoise(b"device")
    return clipped_gradient_sum(
        model, features, labels, TRAINING, SHARED, loss=cross_entropy, noise=noise
    )


def predicted(model: nn.Module, features: Tensor, labels: Tensor) -> np.ndarray:
    return predict(model, TASK, features, 5)


WORKS = {"plain": plain, "private": private, "shared": shared, "predicted": predicted}

WAITS = {
    "plain": ["aten._local_scalar_dense.default", "cpu"],
    "private": ["cpu"] * 4,
    "shared": ["cpu"],
}
"""For what a site waits in a whole round: its loss, what of the noise of each
of three steps floats leave open, and what leaves it."""

_exact = device._exact


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a first use of CUDA sets for a whole process stays out of the other tests."""
    monkeypatch.setattr(device, "_exact", lambda: None)
    monkeypatch.setattr(device, "_driver_asked", False)
    return


@pytest.fixture
def exact() -> Iterator[None]:
    """As a site sets it, which a real device needs; the other tests then repeat as well."""
    _exact()
    yield
    torch.set_deterministic_debug_mode("default")


def fresh(case: Case) -> tuple[nn.Module, Tensor, Tensor]:
    model = case.build()
    perturb(model)
    labels = torch.arange(N) % case.classes
    return model, case.inputs(N), labels


def on(where: torch.device, case: Case, work: Work, *, near: bool) -> np.ndarray:
    """What `work` gives on a device, with the records there or brought batch by batch."""
    model, features, labels = fresh(case)
    device.place(model, where)
    if near:
        features, labels = features.to(where), labels.to(where)
    return work(model, features, labels)


def assert_as_on_the_cpu(found: np.ndarray, expected: np.ndarray, *, clipped: bool) -> None:
    """To the bit; but norms are added up in larger blocks than fit a CPU's cache."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 if clipped else 0)


SOME = [case for case in CASES if case.name.endswith(("-mixed-3", "-grey", "-large", "-all"))]
SOME += [case for case in CASES if case.name in ("text-blocks", "sequence-mixed")]
QUICK = [case for case in SOME if not case.name.startswith("resnet18")]
FEW = {"linear-none-mixed-3", "cnn-grey"}
"""What `make check` tries: a model of tables and one of images."""


def slow_unless_few(case: Case) -> tuple[pytest.MarkDecorator, ...]:
    return () if case.name in FEW else (pytest.mark.slow,)


ROUNDS = [
    pytest.param(case, name, id=f"{case.name}-{name}", marks=slow_unless_few(case))
    for case in QUICK
    for name in WAITS
    if not (case.mixes and name != "plain")
]
POSSIBLE = [
    pytest.param(case, work, id=f"{case.name}-{name}", marks=slow_unless_few(case))
    for case in SOME
    for name, work in WORKS.items()
    if not (case.mixes and name in ("private", "shared"))
]


@pytest.mark.parametrize(
    "near", slow_but([False].__contains__, [True, False]), ids=["resident", "fetched"]
)
@pytest.mark.parametrize(("case", "work"), POSSIBLE)
def test_device__leaves_nothing_on_the_cpu(case: Case, work: Work, near: bool) -> None:
    expected = on(device.CPU, case, work, near=False)
    with far_device():
        found = on(CUDA, case, work, near=near)
    assert_as_on_the_cpu(found, expected, clipped=work in (private, shared))


@pytest.mark.parametrize(("case", "name"), ROUNDS)
def test_round__waits_for_the_device_no_oftener_than_it_must(case: Case, name: str) -> None:
    model, features, labels = fresh(case)
    with far_device() as waits:
        device.place(model, CUDA)
        if name == "shared":  # the others fetch them
            features, labels = features.to(CUDA), labels.to(CUDA)
        WORKS[name](model, features, labels)  # its first batches are tried
        waits.clear()
        WORKS[name](model, features, labels)
        assert waits == WAITS[name]


@pytest.mark.parametrize(
    "case", thinned(case for case in QUICK if not case.mixes), ids=lambda case: case.name
)
def test_private_step__does_not_care_which_thread_goes_backward(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA has one of its own, with its own autocast and its own mode of gradients."""
    real, config = torch.autograd.grad, replace(TRAINING, precision="bf16")

    def step() -> np.ndarray:
        model, features, labels = fresh(case)
        noise = SeededNoise(b"threads")
        train_private(model, features, labels, config, PLAN, loss=cross_entropy, noise=noise)
        return to_vector(model)

    expected, passes = step(), []
    with ThreadPoolExecutor(1) as elsewhere:

        def backward(*args: Any, **named: Any) -> Any:
            passes.append(elsewhere.submit(real, *args, **named))
            return passes[-1].result()

        monkeypatch.setattr(torch.autograd, "grad", backward)
        found = step()
    assert passes
    np.testing.assert_array_equal(found, expected)


@REAL
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("case", "work"), POSSIBLE)
def test_device__computes_on_a_gpu_what_the_cpu_does(case: Case, work: Work) -> None:
    expected = on(device.CPU, case, work, near=False)
    found = on(torch.device("cuda", 0), case, work, near=True)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_far_device__refuses_what_a_device_refuses() -> None:
    with far_device():
        there = torch.ones(3).to("cuda")
        assert isinstance(there, Far)
        assert there.device == CUDA
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert (there * 2).cpu().tolist() == [2, 2, 2]
        assert torch.zeros(2, device=there.device).device == CUDA


@pytest.mark.parametrize(
    "chosen",
    slow_but(
        lambda chosen: chosen == (False, "fp32"),
        itertools.product((True, False), ("fp32", "bf16")),
    ),
)
def test_device__has_views_canaries_and_dropout_too(
    chosen: tuple[bool, Literal["fp32", "bf16"]],
) -> None:
    clips, precision = chosen
    config = replace(TRAINING, augmentations=2, shifts=1, precision=precision)
    net = Cnn(width=4, depth=2, groups=2, dropout=0.0 if clips else 0.5)
    case = Case(name="cnn", config=net, input=COLOUR, classes=3)

    def step(where: torch.device, waits: list[str]) -> np.ndarray:
        model, features, labels = fresh(case)
        attach(model, 4)
        device.place(model, where)
        data, slots = (model, features, labels), torch.tensor([0, 3])
        for _ in range(2):  # the first batches are tried, which takes a look at them
            waits.clear()
            if clips:
                noise = SeededNoise(b"views")
                train_private(*data, config, PLAN, loss=cross_entropy, noise=noise, canaries=slots)
            else:
                rng = np.random.default_rng(2)
                train(*data, config, loss=cross_entropy, rng=rng, canaries=slots)
        return to_vector(model)

    expected = step(device.CPU, [])
    with far_device() as waits:
        found = step(CUDA, waits)
        assert waits == WAITS["private" if clips else "plain"]
    assert_as_on_the_cpu(found, expected, clipped=clips)
    assert np.abs(found[-4:]).max() > 0


# --- which device ------------------------------------------------------------------


def test_device_of__auto_takes_a_gpu_where_there_is_one() -> None:
    with far_device():
        assert device.device_of("auto") == device.device_of("cuda") == CUDA
        assert device.device_of("cpu") == device.CPU
    with far_device(count=0):
        assert device.device_of("auto") == device.device_of("cpu") == device.CPU


def test_device_of__says_what_to_do_where_there_is_none() -> None:
    with far_device(count=0), pytest.raises(ConfigError) as refused:
        device.device_of("cuda")
    assert "training.device=cuda" in str(refused.value)
    assert "training.device=auto" in str(refused.value)


def test_take_turn__spreads_processes_over_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_turn", 0)
    found = []
    with far_device(count=3):
        for number in range(5):
            device.take_turn(number)
            found.append(device.device_of("auto").index)
    assert found == [0, 1, 2, 0, 1]


@pytest.mark.slow
def test_device_of__starts_no_cuda() -> None:
    """Or no process that is forked later could use it."""
    code = (
        "from fedlearn.training.device import device_of, touched; device_of('auto'); "
        "import sys; sys.exit(touched('auto'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("known", "count", "expected"), [(-1, 1, True), (1, 1, False), (-1, 0, False)]
)
def test_touched__knows_that_the_driver_had_to_be_asked(
    known: int, count: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a slice of a divided GPU; the last case is a machine without one."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "_device_count_nvml", lambda: known)
    with far_device(count=count):
        device.device_of("auto")
    assert device.touched("auto") == device.touched("cuda") == expected
    assert not device.touched("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")
def test_touched__sees_the_threads_of_a_backward_pass() -> None:
    """torch starts them on a machine with a GPU, wherever the pass computes."""
    named, done = threading.Event(), threading.Event()

    def thread() -> None:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("pt_autograd_0")
        named.set()
        done.wait()

    assert not device.touched("cpu")
    one = threading.Thread(target=thread)
    one.start()
    named.wait()
    assert device.touched("cpu")
    done.set()
    one.join()
    while device.touched("cpu"):  # the kernel lists a thread for a moment after its end
        time.sleep(0.001)


@pytest.mark.slow
def test_place__computes_float32_in_float32_and_repeats() -> None:
    """In a process of its own: what it sets, it sets for good."""
    code = """
import os, sys, torch
from tests.far import far_device, CUDA
from fedlearn.training.device import place
torch.set_float32_matmul_precision("high")
torch.backends.fp32_precision = "tf32"
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":0:0"
with far_device():
    place(torch.nn.Linear(2, 2), CUDA)
assert torch.backends.cuda.matmul.fp32_precision == "ieee"
assert torch.backends.cudnn.conv.fp32_precision == "ieee"
assert torch.backends.cudnn.rnn.fp32_precision == "ieee"
assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
# By the old names too: they raise where old and new contradict each other.
assert not torch.backends.cuda.matmul.allow_tf32
assert not torch.backends.cudnn.allow_tf32
with torch.backends.cudnn.flags(enabled=False):
    pass
assert torch.get_deterministic_debug_mode() == 2  # with less, attention does not repeat
assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
assert "torch._inductor" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_place__says_what_to_do_with_a_gpu_that_this_torch_cannot_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def old(device: torch.device) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    with far_device():
        monkeypatch.setattr(torch.cuda, "set_device", old)
        with pytest.raises(ConfigError) as refused:
            device.place(nn.Linear(2, 2), CUDA)
    assert "no kernel image" in str(refused.value)
    assert "training.device=cpu" in str(refused.value)


def test_place__does_nothing_twice() -> None:
    model = nn.Linear(3, 2)
    before = model.weight
    device.place(model, device.CPU)
    assert model.weight is before
    with far_device():
        device.place(model, CUDA)
        there = model.weight
        device.place(model, CUDA)
        assert model.weight is there
        assert device.home(model) == CUDA
        device.place(model, device.CPU)
    assert device.home(model) == device.CPU
    torch.testing.assert_close(model.weight, before)


def test_near__leaves_half_of_a_device_free() -> None:
    records = torch.zeros(1000)
    with far_device(free=2**39 + 4000):
        assert device.near(records, CUDA).device == CUDA
    with far_device(free=2**39 + 3999):
        assert device.near(records, CUDA) is records
    assert device.near(records, device.CPU) is records


def test_within_memory__says_which_numbers_to_lower() -> None:
    wanted = r"north: .*training\.max_batch.*engine\.workers"
    with pytest.raises(FedlearnError, match=wanted), device.within_memory("north"):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_within_memory__understands_the_driver_and_its_libraries(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(device: torch.device) -> None:
        raise RuntimeError(words)

    with far_device():
        monkeypatch.setattr(torch.cuda, "set_device", full)
        wanted = pytest.raises(FedlearnError, match=r"training\.max_batch")
        with wanted, device.within_memory("north"):
            device.place(nn.Linear(2, 2), CUDA)


@pytest.mark.parametrize("engine", ["fast", "opacus"])
def test_private_step__without_memory_is_told_before_records_are_seen_and_never_after(
    engine: Literal["fast", "opacus"], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **named: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    (case,) = (case for case in CASES if case.name == "cnn-grey")
    model, features, labels = fresh(case)
    config, noise = replace(TRAINING, dp_engine=engine, weight_decay=0.0), SeededNoise(b"full")
    monkeypatch.setattr("fedlearn.training.parts.forward", full)
    monkeypatch.setattr("fedlearn.training.trials.forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        try_out(model, lambda _: (features, labels), config, loss=cross_entropy)
    before = to_vector(model)
    still = replace(PLAN, noise_multiplier=0.0)
    train_private(model, features, labels, config, still, loss=cross_entropy, noise=noise)
    np.testing.assert_array_equal(to_vector(model), before)


def test_within_memory__leaves_other_errors_alone() -> None:
    with pytest.raises(RuntimeError, match="something else"), device.within_memory("north"):
        raise RuntimeError("something else")


def test_load_vector__goes_to_the_device_and_comes_back() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    vector = np.arange(len(to_vector(model)), dtype=np.float32)
    with far_device():
        device.place(model, CUDA)
        load_vector(model, vector)
        np.testing.assert_array_equal(to_vector(model), vector)


class _Calls(TorchDispatchMode):
    """Counts the backward passes of layer norms."""

    seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += func is torch.ops.aten.native_layer_norm_backward.default
        return func(*args, **(kwargs or {}))


def test_layer_norm__calls_a_gpu_once_for_all_samples() -> None:
    """On the CPU a call for each is worth it; a GPU takes longer to be called than to compute."""
    found = []
    with far_device():
        for where in (device.CPU, CUDA):
            model = nn.Sequential(nn.Linear(4, 128), nn.LayerNorm(128))
            device.place(model, where)
            x, engine = torch.ones(3, 128, 4).to(where), ClippedGradients(model, clip_norm=1.0)
            engine.step(lambda model=model, x=x: model(x).sum((1, 2)))  # type: ignore[misc]
            with _Calls() as calls:
                engine.step(lambda model=model, x=x: model(x).sum((1, 2)))  # type: ignore[misc]
            found.append(calls.seen)
    assert found == [3, 1]


# --- The memory of the CPU --------------------------------------------------------------

PROGRAM = """
import resource
import sys
import torch
from fedlearn.training.device import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
count = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.zeros(2**22) for _ in range(4)]
    del held
    count.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
# Where a hole is too small for the next one the heap grows once more: the best one counts.
print(min(count))
"""


def faults(mode: str) -> int:
    command = [sys.executable, "-c", PROGRAM, mode]
    # glibc raises this limit by itself, sooner or later; given so, it stays.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own interface")
def test_keep_freed_memory__keeps_what_was_freed() -> None:
    pages = 4 * 2**22 * 4 // 4096
    assert faults("default") > pages // 2
    assert faults("keep") < pages // 20


def test_keep_freed_memory__does_nothing_where_there_is_no_such_allocator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not device.keep_freed_memory()
