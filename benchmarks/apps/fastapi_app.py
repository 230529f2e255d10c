"""The same validated route as ``ours``, in FastAPI."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


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


@app.post("/order")
async def order(order: Order) -> Receipt:
    """Price an order."""
    return Receipt(name=order.name, total=order.count * order.price, paid=order.paid)
