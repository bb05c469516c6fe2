"""Measurements behind the numbers in docs/performance.md; each writes
benchmarks/results/<name>.json.
"""
