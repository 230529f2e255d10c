"""A gateway in front of models that are scripted, so that it needs no key.

from openai import OpenAI
client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="unused")
client.chat.completions.create(model="small", messages=[{"role": "user", "content": "Hello!"}])
"""

from __future__ import annotations

import os
from pathlib import Path

from router_core.gateway import Gateway

router = Gateway(
    path=os.environ.get("ROUTER_GATEWAY") or str(Path(__file__).with_name("gateway.yaml")), environ=os.environ
).router
