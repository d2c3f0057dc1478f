"""Where the recorded traces lie beside the repository; tests that need them skip without."""

from __future__ import annotations

from pathlib import Path

import pytest

TRACES = Path(__file__).resolve().parents[3].parent / "shared" / "traces"
AZURE = TRACES / "azure2023" / "AzureLLMInferenceTrace_conv.csv.gz"
MOONCAKE = TRACES / "mooncake" / "conversation_trace.jsonl.gz"

needs_traces = pytest.mark.skipif(
    not (AZURE.exists() and MOONCAKE.exists()), reason=f"needs the traces in {TRACES}"
)
