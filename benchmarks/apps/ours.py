"""The services that are measured, on router-core."""

from __future__ import annotations

import os

from pydantic import BaseModel

from handlers.local.asgi import AsgiApp
from router_core import Router, Settings, build_app

router = Router()


class Order(BaseModel):
    """Five fields."""

    name: str
    count: int
    price: float
    tags: list[str]
    paid: bool = False


class Receipt(BaseModel):
    """What comes back."""

    name: str
    total: float
    paid: bool


@router.post("/order")
async def order(order: Order) -> Receipt:
    """Price an order."""
    return Receipt(name=order.name, total=order.count * order.price, paid=order.paid)


@router.route("/noop", queue_size=10_000_000, concurrency=10)
async def noop(n: int) -> int:
    """Do nothing, durably."""
    return n


def asgi() -> AsgiApp:
    """Build the app (a uvicorn factory)."""
    return AsgiApp(build_app(router, Settings.from_env(os.environ, log_level="warning")))
