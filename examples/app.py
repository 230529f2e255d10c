"""The example services and a gateway for models as one app: what ``make run`` serves.

router-core serve examples.app:router
"""

from __future__ import annotations

from examples import batch, gateway, image, text
from router_core import Router

router = Router()
router.include_router(image.router, prefix="/image", tags=["image"])
router.include_router(text.router, prefix="/text", tags=["text"])
router.include_router(batch.router, prefix="/batch", tags=["batch"])
router.include_router(gateway.router)


@router.get("/hello")
def hello(name: str = "world") -> str:
    """Greet."""
    return f"Hello, {name}!"
