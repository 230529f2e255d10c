"""Tables for tests of the DynamoDB stores, and what stands in them."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

from router_core.stores.dynamodb import create_table
from router_core.vendors import boto3

__all__ = ["fresh_table", "items"]

_number = count()


async def fresh_table() -> str:
    """Create a table of jobs in which nothing expires by the emulator's clock, which is not the test's."""
    name = f"jobs{next(_number)}"
    await asyncio.to_thread(create_table, name, expire=False)
    return name


def items(table: str, pk: str) -> list[dict[str, Any]]:
    """Return what stands in a partition, as DynamoDB has it."""
    pages = boto3.client("dynamodb").get_paginator("query")
    answers = pages.paginate(
        TableName=table, KeyConditionExpression="pk = :pk", ExpressionAttributeValues={":pk": {"S": pk}}
    )
    return [item for answer in answers for item in answer["Items"]]
