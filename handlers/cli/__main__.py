"""``python -m handlers.cli``."""

from handlers.cli.main import main

raise SystemExit(main())
