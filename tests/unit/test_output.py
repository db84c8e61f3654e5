"""Tables for people: what they show is what they were given."""

from __future__ import annotations

from collectkit.output import table


def test_a_cell_is_shown_as_it_is_whatever_it_looks_like(capsys):
    """Names of instances and what a source said have brackets; rich would take them for styles, or fail on them."""
    texts = ["osv[crates.io]", "begins with '[/b]'", "[red]", "10:warning:", r"a\[b]"]

    table(["what"], [[text] for text in texts])

    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == ["what", *texts]
