"""LiteLLM's Router choosing a deployment: ten models of three, simple-shuffle. Prints microseconds of CPU."""

from __future__ import annotations

import random
import time

from litellm import Router  # type: ignore[import-not-found] # installed only where peers are

_CALLS = 2_000
_MESSAGES = [{"role": "user", "content": "Say something nice about load balancers."}]


def main() -> None:
    """Measure, best of five rounds."""
    router = Router(
        model_list=[
            {
                "model_name": f"model-{number}",
                "litellm_params": {
                    "model": f"openai/model-{number}",
                    "api_base": f"http://127.0.0.1:9/{number}/{place}",
                    "api_key": "none",
                },
            }
            for number in range(10)
            for place in range(3)
        ],
        routing_strategy="simple-shuffle",
    )
    rng = random.Random(1)
    names = [f"model-{rng.randrange(10)}" for _ in range(_CALLS)]
    rounds = []
    for _ in range(5):
        started = time.process_time()
        for name in names:
            router.get_available_deployment(model=name, messages=_MESSAGES)
        rounds.append((time.process_time() - started) / _CALLS * 1e6)
    print(f"{min(rounds):.2f}")


if __name__ == "__main__":
    main()
