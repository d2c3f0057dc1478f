"""How far the simulator is from a real system, against what, and because of which part.

`setup` says what to simulate and `latency` how long steps take, `replay` simulates it, `compare` lays it
beside the real run by `figures` and `series`. `repeats` says which runs belong together, `spread` tells
what the real system differs from itself, `budget` what each measured part explains, and `answer` whether
the choice between two policies is the same.
"""
