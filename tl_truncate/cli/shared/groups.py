"""Options that belong together as one dataclass: written once, read and checked in one place."""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter
from typing import Any


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Makes every field of a parameter that is a dataclass an option of the command.

    A field is annotated as the option would be. The parameter's own default, an instance, says where the
    fields' defaults are others for this command.
    """
    asked = list(inspect.signature(command).parameters.values())
    groups: dict[str, Any] = {
        each.name: each.annotation for each in asked if is_dataclass(each.annotation)
    }

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    options = [option for each in asked for option in _options(each)]
    options.sort(key=lambda option: option.default is not Parameter.empty)  # what is required is first
    # What typer reads: the options in place of the groups.
    wrapper.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {option.name: option.annotation for option in options}
    return wrapper


def _options(parameter: Parameter) -> Iterator[Parameter]:
    if not is_dataclass(parameter.annotation):
        yield parameter.replace(kind=Parameter.KEYWORD_ONLY)
        return
    for field in fields(parameter.annotation):
        default = Parameter.empty if field.default is MISSING else field.default
        if parameter.default is not Parameter.empty:
            default = getattr(parameter.default, field.name)
        yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=field.type)
