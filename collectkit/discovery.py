"""Finding collectors without a register: every ``tasks.py`` below the packages named in the settings."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import entry_points
from pathlib import Path

import peewee

from collectkit.actor import Collector
from collectkit.broker import broker
from collectkit.declaration import Declaration
from collectkit.errors import CollectkitError
from collectkit.names import family


@dataclass(frozen=True, slots=True)
class Discovered:
    """What was found, and what could not be imported.

    Attributes:
        packages: the packages that were searched.
        collectors: every collector declared in them, by name.
        import_faults: one line for each module that could not be imported.
        declarations: what the code says of each collector and instance, by name.
    """

    packages: tuple[str, ...]
    collectors: dict[str, Collector]
    import_faults: tuple[str, ...] = ()
    declarations: dict[str, Declaration] = field(default_factory=dict)

    def models(self) -> set[type[peewee.Model]]:
        """Return the models whose tables the collectors fill."""
        return {model for each in self.collectors.values() for model in each.declared.data_models}

    def faults(self) -> list[str]:
        """Return every fault of imports and of the dependency graph, one line each."""
        return [*self.import_faults, *graph_faults(self.declarations.values())]


def discover(packages: Sequence[str]) -> Discovered:
    """Import every ``tasks.py`` below these packages, and those that other distributions announce.

    An import that fails is a fault in the answer, not an exception: the other collectors are none the worse for it.
    Other distributions join by the entry-point group ``collectkit.collectors``, its values being packages.
    """
    announced = (point.value for point in entry_points(group="collectkit.collectors"))
    searched = tuple(dict.fromkeys([*packages, *announced]))
    faults: list[str] = []
    for package in searched:
        try:
            modules = _task_modules(package)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a package raises at import is its fault
            faults.append(_fault(package, error))
            continue
        for module in modules:
            try:
                importlib.import_module(module)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - see above
                faults.append(_fault(module, error))
    found = [
        actor
        for _, actor in sorted(broker.actors.items())
        if isinstance(actor, Collector) and _is_below(actor.fn.__module__, searched)
    ]
    return describe(found, searched, faults)


def describe(
    collectors: Iterable[Collector], packages: Sequence[str] = (), import_faults: Iterable[str] = ()
) -> Discovered:
    """Return what these collectors declare, one declaration an instance, dependencies by their full names."""
    known = {each.name: each for each in collectors}
    faults = list(import_faults)
    declarations: dict[str, Declaration] = {}
    for each in known.values():
        try:
            names = each.instances()
        except Exception as error:  # noqa: BLE001 - the author's each=
            faults.append(_fault(each.name, error))
        else:
            declarations |= {name: _declaration(name, each) for name in names}
    expanded = {name: _with_instances(each, declarations) for name, each in declarations.items()}
    return Discovered(tuple(packages), known, tuple(faults), expanded)


def graph_faults(declarations: Iterable[Declaration]) -> list[str]:
    """Return what is wrong between collectors: unknown names, disabled dependencies, cycles (``after`` included)."""
    known = {each.name: each for each in declarations}
    faults = []
    graph: dict[str, set[str]] = {}
    for each in known.values():
        for option, names in (("depends_on", each.depends_on), ("after", each.after)):
            for name in names:
                if name not in known:
                    faults.append(f"collector {each.name!r}: {option} names {name!r}, which no collector is called")
                elif option == "depends_on" and each.enabled and not known[name].enabled:
                    faults.append(f"collector {each.name!r}: it is enabled but depends on {name!r}, which is disabled")
        graph[each.name] = {name for name in (*each.depends_on, *each.after) if name in known}
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            cycle: list[str] = error.args[1]
            faults.append(f"a cycle of depends_on and after: {' -> '.join(reversed(cycle))}")
            # One edge less, and the next cycle, if there is one, is found as well.
            graph[cycle[1]].discard(cycle[0])
        else:
            return faults


def _task_modules(package: str) -> list[str]:
    """Return the dotted names of all ``tasks.py`` files; a namespace package has several directories."""
    root = importlib.import_module(package)
    if not hasattr(root, "__path__"):
        raise CollectkitError("is a module, and no package below which a tasks.py could be")
    found = {
        path.relative_to(directory).with_suffix("").parts
        for directory in map(Path, root.__path__)
        for path in directory.rglob("tasks.py")
    }
    # What tools keep in hidden directories is no code of anybody's.
    return sorted(".".join((package, *parts)) for parts in found if not any(part.startswith(".") for part in parts))


def _is_below(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _declaration(name: str, collector: Collector) -> Declaration:
    declared = collector.declared
    return Declaration(
        name=name,
        schedule=None if declared.periodic is None else declared.periodic.spec,
        tz="UTC" if declared.periodic is None else declared.periodic.tz,
        depends_on=declared.depends_on,
        after=declared.after,
        data_models=tuple(model.__name__ for model in declared.data_models),
        enabled=declared.enabled,
        max_attempts=declared.max_attempts,
        fresh_for=declared.fresh_for,
    )


def _with_instances(declaration: Declaration, known: Iterable[str]) -> Declaration:
    """Let a dependency on a parametrised collector mean all its instances."""

    def expand(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(one for name in names for one in ([k for k in known if family(k) == name] or [name]))

    return replace(declaration, depends_on=expand(declaration.depends_on), after=expand(declaration.after))


def _fault(where: str, error: BaseException) -> str:
    words = str(error) if isinstance(error, CollectkitError) else f"{type(error).__name__}: {error}"
    return f"{where}: {' '.join(words.split())}"
