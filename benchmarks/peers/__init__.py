"""Other job queues, each in a process of its own; run with an interpreter that has them installed.

Each prints one number: finished jobs per second at concurrency 10.
"""
