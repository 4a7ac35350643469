"""What all arguments of tools have in common. Pydantic takes as long to import as a third of what a start may take:
`runner.tools.base` does without it.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Arguments(BaseModel):
    """Base of tool arguments: unknown fields are refused, and text that no file or wire can hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_surrogates(cls, data: Any) -> Any:
        try:
            json.dumps(data, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError as error:
            msg = "text holds half of a surrogate pair, which is not a character"
            raise ValueError(msg) from error
        return data
