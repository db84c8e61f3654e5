"""The scope: which access groups are in force, here and now. It is a context variable; what it means is SQL's affair.

A scope counts only while it is open, and in the thread that opened it. One that a generator opened belongs to that
generator instead: it counts wherever the generator runs, before all scopes of whoever takes its rows, and only then.
Nothing is inherited: what is built under a scope and executed later is executed under the scope of later.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from contextvars import ContextVar
from threading import get_ident
from types import CodeType, FrameType
from typing import Final

# The innermost of the scopes that belong to no generator; each knows the one around it.
_current: ContextVar[Scope | None] = ContextVar("collectkit.scope", default=None)
# The open scopes of generators, by their frames; a generator may go on in another context than it began in.
_of_generators: Final[dict[FrameType, list[Scope]]] = {}

_YIELDS: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
# A generator that one of these starts yields in order to keep a scope open, not to hand out a row.
KEEPERS: Final[set[CodeType]] = {
    vars(kind)[name].__code__
    for kind, name in (
        (contextlib._GeneratorContextManager, "__enter__"),  # noqa: SLF001 - there is no public name
        (contextlib._AsyncGeneratorContextManager, "__aenter__"),  # noqa: SLF001
    )
}


class Scope:
    """Access groups, in force from ``open`` to ``close``; a scope that is opened inside another hides it.

    Each may be called again, and scopes may be closed in any order: one that is closed is never in force again. So a
    ``finally`` that closes it is enough, whatever an interrupt has left half done.

    Arguments:
        groups: the names.
        setting: the same as the database's setting has it.
        root: whether it belongs to a whole run or request, which ``set_user_acls`` changes.

    Attributes:
        acted: every group that was in force since it was opened, in scopes inside it too.
    """

    def __init__(self, groups: frozenset[str], setting: str, *, root: bool = False) -> None:
        self.groups = groups
        self.setting = setting
        self.root = root
        self.acted = set(groups)
        self._parent: Scope | None = None
        self._thread = 0
        self._generator: FrameType | None = None
        self._open = False

    def open(self) -> None:
        """Put the groups in force."""
        if self._open:
            return
        self._parent = in_force()
        self._thread = get_ident()
        self._generator = _generator_below(sys._getframe(1))  # noqa: SLF001 - CPython's documented way to its frames
        self._open = True
        if self._generator is None:
            _current.set(self)
        else:
            _of_generators.setdefault(self._generator, []).append(self)
        self._note(self.groups)

    def close(self) -> None:
        """End it; what was in force before is in force again."""
        self._open = False
        if self._generator is not None:
            others = [each for each in _of_generators.pop(self._generator, ()) if each is not self]
            if others:
                _of_generators[self._generator] = others
            self._generator = None
        elif _current.get() is self:
            _current.set(_nearest_open(self._parent))

    def change(self, groups: frozenset[str], setting: str) -> None:
        """Put other groups in force for the rest of it."""
        self.groups, self.setting = groups, setting
        self._note(groups)

    def is_open_here(self) -> bool:
        """Tell whether it is open, and was opened by this thread; a generator may go on in another one."""
        return self._open and (self._generator is not None or self._thread == get_ident())

    def outer(self) -> Scope | None:
        """Return the scope in which it was opened."""
        return self._parent

    def _note(self, groups: frozenset[str]) -> None:
        scope: Scope | None = self
        while scope is not None:
            scope.acted |= groups
            scope = None if scope.root else scope.outer()


def in_force() -> Scope | None:
    """Return the innermost scope that counts here, None if none does."""
    return next(iter(_counting()), None)


def setting_in_force() -> str:
    """Return what the database's setting should read: the groups' ids, '' for no group at all."""
    scope = in_force()
    return "" if scope is None else scope.setting


def root_in_force() -> Scope | None:
    """Return the scope of the run or request that is under way here, None outside of both."""
    return next((scope for scope in _counting() if scope.root), None)


def _counting() -> list[Scope]:
    """Return the scopes that count for the code that asks, innermost first: those of the generators that run it first.

    The nearest generator's scope is in force even if somebody who takes its rows has opened one since.
    """
    found: list[Scope] = []
    frame: FrameType | None = sys._getframe(1) if _of_generators else None  # noqa: SLF001 - see above
    while frame is not None:
        found += [scope for scope in reversed(_of_generators.get(frame, ())) if scope.is_open_here()]
        frame = frame.f_back
    scope = _nearest_open(_current.get())
    while scope is not None:
        found.append(scope)
        scope = _nearest_open(scope.outer())
    return found


def _nearest_open(scope: Scope | None) -> Scope | None:
    while scope is not None and not scope.is_open_here():
        scope = scope.outer()
    return scope


def _generator_below(frame: FrameType | None) -> FrameType | None:
    """Return the nearest generator that is running on this stack, those aside that only keep a scope open."""
    while frame is not None:
        caller = frame.f_back
        if frame.f_code.co_flags & _YIELDS and (caller is None or caller.f_code not in KEEPERS):
            return frame
        frame = caller
    return None
