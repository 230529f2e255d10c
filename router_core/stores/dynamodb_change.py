"""UpdateItem, put together piece by piece."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from router_core.jobs.job import State
from router_core.stores.dynamodb_calls import AV, Item
from router_core.stores.dynamodb_items import CHAIN

__all__ = ["Change", "has_write"]


class Change:
    """One conditional change of one item.

    Every attribute goes by a placeholder: DynamoDB reserves 573 words, ``state`` and ``token`` among them.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._values: dict[str, AV] = {}
        self._sets: list[str] = []
        self._removes: list[str] = []
        self._conditions: list[str] = []

    def name(self, attribute: str) -> str:
        """Return the placeholder of an attribute."""
        return self._names.setdefault(attribute, f"#a{len(self._names)}")

    def value(self, value: AV) -> str:
        """Return a placeholder for a value."""
        placeholder = f":v{len(self._values)}"
        self._values[placeholder] = value
        return placeholder

    # --- what is written ------------------------------------------------------------------------

    def set(self, attribute: str, value: AV) -> None:
        """Write a value."""
        self._sets.append(f"{self.name(attribute)} = {self.value(value)}")

    def copy(self, attribute: str, source: str) -> None:
        """Write what stood in another attribute before this change."""
        self._sets.append(f"{self.name(attribute)} = {self.name(source)}")

    def add(self, attribute: str, amount: int) -> None:
        """Add to a number."""
        name = self.name(attribute)
        self._sets.append(f"{name} = {name} + {self.value({'N': str(amount)})}")

    def remove(self, *attributes: str) -> None:
        """Leave attributes out from now on."""
        self._removes += [self.name(attribute) for attribute in attributes]

    def sign(self, write_id: str) -> None:
        """Note the id of a change of state, and keep those of the last ones."""
        for newer, older in zip(CHAIN[-2::-1], CHAIN[:0:-1], strict=True):
            self.copy(older, newer)
        self.set(CHAIN[0], {"S": write_id})

    # --- what has to hold -----------------------------------------------------------------------

    def require(self, attribute: str, comparison: str, value: AV) -> None:
        """Let the change be made only if a comparison holds."""
        self._conditions.append(f"{self.name(attribute)} {comparison} {self.value(value)}")

    def require_state(self, states: Collection[State]) -> None:
        """Let the change be made only in one of some states."""
        values = ", ".join(self.value({"S": state.value}) for state in sorted(states))
        self._conditions.append(f"{self.name('state')} IN ({values})")

    def require_text(self, condition: str) -> None:
        """Let the change be made only under a condition in DynamoDB's words."""
        self._conditions.append(condition)

    def parameters(self) -> dict[str, Any]:
        """Return what UpdateItem takes, without the key."""
        expression = f"SET {', '.join(self._sets)}" if self._sets else ""
        if self._removes:
            expression += f" REMOVE {', '.join(self._removes)}"
        names = {placeholder: attribute for attribute, placeholder in self._names.items()}
        found: dict[str, Any] = {"UpdateExpression": expression, "ExpressionAttributeNames": names}
        if self._values:
            found["ExpressionAttributeValues"] = self._values
        if self._conditions:
            found["ConditionExpression"] = " AND ".join(self._conditions)
        return found


def has_write(item: Item | None, write_id: str) -> bool:
    """Return whether a change of that id was made, the last one or one just before it."""
    return item is not None and any(
        item.get(link, {}).get("S") == write_id for link in (*CHAIN, "wx")
    )  # fmt: skip
