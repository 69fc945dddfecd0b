"""A clock for the gate: which of two tiny models is faster is chance, and not what most tests are about."""

import numpy as np
import pytest
from steady_clock import MILLISECONDS

from distil_trainer.export import gate


@pytest.fixture(autouse=True)
def _steady_clock(monkeypatch):
    def samples(models, texts, pairs, **options):
        return {name: np.tile([MILLISECONDS.get(name, 2.0), 0.1, 8.0], (len(texts), 1)) for name in models}

    monkeypatch.setattr(gate, "latency_samples", samples)
