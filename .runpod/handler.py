"""What the RunPod Hub looks for in a repository: the worker's entry, which is a module of the package."""

from __future__ import annotations

import runpy

if __name__ == "__main__":
    runpy.run_module("handlers.runpod", run_name="__main__", alter_sys=True)
