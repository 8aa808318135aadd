"""Validated field types and the dataclass base of all settings."""

from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic
from pydantic import dataclasses as pydantic_dataclasses

from tunix_ttt import streams

Strict = pydantic.Strict()
Text = Annotated[str, Strict]
Flag = Annotated[bool, Strict]
Count = Annotated[int, Strict, pydantic.Field(ge=0)]
Seed = Annotated[int, Strict, pydantic.Field(ge=0, le=streams.MAX_SEED)]
Positive = Annotated[int, Strict, pydantic.Field(ge=1)]
NonNegative = Annotated[float, Strict, pydantic.Field(ge=0)]
AboveZero = Annotated[float, Strict, pydantic.Field(gt=0)]
Fraction = Annotated[float, Strict, pydantic.Field(ge=0, le=1)]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[T]) -> type[T]:
  """Makes a class a frozen dataclass whose values are checked."""
  decorate: Any = pydantic_dataclasses.dataclass(
    frozen=True,
    kw_only=True,
    config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False),
  )
  return decorate(cls)
