"""How far the simulator is from a real system, against what, and because of which part.

`setup` says what to simulate, `replay` simulates it, `figures` and `series` compare, `spread` tells what
the real system differs from itself, `budget` what each measured part explains, and `answer` whether the
choice between two policies is the same.
"""
