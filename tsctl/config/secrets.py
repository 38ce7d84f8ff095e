"""Secrets of a model: deployment.yaml says where each comes from, and archive.yaml which ones the model needs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from tsctl.config.spec import SpecModel

#: As the model asks for it, and the name of a file.
SecretName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
SecretNames = Annotated[tuple[SecretName, ...], Field(max_length=100, strict=False)]


class SecretSource(SpecModel):
    """Where the value of a secret is read when a version is registered, and at each apply."""

    #: A variable in the environment of tsctl, which the nodes do not get.
    env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")] | None = None
    file: Annotated[str, StringConstraints(min_length=1)] | None = None  # relative to the project

    @model_validator(mode="after")
    def _check_choice(self) -> SecretSource:
        if (self.env is None) == (self.file is None):
            raise ValueError("give either env or file")
        return self
