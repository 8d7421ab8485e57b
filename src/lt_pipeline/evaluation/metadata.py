"""What metadata bring: accuracy with all of them, with part and with none, and for whom (Diao et al., arXiv 2203.02751, report all and none).

A gain is only good news if it is one for everybody. Accuracy is therefore told apart by age, sex, place or whatever column is asked for, with
the metadata and without: a gain in one group that costs another, or one that no knowledge of the subject explains, is a leak.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lt_pipeline.evaluation.accuracy import class_recalls, masked_mean
from lt_pipeline.evaluation.predictions import Predictions

NONE = "none"
"""The part of the metadata that is none of it."""


def metadata_scores(predictions: Predictions, shots: Mapping[str, NDArray[np.bool_]]) -> dict[str, float]:
    """Return flat metrics: ``metadata/<part>/accuracy/{all,many,medium,few}``, ``metadata/<part>/macro_accuracy`` for each part of the metadata that
    the model was shown, and ``by/<column>/<value>/{images,accuracy,macro_accuracy,accuracy_without}`` for each group of images.

    Args:
        predictions: labelled.
        shots: class masks [C] of the shot groups.
    """
    p, scores = predictions, dict[str, float]()
    for part, decisions in p.with_part.items():
        recalls = class_recalls(p.labels, decisions == p.labels, p.num_classes)
        scores[f"metadata/{part}/accuracy/all"] = float((decisions == p.labels).mean())
        scores |= {f"metadata/{part}/accuracy/{name}": masked_mean(recalls, mask) for name, mask in shots.items()}
        scores[f"metadata/{part}/macro_accuracy"] = float(np.nanmean(recalls))
    for row in group_table(p).to_dict("records"):
        place = f"by/{row['column']}/{row['value']}"
        scores |= {f"{place}/{key}": row[key] for key in ("images", "accuracy", "macro_accuracy", "accuracy_without")}
    return {key: value for key, value in scores.items() if np.isfinite(value)}


def group_table(predictions: Predictions) -> pd.DataFrame:
    """Return one row for each value of each column that images are told apart by.

    Columns: column, value, images; accuracy (pooled), low and high (its 95 % Wilson interval), macro_accuracy (mean recall of the classes that
    the group has), accuracy_without (metadata; NaN for a model that takes none). Empty where nothing was asked for.
    """
    from scipy.stats import binomtest

    p, rows = predictions, []
    correct = p.logits.argmax(1) == p.labels
    without = p.with_part[NONE] == p.labels if NONE in p.with_part else None
    for column, words in p.groups.items():
        for value in sorted(np.unique(words).tolist(), key=_order):
            chosen = words == value
            interval = binomtest(int(correct[chosen].sum()), int(chosen.sum())).proportion_ci(method="wilson")
            rows.append(
                {
                    "column": column,
                    "value": value,
                    "images": int(chosen.sum()),
                    "accuracy": float(correct[chosen].mean()),
                    "low": float(interval.low),
                    "high": float(interval.high),
                    "macro_accuracy": float(np.nanmean(class_recalls(p.labels[chosen], correct[chosen], p.num_classes))),
                    "accuracy_without": float("nan") if without is None else float(without[chosen].mean()),
                }
            )
    return pd.DataFrame(rows, columns=["column", "value", "images", "accuracy", "low", "high", "macro_accuracy", "accuracy_without"])


def _order(value: str) -> tuple[bool, float, str]:
    """Sort words, ranges of numbers by where they start, and what is missing last."""
    if value.startswith("< "):
        return False, -np.inf, value
    try:
        return value == "missing", float(value.removeprefix(">= ").split(" to ")[0]), value
    except ValueError:
        return value == "missing", np.inf, value
