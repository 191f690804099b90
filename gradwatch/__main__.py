"""`python -m gradwatch`: the same as the command `gradwatch`."""

from __future__ import annotations

from gradwatch.cli import main

raise SystemExit(main())
