"""A state machine that looks for leaks: three actors, each in a thread of its own, share one pool of connections.

They open and end scopes, transactions and savepoints in any order that a program may, fail, are killed, keep generators
half read and give their connections back; after each step the actor reads what it can.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from hypothesis import Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.actor import Actor
from tests.counter import Counter
from tests.opener import Row, World
from tests.secured import GROUPS, Archive, ident

NAMES = tuple(f"paper {n}" for n in range(6))
IDS = {ident(group): group for group in GROUPS}

some_groups = st.frozensets(st.sampled_from(GROUPS[:3]), min_size=1, max_size=2)
groups = some_groups | some_groups | st.just(frozenset[str]())


class Leaks(RuleBasedStateMachine):
    """The machine; ``counter`` and ``archive`` are given to the class before it runs."""

    counter: Counter
    archive: Archive

    actor = st.sampled_from([0, 0, 0, 1, 2])

    @initialize(
        rows=st.lists(st.tuples(some_groups, some_groups), min_size=len(NAMES) - 2, max_size=len(NAMES) - 2),
        scopes=st.lists(groups, min_size=3, max_size=3),
    )
    def fill(self, rows: list[tuple[frozenset[str], frozenset[str]]], scopes: list[frozenset[str]]) -> None:
        self.archive.run("DELETE FROM paper")
        world = World(self.counter)
        for name, (read, write) in zip(NAMES, rows, strict=False):
            self.archive.put(name, read, write)
            world.committed[name] = Row(read, write)
        self.world = world
        self.actors = [Actor(world, writes=number == 0) for number in range(3)]
        for number, wanted in enumerate(scopes):
            self.open_request(number, wanted)

    def act(self, number: int, what: Callable[[Actor], None]) -> None:
        """Let an actor act, and see at once what it can read after that."""
        self.actors[number].do(what)
        self.actors[number].do(lambda actor: actor.read(1))
        self.actors[number].do(Actor.look_at_the_connection)

    @rule(number=actor, wanted=groups)
    def open_scope(self, number, wanted):
        self.act(number, lambda actor: actor.open_scope(wanted))

    @rule(number=actor, wanted=groups)
    def open_request(self, number, wanted):
        self.act(number, lambda actor: actor.open_root(wanted))

    @rule(number=actor, wanted=groups)
    def set_user_acls(self, number, wanted):
        self.act(number, lambda actor: actor.change_root(wanted))

    @rule(number=actor)
    def end_request(self, number):
        self.act(number, Actor.close_root)

    @rule(number=actor)
    def open_transaction(self, number):
        self.act(number, Actor.open_transaction)

    @rule(number=actor, wanted=groups)
    def open_scope_in_a_savepoint(self, number, wanted):
        for _ in range(2):
            self.actors[number].do(Actor.open_transaction)
        self.act(number, lambda actor: actor.open_scope(wanted))

    @rule(number=actor)
    def roll_back(self, number):
        self.act(number, lambda actor: actor.end(fails=True))

    @rule()
    def open_checkpoint(self):
        self.act(0, Actor.open_checkpoint)

    @rule(number=actor, fails=st.booleans())
    def end(self, number, fails):
        self.act(number, lambda actor: actor.end(fails=fails))

    @rule(number=actor)
    def end_scope(self, number):
        self.act(number, Actor.end_scope)

    @rule(number=actor, how=st.integers(0, 5))
    def read(self, number, how):
        self.act(number, lambda actor: actor.read(how))

    @rule(number=actor)
    def fail(self, number):
        self.act(number, Actor.fail)

    @rule(name=st.sampled_from(NAMES), text=st.sampled_from("abc"))
    def write_outside_a_checkpoint(self, name, text):
        self.act(0, lambda actor: actor.change(name, text, delete=False))

    @rule(name=st.sampled_from(NAMES), text=st.sampled_from("abc"), delete=st.booleans())
    def change(self, name, text, delete):
        self.actors[0].do(Actor.begin_to_write)
        self.act(0, lambda actor: actor.change(name, text, delete=delete))

    @rule(name=st.sampled_from(NAMES), read=some_groups)
    def regroup(self, name, read):
        self.actors[0].do(Actor.begin_to_write)
        self.act(0, lambda actor: actor.regroup(name, read))

    @rule(name=st.sampled_from(NAMES), read=some_groups, write=some_groups)
    def insert(self, name, read, write):
        self.actors[0].do(Actor.begin_to_write)
        self.act(0, lambda actor: actor.insert(name, read, write))

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1), text=st.sampled_from("xyz"), replaces=st.booleans())
    def load(self, names, text, replaces):
        self.actors[0].do(Actor.begin_to_write)
        self.act(0, lambda actor: actor.load(names, text, replaces=replaces))

    @rule(text=st.sampled_from("uvw"))
    def load_by_a_query(self, text):
        self.actors[0].do(Actor.begin_to_write)
        self.act(0, lambda actor: actor.copy(text))

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1))
    def remove(self, names):
        self.actors[0].do(Actor.begin_to_write)
        self.act(0, lambda actor: actor.remove(names))

    @rule(number=actor, wanted=groups)
    def start_generator(self, number, wanted):
        self.act(number, lambda actor: actor.start_generator(wanted))

    @rule(number=actor, which=st.integers(0, 3))
    def step_generator(self, number, which):
        self.act(number, lambda actor: actor.step_generator(which))

    @rule(number=actor, wanted=groups, others=groups)
    def open_scope_between_rows(self, number, wanted, others):
        self.actors[number].do(lambda actor: actor.start_generator(wanted))
        self.actors[number].do(lambda actor: actor.step_generator(-1))
        self.act(number, lambda actor: actor.open_scope(others))
        self.act(number, lambda actor: actor.step_generator(-1))

    @rule(number=actor)
    def drop_generator(self, number):
        self.act(number, Actor.drop_generator)

    @rule(number=actor)
    def kill(self, number):
        self.act(number, Actor.be_killed)

    @rule(number=actor)
    def give_connection_back(self, number):
        self.act(number, Actor.give_connection_back)

    def teardown(self) -> None:
        for actor in getattr(self, "actors", ()):
            actor.stop()
        if hasattr(self, "world"):
            found = self.archive.run("SELECT name, acl_read, acl_write, text FROM paper")
            stored = {
                name: Row(frozenset(IDS[i] for i in read), frozenset(IDS[i] for i in write), text)
                for name, read, write, text in found
            }
            assert stored == self.world.committed, "what is stored is not what the scopes allowed to be written"


def search(counter: Counter, archive: Archive, statements: int, seed_from: int = 1) -> None:
    """Run the machine until so many statements were sent; an AssertionError is a leak, or a denial that should not be.

    The steps that led to it are printed as they were; to make them fewer would take minutes.
    """
    Leaks.counter, Leaks.archive = counter, archive
    options = {"derandomize": False, "database": None, "deadline": None, "phases": [Phase.generate]}
    how = settings(max_examples=25, stateful_step_count=40, **options)
    for number in count(seed_from):
        if counter.statements >= statements:
            return
        before = counter.statements
        run_state_machine_as_test(seed(number)(Leaks), settings=how)
        assert counter.statements > before
