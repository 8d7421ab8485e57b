"""One set of believable predictions for the whole folder."""

import pandas as pd
import pytest

from lt_pipeline.evaluation.metrics import evaluate
from lt_pipeline.evaluation.predictions import Predictions

from .synthetic import ride_like


@pytest.fixture(scope="session")
def routed() -> Predictions:
    return ride_like(classes=20, per_class=25)


@pytest.fixture(scope="session")
def routed_result(routed: Predictions) -> tuple[dict, pd.DataFrame]:
    return evaluate(routed)
