"""The validated route of the Lambda measurements, as authors of ours write it."""

from __future__ import annotations

from pydantic import BaseModel

from router_core import Router

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


@router.get("/hello")
async def hello(name: str = "world") -> str:
    """Greet."""
    return f"hello {name}"


def _add(path: str) -> None:
    @router.get(path)
    async def other() -> str:
        """Be one of several routes."""
        return path


for _number in range(9):
    _add(f"/other/{_number}")


@router.post("/order")
async def order(order: Order) -> Receipt:
    """Price an order."""
    return Receipt(name=order.name, total=order.count * order.price, paid=order.paid)


@router.post("/order-sync")
def order_sync(order: Order) -> Receipt:
    """Price an order, without async."""
    return Receipt(name=order.name, total=order.count * order.price, paid=order.paid)
