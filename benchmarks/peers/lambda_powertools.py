"""The same service with the event handler of Powertools, validation on."""

from typing import Any

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
from pydantic import BaseModel

app = APIGatewayHttpResolver(enable_validation=True)


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
def hello(name: str = "world") -> str:
    """Greet."""
    return f"hello {name}"


def _add(path: str) -> None:
    @app.get(path)
    def other() -> str:
        """Be one of several routes."""
        return path


for _number in range(9):
    _add(f"/other/{_number}")


@app.post("/order")
def order(order: Order) -> Receipt:
    """Price an order."""
    return Receipt(name=order.name, total=order.count * order.price, paid=order.paid)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one event."""
    return app.resolve(event, context)
