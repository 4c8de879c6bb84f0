"""Weights of classes: in the loss of a record, in both ways of training, and in a config."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedlearn.config import compose
from fedlearn.config.contradictions import task_problems
from fedlearn.core.errors import ConfigError
from fedlearn.mechanisms import RecordPlan
from fedlearn.privacy import SeededNoise
from fedlearn.tasks import ClassificationTask, TableInput
from fedlearn.training.local import train
from fedlearn.training.private import train_private
from fedlearn.training.settings import Training
from fedlearn.training.trials import try_out

CLASSES = ("no", "perhaps", "yes")
WEIGHTS = {"yes": 5.0, "no": 0.5}
EXPECTED = np.array([0.1, 0.2, 1.0])
CONFIG = Training(
    optimizer="sgd", learning_rate=0.7, momentum=0.0, weight_decay=0.0, local_steps=1,
    sample_rate=1.0, nominal_records=10, dp_engine="fast", max_batch=4, class_weights=WEIGHTS,
)  # fmt: skip


TASK = ClassificationTask(input=TableInput(numeric=4), classes=CLASSES)
CPU = torch.device("cpu")


def records() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(9, 4))).float()
    return features, torch.from_numpy(np.arange(9) % 3)


def model() -> nn.Module:
    linear = nn.Linear(4, 3)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def gradients(features: Tensor, labels: Tensor) -> np.ndarray:
    """The weighted gradient of every record, weights and then bias, where all logits are zero."""
    residual = (1 / 3 - np.eye(3)[labels]) * EXPECTED[labels][:, None]
    seen = residual[:, :, None] * features.numpy()[:, None, :]
    return np.concatenate([seen.reshape(len(labels), -1), residual], axis=1)


def vector(linear: nn.Module) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in linear.parameters()])


def test_class_weights__are_ratios_of_which_the_largest_is_one() -> None:
    features, labels = records()
    logits = features[:, :3]
    weighed = TASK.training_loss(WEIGHTS, CPU)(logits, labels)
    ratio = weighed / TASK.loss(logits, labels)
    np.testing.assert_allclose(ratio, EXPECTED[labels], rtol=1e-5)
    tenfold = {name: 10 * w for name, w in WEIGHTS.items()} | {"perhaps": 10.0}
    torch.testing.assert_close(TASK.training_loss(tenfold, CPU)(logits, labels), weighed)
    without = TASK.training_loss({}, CPU)(logits, labels)
    torch.testing.assert_close(without, TASK.loss(logits, labels))


def test_losses__are_those_without_weights_times_the_weight() -> None:
    features, labels = records()
    logits = features[:, :3]
    expected = -logits.double().log_softmax(1)[range(9), labels] * torch.tensor(EXPECTED)[labels]
    found = TASK.training_loss(WEIGHTS, CPU)(logits, labels)
    torch.testing.assert_close(found.double(), expected)


def test_train__steps_along_the_weighted_mean() -> None:
    (features, labels), trained = records(), model()
    train(
        trained,
        features,
        labels,
        CONFIG,
        loss=TASK.training_loss(WEIGHTS, CPU),
        rng=np.random.default_rng(0),
    )
    np.testing.assert_allclose(
        vector(trained), -0.7 * gradients(features, labels).mean(0), atol=1e-6
    )


def test_private_step__clips_what_the_weights_have_made_of_each_gradient() -> None:
    (features, labels), clip, trained = records(), 0.6, model()
    plan = RecordPlan(clip_norm=clip, noise_multiplier=0.0, delta=1e-5, sample_rate=1.0,
                      steps_per_round=1, rounds=1)  # fmt: skip
    loss, noise = TASK.training_loss(WEIGHTS, CPU), SeededNoise(b"s")
    train_private(trained, features, labels, CONFIG, plan, loss=loss, noise=noise)
    own = gradients(features, labels)
    lengths = np.linalg.norm(own, axis=1)
    assert (lengths > clip).any()
    assert (lengths < clip).any()
    expected = -0.7 / 10 * (own * np.minimum(1, clip / lengths)[:, None]).sum(0)
    np.testing.assert_allclose(vector(trained), expected, atol=1e-6)


def test_trial__refuses_a_loss_that_mixes_records() -> None:
    def mean(outputs: Tensor, targets: Tensor) -> Tensor:
        return TASK.loss(outputs, targets).mean()

    def ranked(outputs: Tensor, targets: Tensor) -> Tensor:
        return TASK.loss(outputs - outputs.mean(0), targets)

    def shared(outputs: Tensor, targets: Tensor) -> Tensor:
        return TASK.loss(outputs, targets) / len(outputs)

    def rare(outputs: Tensor, targets: Tensor) -> Tensor:
        alike = (targets[:, None] == targets[None]).sum(1)
        return TASK.loss(outputs, targets) / (1 + len(targets) - alike)

    def rarer(outputs: Tensor, targets: Tensor) -> Tensor:
        return TASK.loss(outputs, targets) * (1.0 if len(targets) < 3 else targets.float().std())

    for loss in (mean, ranked, shared, rare, rarer):
        with pytest.raises(ConfigError, match="mixes the records"):
            try_out(model(), lambda _: records(), CONFIG, loss=loss)


def test_config__names_classes_that_there_are_and_weights_above_zero() -> None:
    base = ["scenario=heart", "model.architecture=linear"]
    task = ClassificationTask(input=TableInput(numeric=2), classes=("healthy", "disease"))
    fine = compose([*base, "training.class_weights.disease=4"])
    assert fine.training.class_weights == {"disease": 4.0}
    assert task_problems(fine, task) == []
    (found,) = task_problems(compose([*base, "training.class_weights={ill: 4}"]), task)
    assert found == "training.class_weights.ill: no such class; there are healthy, disease"
    with pytest.raises(ConfigError, match=r"training\.class_weights"):
        compose([*base, "training.class_weights.disease=0"])


def test_config__takes_numbers_and_truths_for_names_of_classes() -> None:
    base = ["scenario=heart", "model.architecture=linear"]
    assert compose([*base, "training.class_weights={1: 4}"]).training.class_weights == {"1": 4.0}
    assert compose([*base, "training.class_weights={yes: 4}"]).training.class_weights == {"yes": 4}
