"""`python -m moco` is the command `moco`."""

from moco.cli import main

raise SystemExit(main())
