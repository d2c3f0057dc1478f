"""Which steps a profile gets wrong: the steps of two real vLLM runs, from what they kept of their requests.

    python -m benchmarks.validation_steps [--data DIR]

Neither run (`benchmarks.validation_llmservingsim`) kept its steps. Those of the RTX PRO 6000, whose KV
never fills, are told from the requests' own instants (`told`). Those of the RTX 4090, whose KV is full
nearly all the time, are our own scheduler's, as long as it agrees with the run (`followed`).

Prints step times, real and by the profile, by kind of step.
"""
