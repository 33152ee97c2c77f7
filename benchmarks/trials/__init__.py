"""What the table of workloads does not show: other receivers of C-STORE, how cost grows, and how a busy gateway feels.

``python -m benchmarks.trials receivers|growth|soak``; docs/performance.md says what each of them does.
"""
