"""Row security: which tables have access groups, and the policies that say who may do what with their rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import peewee

from collectkit.errors import DeclarationError
from collectkit.models import AclModel
from collectkit.scoped import SETTING

Act = Literal["read", "write"]

_ACTS: Final[tuple[Act, Act]] = ("read", "write")

# An uncorrelated subquery is evaluated once a statement. Unset and '' give no group; a list may be written in braces.
GROUPS: Final = f"(SELECT string_to_array(translate(current_setting('{SETTING}', true), '{{ }}', ''), ',')::uuid[])"


@dataclass(frozen=True, slots=True)
class Protected:
    """A table with access groups, and who may do what with a row of it.

    Attributes:
        model: what declares it.
        schema: where it is, as statements write it.
        name: its name, as statements write it.
        may_read: the condition that the groups in force may read a row.
        may_write: the same for writing.
    """

    model: type[peewee.Model]
    schema: str
    name: str
    may_read: str
    may_write: str

    @property
    def table(self) -> str:
        """The table's full name."""
        return f"{self.schema}.{self.name}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that hold a row's own groups; none where it has those of another."""
        return ("acl_read", "acl_write") if issubclass(self.model, AclModel) else ()

    def policies(self, table: str) -> dict[str, str]:
        """Return the statements that make the policies on ``table``, by the policies' names."""
        both = f"{self.may_read} AND {self.may_write}"
        clauses = {
            "select": f"USING ({self.may_read})",
            "insert": f"WITH CHECK ({both})",
            "update": f"USING ({self.may_write}) WITH CHECK ({both})",
            "delete": f"USING ({self.may_write})",
        }
        return {
            f"collectkit_{kind}": f"CREATE POLICY collectkit_{kind} ON {table} FOR {kind.upper()} {clause}"
            for kind, clause in clauses.items()
        }


def protected(models: Iterable[type[peewee.Model]]) -> list[Protected]:
    """Return the tables with access groups among those of ``models``, ordered by name.

    Such a table's model is an ``AclModel``, or says in its ``Meta`` through which foreign key a row belongs to one that
    is: ``acl_through = "advisory"``. Then whoever may read or write that row may read or write this one.

    Raises:
        DeclarationError: ``acl_through`` names no such key; or a table without access groups refers to one with them,
            and would tell of its rows.
    """
    found = []
    for model in models:
        may_read, may_write = (may(act, model, quoted(_meta(model).table_name)) for act in _ACTS)
        if may_read is not None and may_write is not None:
            schema, name = quoted(_meta(model).schema or "public"), quoted(_meta(model).table_name)
            found.append(Protected(model, schema, name, may_read, may_write))
        else:
            _refuse_telling(model)
    return sorted(found, key=lambda each: each.table)


def with_owners(models: Iterable[type[peewee.Model]]) -> list[type[peewee.Model]]:
    """Return the models, and those through whose rows their rows have groups: what shows these shows theirs."""
    found = list(dict.fromkeys(models))
    for model in found:
        key = _through(model)
        if key is not None and key.rel_model not in found:
            found.append(key.rel_model)
    return found


def may(act: Act, model: type[peewee.Model], row: str) -> str | None:
    """Return the condition that the groups in force may do this with a row; None if the model has no access groups.

    Arguments:
        row: what the statement calls the row.
    """
    if issubclass(model, AclModel):
        return f"{row}.acl_{act} && {GROUPS}"
    key = _through(model)
    if key is None:
        return None
    other = _meta(key.rel_model)
    table, theirs = quoted(other.schema or "public", other.table_name), "of_" + row.strip('"')
    same = f"{quoted(theirs)}.{quoted(key.rel_field.column_name)} = {row}.{quoted(key.column_name)}"
    # Which of the other table's rows may be read, its own policy decides.
    also = "" if act == "read" else f" AND {may(act, key.rel_model, quoted(theirs))}"
    return f"EXISTS (SELECT FROM {table} {quoted(theirs)} WHERE {same}{also})"


def quoted(*parts: str) -> str:
    """Return a name of one or several parts as statements write it."""
    return ".".join('"{}"'.format(part.replace('"', '""')) for part in parts)


def _meta(model: type[peewee.Model]) -> Any:
    return model._meta  # noqa: SLF001 - Peewee's documented way to what a model declares


def _through(model: type[peewee.Model]) -> peewee.ForeignKeyField | None:
    """Return the foreign key through which a row has the groups of another; None if the model names none."""
    name = getattr(_meta(model), "acl_through", None)
    if name is None:
        return None
    key = _meta(model).fields.get(name)
    if not isinstance(key, peewee.ForeignKeyField) or key.rel_model is model:
        raise DeclarationError([f"model {model.__name__}: acl_through = {name!r} is no foreign key to another table"])
    if not issubclass(key.rel_model, AclModel) and _through(key.rel_model) is None:
        message = f"acl_through = {name!r} leads to {key.rel_model.__name__}, which has no access groups"
        raise DeclarationError([f"model {model.__name__}: {message}"])
    return key


def _refuse_telling(model: type[peewee.Model]) -> None:
    if hasattr(_meta(model), "acl_through"):
        return
    for key in _meta(model).refs:
        if issubclass(key.rel_model, AclModel) or _through(key.rel_model) is not None:
            message = (
                f"its {key.name!r} refers to {key.rel_model.__name__}, which has access groups: say in its Meta "
                f"acl_through = {key.name!r}, or acl_through = None if everybody may read it"
            )
            raise DeclarationError([f"model {model.__name__}: {message}"])
