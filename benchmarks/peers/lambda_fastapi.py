"""The same service in FastAPI, behind Mangum."""

from fastapi import FastAPI
from mangum import Mangum
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


@app.get("/hello")
async def hello(name: str = "world") -> str:
    """Greet."""
    return f"hello {name}"


def _add(path: str) -> None:
    @app.get(path)
    async def other() -> str:
        """Be one of several routes."""
        return path


for _number in range(9):
    _add(f"/other/{_number}")


@app.post("/order")
async def order(order: Order) -> Receipt:
    """Price an order."""
    return Receipt(name=order.name, total=order.count * order.price, paid=order.paid)


handler = Mangum(app, lifespan="off")
