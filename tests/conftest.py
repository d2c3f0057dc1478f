"""Hypothesis profiles: `ci` is repeatable and short; `HYPOTHESIS_PROFILE=thorough` searches on."""

import os

from hypothesis import HealthCheck, settings

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=100, suppress_health_check=SLOW
)
settings.register_profile(
    "thorough", deadline=None, max_examples=3000, suppress_health_check=SLOW, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
