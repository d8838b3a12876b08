"""``python -m cmnet_cli`` is ``cmnet``."""

from cmnet_cli.app import main

main()
