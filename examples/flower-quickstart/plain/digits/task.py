"""The model, the records, and how the one is trained on the other: plain PyTorch."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """Two convolutions and a linear layer for images of 8 by 8 points."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Linear(32 * 2 * 2, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, `[n, 10]`, of `images: [n, 1, 8, 8]`."""
        return self.head(self.features(images).flatten(1))


@cache
def _digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    return images, torch.tensor(found.target)


def load_data(partition: int, partitions: int) -> tuple[DataLoader, DataLoader]:
    """The records of one site: four fifths to train on, one to test on."""
    images, labels = _digits()
    own = TensorDataset(images[partition::partitions], labels[partition::partitions])
    split = torch.Generator().manual_seed(partition)
    train_part, test_part = torch.utils.data.random_split(own, [0.8, 0.2], split)
    order = torch.Generator().manual_seed(partition)
    return (
        DataLoader(train_part, batch_size=32, shuffle=True, generator=order),
        DataLoader(test_part, batch_size=256),
    )


def train(net: Net, records: DataLoader, epochs: int, rate: float) -> float:
    """Train in place; the mean loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
    net.train()
    losses = []
    for _ in range(epochs):
        for images, labels in records:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def test(net: Net, records: DataLoader) -> tuple[float, float]:
    """Mean loss, and the share of digits that are read right."""
    net.eval()
    loss = right = count = 0.0
    for images, labels in records:
        logits = net(images)
        loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        right += (logits.argmax(1) == labels).sum().item()
        count += len(labels)
    return loss / count, right / count
