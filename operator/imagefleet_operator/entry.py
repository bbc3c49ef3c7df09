"""`imagefleet-operator`: the console script."""

import signal
import sys


def main() -> None:
    """Run the operator."""
    # A container's first process ignores signals that it has no handler for, and the imports below take a while.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from imagefleet_operator.main import main as run

    run()


if __name__ == "__main__":
    main()
