"""Entry of the in-box server: only finds the modules beside it, so that those come compiled."""

import sys

sys.path[:0] = [__file__.rsplit("/", 3)[0]]

from sandbox.server.start import main  # noqa: E402  the path comes first

main(sys.argv[1:])
