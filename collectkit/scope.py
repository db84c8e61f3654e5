"""The scope: which access groups are in force, here and now. It is a context variable; what it means is SQL's affair.

A scope counts only while it is open, in the thread that opened it, and, if a generator opened it, only while that
generator runs: whoever takes the generator's rows keeps its own scope between them. Nothing is inherited: what is built
under a scope and executed later is executed under the scope of later.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from contextvars import ContextVar
from threading import get_ident
from types import CodeType, FrameType
from typing import Final

_current: ContextVar[Scope | None] = ContextVar("collectkit.scope", default=None)

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
        self._parent = _nearest_open(_current.get())
        self._thread = get_ident()
        self._generator = _generator_below(sys._getframe(1))  # noqa: SLF001 - CPython's documented way to its frames
        self._open = True
        _current.set(self)
        self._note(self.groups)

    def close(self) -> None:
        """End it; what was in force before is in force again."""
        self._open = False
        self._generator = None
        if _current.get() is self:
            _current.set(_nearest_open(self._parent))

    def change(self, groups: frozenset[str], setting: str) -> None:
        """Put other groups in force for the rest of it."""
        self.groups, self.setting = groups, setting
        self._note(groups)

    def is_open_here(self) -> bool:
        """Tell whether it is open, and was opened by this thread."""
        return self._open and self._thread == get_ident()

    def counts(self) -> bool:
        """Tell whether it is in force for the code that asks."""
        return self.is_open_here() and (self._generator is None or _runs(self._generator))

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
    scope = _current.get()
    while scope is not None and not scope.counts():
        scope = scope.outer()
    return scope


def setting_in_force() -> str:
    """Return what the database's setting should read: the groups' ids, '' for no group at all."""
    scope = in_force()
    return "" if scope is None else scope.setting


def root_in_force() -> Scope | None:
    """Return the scope of the run or request that is under way here, None outside of both."""
    scope = in_force()
    while scope is not None and not (scope.root and scope.counts()):
        scope = scope.outer()
    return scope


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


def _runs(generator: FrameType) -> bool:
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - see above
    while frame is not None:
        if frame is generator:
            return True
        frame = frame.f_back
    return False
