"""`python -m trimtab` is the command `trimtab`."""

from __future__ import annotations

from trimtab.cli.app import main

main()
