"""How much of something may be used: counts, rates and money, shared by processes, never overspent."""
