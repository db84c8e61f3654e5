"""Ten thousand requests of four callers at once; the suite asks fewer."""

from __future__ import annotations

import os

import pytest

from tests.acceptance.test_callers import server, test_each_caller_sees_its_rows_only_in_thousands_of_requests_at_once

__all__ = ["server", "test_each_caller_sees_its_rows_only_in_thousands_of_requests_at_once"]

pytestmark = pytest.mark.skipif(not os.environ.get("CHAOS"), reason="`make test` asks fewer, `make chaos` all of them")
