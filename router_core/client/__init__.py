"""Call a service like a library: endpoints are functions, jobs are objects.

    from router_core.client import connect

    service = connect("http://127.0.0.1:8000")
    job = service.predict("a cat", steps=4)
    image = job.result()

``connect(url, asynchronous=True)`` gives the same for asynchronous programs.
"""

from __future__ import annotations

from router_core.client.aio import AsyncClient, AsyncEndpoint
from router_core.client.connect import connect
from router_core.client.dialect import Event, JobPage
from router_core.client.errors import (
    BadAnswer,
    CannotConnect,
    ConnectionCut,
    JobCancelled,
    JobExpired,
    JobFailed,
    TlsFailed,
)
from router_core.client.job import AsyncJob
from router_core.client.retry import NO_RETRY, Retry
from router_core.client.sync import Client, Endpoint, Job
from router_core.http.media import File

__all__ = [
    "NO_RETRY",
    "AsyncClient",
    "AsyncEndpoint",
    "AsyncJob",
    "BadAnswer",
    "CannotConnect",
    "Client",
    "ConnectionCut",
    "Endpoint",
    "Event",
    "File",
    "Job",
    "JobCancelled",
    "JobExpired",
    "JobFailed",
    "JobPage",
    "Retry",
    "TlsFailed",
    "connect",
]
