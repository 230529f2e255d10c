"""APIPod with its in-memory job queue; argument: the port."""

from __future__ import annotations

import sys

from apipod import APIPod

app = APIPod(simulate="serverless")


@app.endpoint("/noop", queue_size=1_000_000)
def noop(n: int) -> int:
    """Do nothing."""
    return n


if __name__ == "__main__":
    app.start(port=int(sys.argv[1]), host="127.0.0.1")
