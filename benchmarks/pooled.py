"""What scikit-learn reaches on the records of experiments, all in one place and without privacy.

    python benchmarks/pooled.py financial_credit financial_risk medical_heart

On the experiment's own features and its own test part: logistic regression (scaled columns,
`C=1`) and histogram gradient boosting as it comes. The error is one standard error of the test
part alone: of a mean of so many records, and for an AUC by DeLong, DeLong and Clarke-Pearson
(1988, "Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves",
Biometrics 44).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from table import Table, parser, write

from clients.records import read_simulated
from fedlearn.config import compose
from fedlearn.data.pool import Pool

Floats = NDArray[np.float64]

MODELS: Mapping[str, Any] = {
    "logistic regression": lambda: make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=2000)
    ),
    "boosting": lambda: HistGradientBoostingClassifier(random_state=0),
}


def auc(scores: Floats, positive: NDArray[np.bool_]) -> tuple[float, float]:
    """The area under the ROC curve and its standard error by DeLong."""
    above, below = scores[positive], scores[~positive]
    ranks = rankdata(np.concatenate([above, below]))
    among_above = (ranks[: len(above)] - rankdata(above)) / len(below)
    among_below = 1 - (ranks[len(above) :] - rankdata(below)) / len(above)
    variance = among_above.var(ddof=1) / len(above) + among_below.var(ddof=1) / len(below)
    return float(among_above.mean()), math.sqrt(variance)


def accuracy(hits: NDArray[np.bool_]) -> tuple[float, float]:
    """The share of right answers and its standard error."""
    share = float(hits.mean())
    return share, math.sqrt(share * (1 - share) / len(hits))


def pool_of(experiment: str) -> Pool:
    """All records of an experiment, with its test part."""
    with tempfile.TemporaryDirectory() as folder:
        return read_simulated(compose([f"experiment={experiment}", f"out={folder}/run"]))[0]


def main() -> None:
    """A row for every experiment and model."""
    options_of = parser(__doc__)
    options_of.add_argument("experiments", nargs="+")
    options = options_of.parse_args()
    table = Table(
        experiment="experiment", model="model", tested="tested on",
        accuracy=("accuracy", ".4f"), accuracy_error=("error", ".4f"),
        auc=("AUC", ".4f"), auc_error=("error", ".4f"),
    )  # fmt: skip
    for name in options.experiments:
        pool = pool_of(name)
        features, test = pool.features.reshape(len(pool), -1), ~pool.is_train
        for model, make in MODELS.items():
            fitted = make().fit(features[pool.is_train], pool.labels[pool.is_train])
            chances, truth = fitted.predict_proba(features[test]), pool.labels[test]
            share, of_share = accuracy(chances.argmax(1) == truth)
            area, of_area = auc(chances[:, 1], truth == 1) if chances.shape[1] == 2 else (None,) * 2
            table.row({
                "experiment": name, "model": model, "tested": int(test.sum()), "accuracy": share,
                "accuracy_error": of_share, "auc": area, "auc_error": of_area,
            })  # fmt: skip
    write(options.json, {"rows": table.rows})


if __name__ == "__main__":
    main()
