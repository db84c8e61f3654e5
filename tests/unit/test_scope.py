"""Which scope counts, without a database: threads, generators, tasks, and every order in which scopes can end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from collectkit.scope import Scope, _of_generators, in_force, root_in_force, setting_in_force


def scope(*groups, root=False):
    return Scope(frozenset(groups), ",".join(groups), root=root)


@contextlib.contextmanager
def under(*groups, root=False):
    it = scope(*groups, root=root)
    try:
        it.open()
        yield it
    finally:
        it.close()


def groups():
    return setting_in_force()


@pytest.fixture(autouse=True)
def nothing_stays_in_force():
    yield
    assert in_force() is None
    assert not _of_generators


def test_without_a_scope_there_is_no_group():
    assert groups() == ""


def test_an_inner_scope_hides_the_outer_one_and_gives_way_to_it_again():
    with under("a"):
        with under("b"):
            assert groups() == "b"
        assert groups() == "a"
        with under():
            assert groups() == ""
        assert groups() == "a"


def test_an_exception_ends_it():
    with pytest.raises(ValueError, match="out"), under("a"):
        raise ValueError("out")

    assert groups() == ""


def test_scopes_may_end_in_any_order_and_none_comes_back():
    first, second, third = scope("a"), scope("b"), scope("c")
    for each in (first, second, third):
        each.open()

    second.close()
    assert groups() == "c"
    first.close()
    assert groups() == "c"
    third.close()
    assert groups() == ""


def test_to_open_or_close_twice_changes_nothing():
    it = scope("a")
    it.open()
    it.open()
    it.close()
    it.close()

    assert groups() == ""


def test_a_thread_inherits_nothing_even_with_a_copy_of_the_context():
    with under("a"), ThreadPoolExecutor(1) as pool:
        plain = pool.submit(groups).result()
        copied = pool.submit(contextvars.copy_context().run, groups).result()

    assert (plain, copied) == ("", "")


def test_threads_have_scopes_of_their_own():
    meet = threading.Barrier(2, timeout=60)

    def act(name):
        with under(name):
            meet.wait()
            seen = groups()
            meet.wait()
        return seen, groups()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(act, ["a", "b"])) == [("a", ""), ("b", "")]


def opening(*names):
    with under(*names):
        yield groups()
        yield groups()


def test_a_generator_keeps_its_scope_to_itself_between_its_rows():
    rows = opening("a")

    with under("b"):
        assert next(rows) == "a"
        assert groups() == "b"
        assert next(rows) == "a"
    assert groups() == ""
    rows.close()


def test_a_generator_has_its_own_scope_again_whatever_its_reader_has_opened_since():
    rows = opening("a")

    assert next(rows) == "a"
    with under("b"):
        assert next(rows) == "a"
        assert groups() == "b"


def test_a_generator_that_reads_another_has_its_own_scope_between():
    def outer():
        inner = opening("a")
        with under("b"):
            for seen in inner:
                yield seen, groups()

    rows = outer()
    with under("c"):
        assert next(rows) == ("a", "b")
        assert groups() == "c"
        with under("d"):
            assert next(rows) == ("a", "b")


def test_a_generator_has_its_own_scope_in_whatever_thread_or_context_it_goes_on():
    def go_on(rows):
        with under("b"):
            return next(rows), groups()

    in_a_thread, in_a_context = opening("a"), opening("a")
    next(in_a_thread)
    contextvars.copy_context().run(next, in_a_context)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(go_on, in_a_thread).result() == ("a", "b")
    assert contextvars.Context().run(go_on, in_a_context) == ("a", "b")
    in_a_thread.close()
    in_a_context.close()


def test_an_unfinished_generator_leaves_nothing_in_force():
    rows = opening("a")
    with under("b"):
        next(rows)

    assert groups() == ""
    rows.close()
    assert groups() == ""


def test_a_scope_that_a_generator_opened_ends_with_it_whenever_it_is_forgotten():
    with under("b"):
        rows = opening("a")
        next(rows)
        del rows
        assert groups() == "b"


def test_a_helper_that_opens_a_scope_for_a_generator_does_not_change_that():
    def enter(stack):
        stack.enter_context(under("a"))

    def rows():
        with contextlib.ExitStack() as stack:
            enter(stack)
            yield groups()

    coming = rows()
    assert next(coming) == "a"
    assert groups() == ""
    coming.close()


def test_a_generator_acts_under_the_scope_of_whoever_runs_it_not_of_whoever_made_it():
    with under("a"):
        made = (groups() for _ in range(2))
        assert next(made) == "a"

    assert next(made) == ""


def test_a_context_manager_that_opens_a_scope_is_no_generator_of_rows():
    @contextlib.contextmanager
    def as_somebody():
        with under("a"):
            yield

    with as_somebody():
        assert groups() == "a"

    def rows():
        with as_somebody():
            yield groups()

    coming = rows()
    assert next(coming) == "a"
    assert groups() == ""
    coming.close()


@pytest.fixture
def as_a_fixture():
    with under("a"):
        yield


def test_a_fixture_may_hold_a_scope_open(as_a_fixture):
    assert groups() == "a"


def test_tasks_of_one_thread_do_not_see_each_others_scopes():
    async def act(name):
        with under(name):
            await asyncio.sleep(0)
            seen = groups()
            await asyncio.sleep(0)
        return seen

    async def all_at_once():
        return await asyncio.gather(*(act(name) for name in "abc")), groups()

    assert asyncio.run(all_at_once()) == (["a", "b", "c"], "")


def test_an_asynchronous_generator_keeps_its_scope_to_itself_too():
    async def rows():
        with under("a"):
            yield groups()
            yield groups()

    async def take():
        coming = rows()
        seen = [await anext(coming), groups(), await anext(coming), groups()]
        await coming.aclose()
        return seen

    assert asyncio.run(take()) == ["a", "", "a", ""]


def test_the_root_is_that_of_the_run_or_request_and_remembers_every_group_in_it():
    with under("before"), under("a", root=True) as root:
        with under("b"), under("c"):
            assert root_in_force() is root
        root.change(frozenset({"d"}), "d")
        assert groups() == "d"

    assert root.acted == {"a", "b", "c", "d"}
    assert root_in_force() is None
