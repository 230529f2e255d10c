"""How deployments stand: circuit breakers, cooldowns, ejection, retry budgets."""
