"""Generated workloads: requests with the measured statistics of a published trace."""

from traces.generate.presets import Preset as Preset
from traces.generate.presets import generate as generate
from traces.generate.presets import presets as presets
