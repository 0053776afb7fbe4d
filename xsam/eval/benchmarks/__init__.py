"""Published benchmarks: their files, their questions, and the rules by which their scores are computed.

`table.BENCHMARKS` lists them, and `evaluation.evaluate_benchmark` runs one. `files` finds the files, and
`questions` turns them into questions.
"""
