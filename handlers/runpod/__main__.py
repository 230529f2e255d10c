"""``python -m handlers.runpod``."""

from handlers.runpod.command import main

if __name__ == "__main__":
    raise SystemExit(main())
