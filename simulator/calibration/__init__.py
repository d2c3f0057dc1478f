"""Calibration: latency and host models fitted to the recorded steps of runs.

`calibrate` makes a `CalibratedProfile` of runs; `simulator.latency.calibrated` answers from it. Names are
imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.calibration.fitting import calibrate as calibrate
    from simulator.calibration.profile import CalibratedProfile as CalibratedProfile
    from simulator.calibration.steps import CalibrationError as CalibrationError
    from simulator.calibration.steps import Steps as Steps

_EXPORTS = {
    "CalibratedProfile": "simulator.calibration.profile",
    "CalibrationError": "simulator.calibration.steps",
    "Steps": "simulator.calibration.steps",
    "calibrate": "simulator.calibration.fitting",
}


def __getattr__(name: str) -> object:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
