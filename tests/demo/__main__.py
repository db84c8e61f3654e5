"""`make demo`: every shipped collector from its first load through news and faults, without the network.

A local server and a local git repository answer with recorded versions in place of the sources; everything else is what
`collectkit up` runs anywhere. The state is made anew each time.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from tests.demo.sources import Sources
from tests.demo.stack import ROOT, DemoFailed, Stack, fresh
from tests.demo.story import Story
from tests.replay import Replay


def main() -> None:
    """Run the demo; exit code 1 and the reason if something did not come about."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the story instead of waiting for Ctrl-C")
    parser.add_argument("--state-dir", type=Path, default=ROOT / "var" / "demo", help="emptied at the start")
    options = parser.parse_args()
    # Also where it was started with SIGINT ignored, as shells start what runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        state = options.state_dir.absolute()
        with fresh(state), Replay() as server:
            sources = Sources(server, state / "cvelist.git")
            Story(sources, Stack(state, sources.environ)).tell(stay_up=not options.once)
    except DemoFailed as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
