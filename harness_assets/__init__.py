"""What is made: one module of thin assets for each group, and the one place that records a
manifest in Dagster.
"""
