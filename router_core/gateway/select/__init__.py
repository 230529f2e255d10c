"""Which deployment a call goes to: filters, strategies, and why."""
